"""Table of the values of label images that stand for each class.

A single label image may lack classes (one that is wholly class 2 must not become class 0), so the table of classes is
made over all of them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from matseg_shared.contract.classes import UNLABELLED, LabelValue, Legend, free_value, repeated
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, problems_of
from matseg_shared.images.palette import Colour, default_colours
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.labels import LabelKind, LabelScan, Values, is_counted, packed, unpack
from matseg_trainer.data.mapped import row_bands

MAX_MOVED = 2.0
"""Percentage of an image's pixels that may be taken for the nearest class, unless another is asked for."""
_BRIGHT = 128
"""Grey labels whose largest value is at least this are meant to be looked at; 0, 1, 2 are not."""
_STRAY = 0.001
"""Values with at most this share of an image's pixels may be slips there."""
_SLIPS = 4
"""Values of hardly any pixels in an image, at most, that are slips and not blends of an anti-aliased brush."""
_ALIKE = 0.02
"""Codes of one class lie at most this part of the span of all values apart."""
_HEAVY = 0.1
"""A value with more than this part of the pixels of the smallest class is no slip."""
_SPARSE = 0.25
"""Share of an image that is not 0, below which it may be brush strokes on nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassTable:
    """The values of a data set's label images and the classes they stand for."""

    kind: LabelKind
    legend: Legend
    colours: tuple[tuple[int, Colour], ...] = ()
    """RGB per palette index that occurs; empty for other kinds."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """In the order of their indices."""
        return self.legend.classes

    @property
    def known(self) -> dict[int, int]:
        """Class index of each value that is named, 255 of unlabelled ones; of colours, 0xRRGGBB."""
        named = [*enumerate(self.legend.values), (UNLABELLED, self.legend.unlabelled)]
        return {packed(value): index for index, values in named for value in values}

    def shown(self, value: int) -> str:
        """A value as its user knows it."""
        return str(_label_value(self.kind, value))

    def strays(self, scans: Sequence[LabelScan]) -> tuple[LabelScan, ...]:
        """Every label image that holds values of no class, with these values alone."""
        if self.legend.rest is not None:
            return ()
        strange = [(scan, ~np.isin(scan.values, list(self.known))) for scan in scans]
        return tuple(
            dataclasses.replace(scan, values=scan.values[which], counts=scan.counts[which], colours=())
            for scan, which in strange
            if which.any()
        )

    def nearest(self, values: Values) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_]]:
        """Nearest class of each of (K,) values, how far its value is, and if that is near.

        Distance is Euclidean, between values or colours; near is at most half of the way from the known value to the
        next that stands for something else. Of two that are equally far, the lower class.
        """
        indices = np.array(list(self.known.values()), np.uint8)
        named = self._vectors(np.array(list(self.known), np.int64))
        apart = np.linalg.norm(self._vectors(values)[:, np.newaxis] - named, axis=-1)
        between = np.linalg.norm(named[:, np.newaxis] - named, axis=-1)
        between[indices[:, np.newaxis] == indices] = np.inf
        place, distance = apart.argmin(axis=1), apart.min(axis=1)
        return indices[place], distance, distance <= between.min(axis=1)[place] / 2

    def encode(self, values: Values) -> NDArray[np.uint8]:
        """(H, W) values to (H, W) uint8 class indices, 255 for unlabelled; a value of no class goes to the nearest."""
        labels = np.empty(values.shape, np.uint8)
        for rows in row_bands(values.shape):
            labels[rows] = self._encode(values[rows])
        return labels

    def _encode(self, values: Values) -> NDArray[np.uint8]:
        if is_counted(values):
            present = np.flatnonzero(np.bincount(values.ravel()))
            table = np.zeros(present[-1] + 1, np.uint8)
            table[present] = self._indices(present)
            return table[values]
        present, inverse = np.unique(values, return_inverse=True)
        return self._indices(present)[inverse].reshape(values.shape)

    def _indices(self, values: Values) -> NDArray[np.uint8]:
        """(N,) class indices of different values."""
        known, rest = self.known, self.legend.rest
        others = self.nearest(values)[0].tolist() if rest is None else [rest] * len(values)
        found = [known.get(value, other) for value, other in zip(values.tolist(), others, strict=True)]
        return np.array(found, np.uint8)

    def differing(self, values: Values, labels: NDArray[np.uint8]) -> int:
        """Pixels of a label array that are not what their (H, W) values stand for; values of no class say nothing."""
        if values.shape != labels.shape:
            return values.size
        total = 0
        for rows in row_bands(values.shape):
            changed = self._encode(values[rows]) != labels[rows]
            if self.legend.rest is None:
                changed &= np.isin(values[rows], list(self.known))
            total += int(changed.sum())
        return total

    def _vectors(self, values: Values) -> NDArray[np.float64]:
        if self.kind in ("grey", "value"):
            return values[:, np.newaxis].astype(np.float64)
        if self.kind == "colour":
            return np.stack(unpack(values), axis=-1).astype(np.float64)
        known = dict(self.colours)
        return np.array([known.get(value, (0, 0, 0)) for value in values.tolist()], np.float64)


def _label_value(kind: LabelKind, value: int) -> LabelValue:
    return unpack(value) if kind == "colour" else value


def table_from_scans(
    kind: LabelKind,
    scans: Sequence[LabelScan],
    n_class: int,
    where: Path,
    unlabelled: tuple[LabelValue, ...] = (),
    *,
    nearest: bool = False,
) -> ClassTable:
    """The `n_class` most frequent values of the label images of all splits, but the `unlabelled`, in ascending order.

    With `nearest`, codes of one class that differ a little from image to image are all taken for it.

    Raises:
        DatasetError: there are fewer values than classes, and they are not class indices already.
    """
    totals = total_counts(scans)
    blank = {packed(value) for value in unlabelled}
    values = [value for value in sorted(totals) if value not in blank]
    indices = [value for value in range(n_class + len(blank)) if value not in blank][:n_class]
    several: dict[int, list[int]] = {}
    if len(values) > n_class:
        groups = codes(scans, blank) if nearest and kind in ("grey", "value") else {}
        several = groups if len(groups) >= n_class else {value: [value] for value in values}
        values = sorted(sorted(several, key=lambda value: -totals[value])[:n_class])
    elif kind != "colour" and set(values) <= set(indices):
        values = indices
    elif len(values) < n_class:
        shown = ", ".join(str(_label_value(kind, value)) for value in values)
        raise DatasetError(
            f"{where}: expected {n_class} classes in its label images, found only {len(values)} value(s): {shown}; "
            f"use --classes {len(values)}, or write a classes.toml with all {n_class} classes"
        )
    colours = palette_colours(scans)
    names = [f"class {index}" for index in range(n_class)]
    found = [tuple(_label_value(kind, one) for one in several.get(value, [value])) for value in values]
    return ClassTable(
        kind=kind, legend=make_legend(kind, names, found, unlabelled, dict(colours)), colours=colours
    )


def total_counts(scans: Sequence[LabelScan]) -> dict[int, int]:
    """Pixels of each value in all label images together."""
    totals: Counter[int] = Counter()
    for scan in scans:
        totals.update(dict(zip(scan.values.tolist(), scan.counts.tolist(), strict=True)))
    return dict(totals)


def main_values(scans: Sequence[LabelScan]) -> dict[int, set[int]]:
    """Values with more than 0.1 % of an image's pixels, and the positions of those images."""
    places: dict[int, set[int]] = {}
    for number, scan in enumerate(scans):
        for value in scan.values[scan.shares > _STRAY].tolist():
            places.setdefault(value, set()).add(number)
    return places


