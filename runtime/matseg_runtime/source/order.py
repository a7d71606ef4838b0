"""Order of images by the numbers in their names: which follow each other, and where some are missing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

_NUMBERED = 5
_MOSTLY = 0.6
"""Images, and share of equal steps between their numbers, from which on a gap means something."""


class _Numbered(NamedTuple):
    number: int
    place: int
    """Place of the image's name among all."""


def consecutive_runs(names: Sequence[str]) -> list[list[int]]:
    """Places of images whose numbers follow each other, from gap to gap, each run in its order.

    Names belong to one series where they differ in one number. Its step is the most frequent one, or 1 where none is
    frequent. Names without a number are in no run.
    """
    runs: list[list[int]] = []
    for members in _series(names):
        steps = _steps(members)
        usual = _usual(steps) if len(steps) > 1 else 1
        usual = usual if steps.count(usual) >= _MOSTLY * len(steps) else 1
        runs.append([members[0].place])
        for step, member in zip(steps, members[1:], strict=True):
            if step != usual:
                runs.append([])
            runs[-1].append(member.place)
    return runs


def by_place(runs: Sequence[list[int]]) -> dict[int, tuple[list[int], int]]:
    """Run of each image, and its position there, in the order of the runs."""
    return {place: (run, position) for run in runs for position, place in enumerate(run)}


def around(run: Sequence[int], middle: int, context: int) -> list[int]:
    """Members of a run around the one at a position of it, `context` on either side; at its ends the last one again."""
    return [run[min(max(middle + step, 0), len(run) - 1)] for step in range(-context, context + 1)]


def numbering_gaps(names: Sequence[str]) -> str | None:
    """Describe what is missing among images that are numbered evenly but for some, as when a slice was lost.

    Pictures without a number, or with other text around it, take no part, however many they are. None where nothing is
    missing, or the names do not tell.
    """
    for members in _series(names):
        steps = _steps(members)
        jumps = [place for place, step in enumerate(steps) if step != _usual(steps)]
        if len(members) < _NUMBERED or not jumps or len(steps) - len(jumps) < _MOSTLY * len(steps):
            continue
        before, after = (names[members[jumps[0] + side].place] for side in (0, 1))
        return (
            f"the images are numbered in steps of {_usual(steps)}, but for {len(jumps)} place(s), the first between "
            f"{before} and {after}: were slices lost?"
        )
    return None


def _series(names: Sequence[str]) -> list[list[_Numbered]]:
    """Images that differ in one number of their names, the last of those that vary, ascending in it."""
    by_text: dict[tuple[str, ...], list[tuple[int, list[str]]]] = {}
    for place, name in enumerate(names):
        parts = re.split(r"([0-9]+)", name)  # text, number, text, number, ...
        if len(parts) > 1:
            by_text.setdefault(tuple(parts[::2]), []).append((place, parts[1::2]))
    series: dict[tuple[tuple[str, ...], ...], list[_Numbered]] = {}
    for texts, members in by_text.items():
        columns = list(zip(*(numbers for _, numbers in members), strict=True))
        counting = max((n for n, column in enumerate(columns) if len(set(column)) > 1), default=-1)
        for place, numbers in members:
            number = int(numbers.pop(counting))
            series.setdefault((texts, tuple(numbers)), []).append(_Numbered(number, place))
    return [sorted(members) for members in series.values()]


def _steps(members: Sequence[_Numbered]) -> list[int]:
    return [after.number - before.number for before, after in itertools.pairwise(members)]


def _usual(steps: Sequence[int]) -> int:
    """The most frequent step, the smallest of several."""
    return max(sorted(set(steps)), key=steps.count, default=1)
