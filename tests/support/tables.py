"""CSV files as users' programs read them."""

from __future__ import annotations

import csv
from pathlib import Path


def rows_of(table: Path) -> list[dict[str, str]]:
    """A row each, by the names of its columns."""
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
