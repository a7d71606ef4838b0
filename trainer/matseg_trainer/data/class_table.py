"""Which label value stands for which class, decided once for a whole data set.

A single label image may lack classes (one that is wholly class 2 must not become class 0), so the table is made
over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError
from matseg_shared.images.palette import Colour, default_colours
from matseg_trainer.data.label_images import LabelKind, LabelScan, Values, pack, unpack

_BRIGHT = 128
"""Grey labels whose largest value is at least this are meant to be looked at; 0, 1, 2 are not."""
_NAMED_VALUES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayValue:
    """A value in one label image that stands for no class."""

    value: int
    pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayImage:
    """A label image with more values than classes."""

    path: Path
    strays: tuple[StrayValue, ...]

    @property
    def pixels(self) -> int:
        """Pixels that stand for no class."""
        return sum(stray.pixels for stray in self.strays)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassTable:
    """The values of a data set's label images and the classes they stand for."""

    kind: LabelKind
    classes: tuple[ClassInfo, ...]
    colours: tuple[tuple[int, Colour], ...] = ()
    """RGB per palette index that occurs; empty for other kinds."""

    @property
    def values(self) -> Values:
        """(K,) the value of each class; of colours, 0xRRGGBB."""
        return np.array([_value_of(item) for item in self.classes], dtype=np.int64)

    def shown(self, value: int) -> str:
        """A value as its user knows it."""
        return str(unpack(value)) if self.kind == "colour" else str(value)

    def strays(self, scans: Sequence[LabelScan]) -> tuple[StrayImage, ...]:
        """Every label image that holds values of no class."""
        known = self.values
        images = []
        for scan in scans:
            strange = ~np.isin(scan.values, known)
            if strange.any():
                pairs = zip(scan.values[strange].tolist(), scan.counts[strange].tolist(), strict=True)
                strays = tuple(StrayValue(value=value, pixels=count) for value, count in pairs)
                images.append(StrayImage(path=scan.path, strays=strays))
        return tuple(images)

    def encode(self, values: Values) -> NDArray[np.uint8]:
        """(H, W) values to (H, W) uint8 class indices; a value of no class goes to the nearest one.

        Nearest means Euclidean distance between the values (of palette images: their colours); the lower class wins.
        """
        present, inverse = np.unique(values, return_inverse=True)
        distance = np.linalg.norm(
            self._vectors(present)[:, np.newaxis] - self._vectors(self.values)[np.newaxis], axis=-1
        )
        exact = present[:, np.newaxis] == self.values[np.newaxis]
        distance[exact] = -1.0  # two palette indices may share a colour
        nearest: NDArray[np.uint8] = distance.argmin(axis=1).astype(np.uint8)
        return nearest[inverse].reshape(values.shape)

    def _vectors(self, values: Values) -> NDArray[np.float64]:
        if self.kind in ("grey", "value"):
            return values[:, np.newaxis].astype(np.float64)
        known = dict(self.colours)
        return np.array(
            [
                unpack(value) if self.kind == "colour" else known.get(value, (0, 0, 0))
                for value in values.tolist()
            ],
            dtype=np.float64,
        )


def _value_of(item: ClassInfo) -> int:
    if isinstance(item.label_value, int):
        return item.label_value
    return int(pack(np.array(item.label_value)))


def table_from_scans(kind: LabelKind, scans: Sequence[LabelScan], n_class: int, where: Path) -> ClassTable:
    """The `n_class` most frequent values in ascending order.

    Args:
        kind: of all `scans`.
        scans: the label images of all splits.
        n_class: number of classes.
        where: the data set, named in errors.

    Raises:
        DatasetError: there are fewer values than classes, and they are not class indices already.
    """
    values, counts = _totals(scans)
    colours = _palette_colours(scans)
    if len(values) > n_class:
        values = np.sort(values[np.argsort(-counts, kind="stable")[:n_class]])
    elif kind != "colour" and values[-1] < n_class:
        values = np.arange(n_class, dtype=np.int64)
    elif len(values) < n_class:
        shown = ", ".join(str(unpack(value)) if kind == "colour" else str(value) for value in values.tolist())
        raise DatasetError(
            f"{where}: expected {n_class} classes in its label images, found only {len(values)} value(s): {shown}; "
            f"use --classes {len(values)}, or write a classes.toml with all {n_class} classes"
        )
    drawn = _class_colours(kind, values, dict(colours))
    return ClassTable(
        kind=kind,
        classes=tuple(
            ClassInfo(
                index=index,
                name=f"class {index}",
                colour=drawn[index],
                label_value=unpack(value) if kind == "colour" else value,
            )
            for index, value in enumerate(values.tolist())
        ),
        colours=colours,
    )


def table_from_classes(
    kind: LabelKind, scans: Sequence[LabelScan], classes: tuple[ClassInfo, ...], where: Path
) -> ClassTable:
    """The table that a `classes.toml` fixes.

    Args:
        kind: of all `scans`.
        scans: the label images of all splits.
        classes: as `classes.toml` has them.
        where: the `classes.toml`, named in errors.

    Raises:
        DatasetError: it has colours where the label images are grey or indexed, or the other way round.
    """
    has_colours = not isinstance(classes[0].label_value, int)
    if has_colours != (kind == "colour"):
        expected = "RGB colours" if kind == "colour" else "whole numbers"
        raise DatasetError(
            f"{where}: expected {expected} as label_value, for the label images are {kind} images; "
            "correct it, or remove the file to have it made anew"
        )
    return ClassTable(kind=kind, classes=classes, colours=_palette_colours(scans))


def stray_message(table: ClassTable, strays: Sequence[StrayImage], where: Path) -> str:
    """Names every image with more values than classes, its values and their pixels, and the ways out."""
    known = ", ".join(table.shown(value) for value in table.values.tolist())
    lines = [
        f"{where}: expected {len(table.classes)} classes (values {known}), found other values in "
        f"{len(strays)} label image(s)"
    ]
    for image in strays:
        shown = [f"{table.shown(stray.value)} ({stray.pixels})" for stray in image.strays[:_NAMED_VALUES]]
        rest = len(image.strays) - len(shown)
        more = f" and {rest} more values" if rest else ""
        lines.append(f"  - {image.path}: {image.pixels} pixel(s), value (pixels): {', '.join(shown)}{more}")
    lines.append(
        "give the right number with --classes, correct the label images, or add --nearest, which takes such a value "
        "for the nearest class; nothing was written"
    )
    return "\n".join(lines)


def _totals(scans: Sequence[LabelScan]) -> tuple[Values, Values]:
    values, inverse = np.unique(np.concatenate([scan.values for scan in scans]), return_inverse=True)
    counts = np.bincount(inverse, weights=np.concatenate([scan.counts for scan in scans]))
    return values, counts.astype(np.int64)


def _palette_colours(scans: Sequence[LabelScan]) -> tuple[tuple[int, Colour], ...]:
    pairs = {
        value: colour
        for scan in scans
        if scan.colours
        for value, colour in zip(scan.values.tolist(), scan.colours, strict=True)
    }
    return tuple(sorted(pairs.items()))


def _class_colours(kind: LabelKind, values: Values, palette: dict[int, Colour]) -> tuple[Colour, ...]:
    default = default_colours(len(values))
    if kind == "colour":
        return tuple(unpack(value) for value in values.tolist())
    if kind == "palette":
        return tuple(palette.get(value, default[index]) for index, value in enumerate(values.tolist()))
    if _BRIGHT <= values[-1] <= 255:
        return tuple((value, value, value) for value in values.tolist())
    return default
