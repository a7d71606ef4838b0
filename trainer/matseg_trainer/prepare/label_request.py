"""Meaning of label images: what stands for each class, what for unlabelled pixels, and what is put right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from matseg_shared.contract.classes import LabelValue, Legend
from matseg_shared.errors import DatasetError, UsageError
from matseg_trainer.data.class_table import (
    MAX_MOVED,
    ClassTable,
    make_legend,
    palette_colours,
    table_from_legend,
    table_from_scans,
)
from matseg_trainer.data.labels import LabelKind, LabelScan

_REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest:
    """Meaning of label images, as the user gives it."""

    n_class: int
    classes: tuple[tuple[str, LabelValue | None], ...] = ()
    """Names, in the order of the classes, each with a value that stands for it (None: all other values); empty: the
    most frequent values are the classes."""
    unlabelled: tuple[LabelValue, ...] = ()
    existing: Literal["refuse", "append", "overwrite"] = "refuse"
    """Treatment of label arrays that are there already."""
    nearest: bool = False
    """Take a value of no class for the nearest class, where that is near."""
    max_moved: float = MAX_MOVED
    """The largest share of an image's pixels that `nearest` may move, in percent."""


def parse_value(text: str) -> LabelValue:
    """Read `255` or `255,0,0`.

    Raises:
        UsageError: it is neither.
    """
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*-?\d{1,15}\s*", part) for part in parts) or len(parts) not in (1, 3):
        raise UsageError(f"{text!r}: expected a label value as in 255, or a colour as in 255,0,0")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1:
        return numbers[0]
    if not all(0 <= number <= 255 for number in numbers):
        raise UsageError(f"{text!r}: expected a colour of three numbers from 0 to 255")
    return numbers[0], numbers[1], numbers[2]


def parse_class(text: str) -> tuple[str, LabelValue | None]:
    """Read `NAME=VALUE`, where the value may be `rest`.

    Raises:
        UsageError: it is anything else.
    """
    name, sign, value = text.rpartition("=")
    if not sign or not name.strip():
        raise UsageError(f"{text!r}: expected NAME=VALUE, NAME=R,G,B or NAME={_REST}")
    return name.strip(), None if value.strip() == _REST else parse_value(value)


def parse_percent(text: str) -> float:
    """Read `2%` or `2`.

    Raises:
        UsageError: it is no number from 0 to 100.
    """
    if re.fullmatch(r"\d{1,3}(\.\d+)?%?", text.strip()) and (percent := float(text.strip(" %"))) <= 100:
        return percent
    raise UsageError(f"{text!r}: expected a percentage as in 2%")


def make_table(
    request: LabelRequest, kind: LabelKind, scans: Sequence[LabelScan], legend: Legend | None, where: Path
) -> ClassTable:
    """The classes of a data set: as `legend` has them, as the request names them, or the most frequent values.

    `legend` is what the `classes.toml` at `where` says, None without one; `scans` are those of all splits.

    Raises:
        DatasetError: the label images have other values than that, or request and legend contradict each other.
        UsageError: something said has colours where the label images have none.
    """
    unlabelled = tuple(as_kind(value, kind) for value in request.unlabelled)
    named: dict[str, list[LabelValue]] = {}
    for name, value in request.classes:
        named.setdefault(name, []).extend([] if value is None else [as_kind(value, kind)])
    if request.classes and len(named) != request.n_class:
        raise UsageError(
            f"expected {request.n_class} classes (--classes), found {len(named)} named with --class"
        )
    both = [name for name, value in request.classes if value is None and named[name]]
    if both:
        raise UsageError(
            f"--class {both[0]}={_REST}: expected no other value of {both[0]!r}; leave one of the two out"
        )
    values = [tuple(found) for found in named.values()]
    if legend is None:
        if not named:
            return table_from_scans(
                kind, scans, request.n_class, where.parent, unlabelled, nearest=request.nearest
            )
        legend = make_legend(kind, list(named), values, unlabelled, dict(palette_colours(scans)))
        return table_from_legend(kind, scans, legend, where)
    table = table_from_legend(kind, scans, _extended(legend, unlabelled, where), where)
    same = [item.name for item in legend.classes] == list(named) and list(legend.values) == values
    if len(legend.classes) != request.n_class or (named and not same):
        raise DatasetError(
            f"{where}: expected {request.n_class} classes (from --class, --classes or config.toml), found "
            f"{len(legend.classes)}{' others' if named else ''}; make them agree, or remove the file to have it made "
            "anew"
        )
    return table


def _extended(legend: Legend, unlabelled: tuple[LabelValue, ...], where: Path) -> Legend:
    """With the unlabelled values where it has none."""
    taken = [value for value in unlabelled if any(value in some for some in legend.values)]
    if taken or (unlabelled and legend.unlabelled and set(unlabelled) != set(legend.unlabelled)):
        found = f"classes with the values {taken}" if taken else str(list(legend.unlabelled))
        raise DatasetError(
            f"{where}: expected {list(unlabelled)} (--unlabelled) as what stands for unlabelled pixels, found {found}; "
            "correct it, or remove the file to have it made anew"
        )
    return replace(legend, unlabelled=legend.unlabelled or unlabelled)


def as_kind(value: LabelValue, kind: LabelKind) -> LabelValue:
    """A shade of grey as a colour, and the other way round, where label images need it.

    Raises:
        UsageError: it is a colour, and they are grey.
    """
    if isinstance(value, int):
        return (value, value, value) if kind == "colour" and 0 <= value <= 255 else value
    if kind != "colour" and len(set(value)) > 1:
        raise UsageError(
            f"{','.join(map(str, value))}: expected a whole number, for the label images are {kind} images; found a "
            "colour"
        )
    return value if kind == "colour" else value[0]
