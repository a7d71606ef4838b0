"""Amounts of bytes, and numbers as such, as people write and read them."""

from __future__ import annotations

import re

from matseg_shared.errors import UsageError

_SIZE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_size(text: str, name: str = "--memory") -> int:
    """Bytes of `2GB`, `500M` or `1.5 GiB`.

    Args:
        text: the size.
        name: what it was given as, for the error.

    Raises:
        UsageError: no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{name} {text}: expected a size such as 2GB or 500MB")
    factor = _SIZE_UNITS[match[2].upper()]
    if match[3]:
        factor = 1 << (10 * list(_SIZE_UNITS).index(match[2].upper()))
    return int(float(match[1]) * factor)


def format_size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def exact(number: float) -> str:
    """As short as can be without becoming another number: what is compared as text must differ where numbers do."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