def codes(scans: Sequence[LabelScan], blank: set[int]) -> dict[int, list[int]]:
    """Main values, those together that are nearly the same and never in one image, under the most frequent of them.

    Args:
        scans: label images of grey values.
        blank: values that stand for no class.
    """
    places, totals = main_values(scans), total_counts(scans)
    alike = (max(totals) - min(totals)) * _ALIKE
    groups: dict[int, list[int]] = {}
    for value in sorted(set(places) - blank, key=lambda value: -totals[value]):
        same = [
            first
            for first, group in groups.items()
            if abs(first - value) <= alike and not any(places[one] & places[value] for one in group)
        ]
        groups.setdefault(min(same, key=lambda first: abs(first - value), default=value), []).append(value)
    return groups


def count_classes(kind: LabelKind, scans: Sequence[LabelScan], blank: set[int]) -> int:
    """Number of classes that label images show: their main values, codes of one class counted once.

    Where values count up from 0 without a gap (slips leave one) and most are main ones (numbers of particles are not),
    the rarer ones are classes, too. Images drawn with an anti-aliased brush, which leaves many values of hardly any
    pixels, do not count among others.
    """
    values, main = total_counts(scans).keys() - blank, main_values(scans).keys() - blank
    has_gap = max(values, default=0) >= len(values) + (0 in blank)
    if kind != "colour" and not has_gap and len(values) < 2 * len(main):
        return len(values)
    sharp = [scan for scan in scans if np.isin(scan.values, list(main | blank), invert=True).sum() <= _SLIPS]
    counted = sharp if len(main_values(sharp).keys() - blank) > 1 else scans
    return len(codes(counted, blank) if kind in ("grey", "value") else main_values(counted).keys() - blank)


