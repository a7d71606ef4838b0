"""The table of inputs in the documentation and the tests behind it are one list."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "inputs.md"
VERDICTS = ("**right**", "**refused**", "**told**", "**cannot be known**")
_TEST = re.compile(r"^(?:    )?def (test_\w+)", flags=re.MULTILINE)


def rows() -> list[tuple[str, list[str]]]:
    """(what MatSeg does, names of tests) of every row."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(row[2], re.findall(r"`(test_\w+)`", row[3])) for row in cells if row[0] != "input"]


def names_of_tests(folder: Path) -> set[str]:
    return {
        name for path in folder.rglob("test_*.py") for name in _TEST.findall(path.read_text(encoding="utf-8"))
    }


def test_every_row_says_what_is_done_and_names_tests_that_exist() -> None:
    known = names_of_tests(TESTS)
    assert len(rows()) > 60
    for does, names in rows():
        assert any(verdict in does for verdict in VERDICTS), does
        assert names, does
        assert set(names) <= known, set(names) - known


def test_every_test_stands_in_a_row() -> None:
    named = {name for _, names in rows() for name in names}
    own = set(_TEST.findall(Path(__file__).read_text(encoding="utf-8")))
    assert names_of_tests(Path(__file__).parent) - own <= named, (
        names_of_tests(Path(__file__).parent) - own - named
    )
