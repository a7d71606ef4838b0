"""Names that come from outside and become names of files: one part of a path, and nothing that acts on its own."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

LONGEST_NAME = 237
"""Bytes in UTF-8: disks take 255, and the longest ending that is added to a name, `_probabilities.tif`, has 18."""
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))]
)
"""Devices on Windows, whatever suffix follows."""
_NOT_PORTABLE = '<>:"/\\|?*'


def name_problem(name: str) -> str | None:
    """The reason that a text cannot be the name of a file of ours on this system; None where it can.

    An image file that lies in a folder has passed most of this; a name out of a file's content has not.
    """
    if not name or name in (os.curdir, os.pardir):
        return "it is no name"
    if Path(name).name != name:  # on Windows also `C:x`
        return "it holds the separator of a path"
    if any(unicodedata.category(mark) == "Cc" for mark in name):
        return "it holds control characters"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "it is not written in UTF-8"
    if length > LONGEST_NAME:
        return f"it has {length} bytes, more than the {LONGEST_NAME} that leave room for endings"
    return None


def portable_name_problem(name: str) -> str | None:
    """The same for a name that is to be one on every system; None where it is."""
    if (problem := name_problem(name)) is not None:
        return problem
    if found := sorted(set(name) & set(_NOT_PORTABLE)):
        return f"it holds {' '.join(found)}, which not every system takes in a name"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    if name.partition(".")[0].rstrip().lower() in _RESERVED:
        return "it is the name of a device on Windows"
    return None


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """The end of a name that is too long for a file; its beginning is what names have in common."""
    content = name.encode()
    return name if len(content) <= most else content[-most:].decode(errors="ignore")


def as_text(path: Path | str) -> str:
    r"""A path as text; bytes in it that are no UTF-8, as disks of old systems have them, are spelt out as `\udce9`."""
    return str(path).encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    r"""A text for a terminal: control characters, which could act on it, are spelt out as `\x1b`; lines stay lines."""
    return "".join(
        mark
        if mark in "\n\t" or unicodedata.category(mark) not in ("Cc", "Cs")
        else mark.encode("unicode_escape").decode()
        for mark in text
    )
