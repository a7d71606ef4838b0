"""Small things that every page shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A name and a value, for tiles and for lists."""

    name: str
    value: str
    note: str = ""
    """Beside or under the value, smaller."""
    code: bool = False
    """A path, a hash or the like."""