def make_legend(
    kind: LabelKind,
    names: Sequence[str],
    values: Sequence[tuple[LabelValue, ...]],
    unlabelled: tuple[LabelValue, ...],
    palette: dict[int, Colour],
) -> Legend:
    """A legend with colours for its classes.

    Raises:
        DatasetError: a name cannot be one, or a name or value stands for two things; lists all of it.
    """
    free = free_value({value for some in (*values, unlabelled) for value in some})
    first = [some[0] if some else free for some in values]
    drawn = _class_colours(kind, first, palette)
    try:
        classes = tuple(
            ClassInfo(index=index, name=name, colour=drawn[index], label_value=first[index])
            for index, name in enumerate(names)
        )
    except ValidationError as error:
        raise DatasetError(f"--class: {problems_of(error)[0].message}") from error
    if problems := repeated(classes, values, unlabelled):
        raise DatasetError("\n  - ".join(["expected one class for each value", *map(str, problems)]))
    return Legend(classes=classes, values=tuple(values), unlabelled=unlabelled)


def table_from_legend(kind: LabelKind, scans: Sequence[LabelScan], legend: Legend, where: Path) -> ClassTable:
    """The table that a `classes.toml` fixes.

    Raises:
        DatasetError: it has colours where the label images are grey or indexed, or the other way round.
    """
    if legend.has_colours != (kind == "colour"):
        expected = "RGB colours" if kind == "colour" else "whole numbers"
        raise DatasetError(
            f"{where}: expected {expected} as label_value, for the label images are {kind} images; "
            "correct it, or remove the file to have it made anew"
        )
    return ClassTable(kind=kind, legend=legend, colours=palette_colours(scans))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strays:
    """The label images with values of no class, and what taking the nearest class would do to them."""

    table: ClassTable
    images: tuple[LabelScan, ...]
    """With these values alone."""
    heavy: frozenset[int]
    """Values of so many pixels that they stand for something."""
    hints: tuple[str, ...]
    """Values that may mean that nobody labelled the pixels, with the option that says so."""
    ambiguous: bool
    """255 stands beside 0, 1, ..., so that those values may be classes, or slips for 0 and 255."""
    max_moved: float
    """The largest share of an image's pixels that may be moved, in percent."""

    @classmethod
    def find(cls, table: ClassTable, scans: Sequence[LabelScan], max_moved: float) -> Strays:
        """Those of all label images of a data set."""
        images, totals = table.strays(scans), total_counts(scans)
        heavy = _heavy(table, totals) if images else frozenset()
        looks = _look_unlabelled(table, scans, totals, heavy)
        pixels = sum(totals.values())
        words = {value: table.shown(value).strip("()").replace(" ", "") for value in looks}
        hints = tuple(
            f"value {shown} has {totals[value] / pixels:.1%} of the pixels; if it means that nobody labelled them, add "
            f"--unlabelled {shown}"
            for value, shown in words.items()
        )
        ambiguous = UNLABELLED in looks
        return cls(
            table=table, images=images, heavy=heavy, hints=hints, ambiguous=ambiguous, max_moved=max_moved
        )

    def refused(self, scan: LabelScan) -> list[str]:
        """Reasons for which the nearest class is not taken in one of the images."""
        far = scan.values[~self.table.nearest(scan.values)[2]].tolist()
        heavy = [value for value in scan.values.tolist() if value in self.heavy and value not in far]
        too_much = 100 * scan.shares.sum() > self.max_moved
        return [
            *([f"near to no class: {self._listed(far)}"] if far else []),
            *([f"of so many pixels that it stands for something: {self._listed(heavy)}"] if heavy else []),
            *([f"more than --max-moved {self.max_moved:.3g}%"] if too_much else []),
        ]

    @property
    def can_move(self) -> bool:
        """The nearest class may be taken for all of them; not where 255 beside 0, 1, ... may be no class."""
        return not self.ambiguous and not any(self.refused(scan) for scan in self.images)

    def message(self, where: Path) -> str:
        """Every image with more values than classes, its values and their pixels, and the ways out."""
        known = self._listed(self.table.known)
        lines = []
        for scan in self.images:
            order = np.argsort(-scan.counts, kind="stable")
            pairs = zip(scan.values[order].tolist(), scan.counts[order].tolist(), strict=True)
            listed = shorten([f"{self.table.shown(value)} ({pixels})" for value, pixels in pairs])
            move = "; ".join(
                [f"--nearest would move {scan.shares.sum():.2%} of the image", *self.refused(scan)]
            )
            lines.append(f"  - {scan.path}: {scan.pixels} pixel(s), value (pixels): {listed}; {move}\n")
        lines += [f"{hint}\n" for hint in self.hints]
        if any(scan.path.suffix.lower() in (".jpg", ".jpeg") for scan in self.images):
            lines.append("JPEG changes values: save label images as PNG or TIFF\n")
        return (
            f"{where}: expected {len(self.table.classes)} classes (values {known}), found other values in "
            f"{len(self.images)} label image(s)\n{''.join(lines)}"
            "give the right number with --classes, or with --class NAME=VALUE what stands for each class (`rest`: all "
            "other values), correct the label images, or add --nearest, which takes the nearest class for a value that "
            "is near to it; nothing was written"
        )

    def _listed(self, values: Iterable[int]) -> str:
        return shorten([self.table.shown(value) for value in values])


