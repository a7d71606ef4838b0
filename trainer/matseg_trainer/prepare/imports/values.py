"""Values of labels as classes: those that people mean, and what becomes of stray ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from matseg_shared.contract.classes import CLASSES_NAME, LabelValue
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError
from matseg_trainer.data.class_table import (
    MAX_MOVED,
    ClassTable,
    Strays,
    codes,
    main_values,
    total_counts,
)
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.labels import LabelScan
from matseg_trainer.prepare.imports.base import ImportRequest
from matseg_trainer.prepare.label_request import LabelRequest, make_table

_MOST_VALUES = 255
_BRIGHT = 128
"""Values below it number the classes: a rare one is meant, and 255 is no number among them."""
_OFTEN = 1 << 40
"""Pixels of what is known, so that values near to it are its own."""
_NAME = "label {}"
_NAMED = re.compile(_NAME.format(r"(-?\d+)"))


def value_table(
    scans: Sequence[LabelScan],
    request: ImportRequest,
    blank: tuple[LabelValue, ...],
    known: Sequence[ClassInfo],
    where: str,
) -> tuple[ClassTable, list[str]]:
    """The classes of label values, and notes on values that may mean something else.

    Args:
        scans: of what is labelled.
        request: what the user says of classes.
        blank: values or colours that mean that nobody labelled a pixel.
        known: classes that are there already.
        where: the labels, named in errors.

    Raises:
        DatasetError: there are stray values of which nothing says what they are, or too many values for classes.
        UsageError: a class is said to be a colour.
    """
    table = _table(scans, request, blank, known, where)
    strays = Strays.find(table, scans, request.max_moved)
    if strays.images and not (request.nearest and strays.can_move):
        joined = _table(scans, replace(request, nearest=True), blank, known, where)
        moved = Strays.find(joined, scans, request.max_moved)  # what --nearest would do
        raise DatasetError((moved if moved.images else strays).message(Path(where)))
    doubts = _doubts(total_counts(scans)) if table.kind == "grey" else []
    return table, [*_notes(table, strays, scans, request), *doubts]


def _table(
    scans: Sequence[LabelScan],
    request: ImportRequest,
    blank: tuple[LabelValue, ...],
    known: Sequence[ClassInfo],
    where: str,
) -> ClassTable:
    """Classes as the user names or counts them, as they are called already, or those that values stand for."""
    named: Sequence[tuple[str, LabelValue | None]] = request.named
    numbers = [int(found[1]) for item in known if (found := _NAMED.fullmatch(item.name))]
    numbers = numbers if len(numbers) == len(known) else []
    n_class = None if numbers else request.classes
    if not named and n_class is None:
        groups = _groups(scans, request, numbers, where)
        named = [(_NAME.format(first), value) for first in sorted(groups) for value in groups[first]]
    wanted = LabelRequest(
        n_class=n_class or len(dict(named)),
        classes=tuple(named),
        unlabelled=blank,
        nearest=request.nearest,
    )
    table = make_table(wanted, scans[0].kind, scans, None, Path(where, CLASSES_NAME))
    if named:
        return table
    legend = table.legend
    classes = tuple(
        item.model_copy(update={"name": _NAME.format(values[0])})
        for item, values in zip(legend.classes, legend.values, strict=True)
    )
    return replace(table, legend=replace(legend, classes=classes))


def _groups(
    scans: Sequence[LabelScan], request: ImportRequest, numbers: list[int], where: str
) -> dict[int, list[int]]:
    """Values of each class under the one that it is called by; `numbers`: what classes are called already."""
    totals, mains = total_counts(scans), main_values(scans)
    is_numbered = max([*totals, *numbers]) < _BRIGHT
    if request.nearest and not is_numbered:
        seen = LabelScan(
            path=Path(where),
            kind="grey",
            shape=(1, _OFTEN),
            values=np.array(numbers, np.int64),
            counts=np.full(len(numbers), _OFTEN),
        )
        groups = codes([seen, *scans], set())
    else:
        values = numbers or (totals if is_numbered and not request.nearest else mains)
        groups = {value: [value] for value in values}
    if numbers:
        return {number: groups[number] for number in numbers}
    others = sum(totals.values()) - sum(totals[value] for some in groups.values() for value in some)
    are_many = len(totals) > _MOST_VALUES and 100 * others > MAX_MOVED * sum(totals.values())
    if are_many or len(groups) > _MOST_VALUES:
        raise DatasetError(
            f"{where}: expected at most {_MOST_VALUES} values, one per class, found {len(totals)}; are they numbers of "
            "single particles? Label phases instead"
        )
    return groups


def _notes(
    table: ClassTable, strays: Strays, scans: Sequence[LabelScan], request: ImportRequest
) -> Iterator[str]:
    if strays.images:
        pixels = sum(image.pixels for image in strays.images)
        values = {value for image in strays.images for value in image.values.tolist()}
        farthest = max(table.nearest(image.values)[1].max() for image in strays.images)
        yield (
            f"{pixels} pixel(s) of {len(values)} stray value(s) in {len(strays.images)} label image(s) were taken for "
            f"the nearest class, at most {farthest:.4g} away"
        )
    if request.named or request.classes:
        return
    if alike := [" and ".join(map(str, some)) for some in table.legend.values if len(some) > 1]:
        yield f"values that differ a little from image to image became one class: {shorten(alike)}"
    totals, mains = total_counts(scans), main_values(scans)
    known = [value for some in table.legend.values for value in some if isinstance(value, int)]
    if rare := [f"{value} ({totals[value]})" for value in known if value in totals and value not in mains]:
        yield (
            f"rare values became classes, too, value (pixels): {shorten(rare)}; where they are slips, correct them, or "
            "say with --class NAME=VALUE which values each class has"
        )


def _doubts(totals: dict[int, int]) -> list[str]:
    """Values that became classes and look as if they meant that nobody labelled a pixel."""
    others = totals.keys() - {0, 255}
    is_blank = {
        0: others == set(range(1, len(others) + 1)),
        255: max(totals.keys() - {255}, default=0) < _BRIGHT,
    }
    return [
        f"value {value} ({totals[value] / sum(totals.values()):.1%} of the pixels of these slices) became a class; "
        f"where it means that nobody labelled a pixel, add --unlabelled {value}"
        for value in is_blank
        if len(totals) > 2 and value in totals and is_blank[value]
    ]