def _heavy(table: ClassTable, totals: dict[int, int]) -> frozenset[int]:
    """Values of no class with many pixels beside the smallest class, what would be moved to it included."""
    values, counts = np.array([*totals]), np.array([*totals.values()])
    sizes = np.bincount(table.nearest(values)[0], weights=counts)[: len(table.classes)]
    smallest = sizes[sizes > 0].min(initial=np.inf)
    return frozenset(values[counts > _HEAVY * smallest].tolist()) - set(table.known)


def _look_unlabelled(
    table: ClassTable, scans: Sequence[LabelScan], totals: dict[int, int], heavy: frozenset[int]
) -> list[int]:
    """Values that may mean that nobody labelled the pixels: 255 beside 0, 1, ..., and 0 where most of an image is 0."""
    if table.legend.unlabelled or table.legend.rest is not None:
        return []
    indices = set(totals) - {UNLABELLED}
    is_numbered = len(indices) > 1 and indices == set(range(len(indices)))
    looks = [UNLABELLED] if table.kind != "colour" and UNLABELLED in totals and is_numbered else []
    values = np.array([*totals])
    far = set(values[~table.nearest(values)[2]].tolist())
    sparse = [scan for scan in scans if scan.shares[scan.values == 0].sum() > 1 - _SPARSE]
    if len(set(totals) & (set(table.known) | far | heavy)) > 2 and len(sparse) > len(scans) / 2:
        looks.append(0)
    return looks


def palette_colours(scans: Sequence[LabelScan]) -> tuple[tuple[int, Colour], ...]:
    """RGB per palette index that occurs; empty for other kinds."""
    pairs = {
        value: colour
        for scan in scans
        if scan.colours
        for value, colour in zip(scan.values.tolist(), scan.colours, strict=True)
    }
    return tuple(sorted(pairs.items()))


def _class_colours(kind: LabelKind, values: Sequence[LabelValue], palette: dict[int, Colour]) -> list[Colour]:
    default = default_colours(len(values))
    numbers = [value for value in values if isinstance(value, int)]
    if kind != "palette" and numbers and _BRIGHT <= max(numbers) <= 255 and min(numbers) >= 0:
        return [(value, value, value) for value in numbers]
    return [
        palette.get(value, default[index]) if isinstance(value, int) else value
        for index, value in enumerate(values)
    ]
