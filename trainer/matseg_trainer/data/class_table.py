"""Which values of label images stand for which class.

A single label image may lack classes (one that is wholly class 2 must not become class 0), so the table of classes is
made over all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED, Legend
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError
from matseg_shared.images.palette import Colour, default_colours
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.labels import LabelKind, LabelScan, Values, packed, unpack

_BRIGHT = 128
"""Grey labels whose largest value is at least this are meant to be looked at; 0, 1, 2 are not."""


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
        return _shown(self.kind, value)

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

    def encode(self, values: Values) -> NDArray[np.uint8]:
        """(H, W) values to (H, W) uint8 class indices, 255 for unlabelled; a value of no class goes to the nearest one.

        Nearest means Euclidean distance between the values (of palette images: their colours); the lower class wins.
        """
        known, rest = self.known, self.legend.rest
        present, inverse = np.unique(values, return_inverse=True)
        named = np.array(list(known), np.int64)
        apart = self._vectors(present)[:, np.newaxis] - self._vectors(named)[np.newaxis]
        nearest = np.array(list(known.values()), np.uint8)[np.linalg.norm(apart, axis=-1).argmin(axis=1)]
        indices = [
            known.get(value, near if rest is None else rest)
            for value, near in zip(present.tolist(), nearest.tolist(), strict=True)
        ]
        return np.array(indices, np.uint8)[inverse].reshape(values.shape)

    def _vectors(self, values: Values) -> NDArray[np.float64]:
        if self.kind in ("grey", "value"):
            return values[:, np.newaxis].astype(np.float64)
        if self.kind == "colour":
            return np.stack(unpack(values), axis=-1).astype(np.float64)
        known = dict(self.colours)
        return np.array([known.get(value, (0, 0, 0)) for value in values.tolist()], np.float64)


def _shown(kind: LabelKind, value: int) -> str:
    return str(unpack(value)) if kind == "colour" else str(value)


def table_from_scans(kind: LabelKind, scans: Sequence[LabelScan], n_class: int, where: Path) -> ClassTable:
    """The `n_class` most frequent values in ascending order.

    `scans` are the label images of all splits; `where` is the data set, for errors.

    Raises:
        DatasetError: there are fewer values than classes, and they are not class indices already.
    """
    values, inverse = np.unique(np.concatenate([scan.values for scan in scans]), return_inverse=True)
    counts = np.bincount(inverse, weights=np.concatenate([scan.counts for scan in scans])).astype(np.int64)
    colours = _palette_colours(scans)
    if len(values) > n_class:
        values = np.sort(values[np.argsort(-counts, kind="stable")[:n_class]])
    elif kind != "colour" and values[-1] < n_class:
        values = np.arange(n_class, dtype=np.int64)
    elif len(values) < n_class:
        shown = ", ".join(_shown(kind, value) for value in values.tolist())
        raise DatasetError(
            f"{where}: expected {n_class} classes in its label images, found only {len(values)} value(s): {shown}; "
            f"use --classes {len(values)}, or write a classes.toml with all {n_class} classes"
        )
    drawn = _class_colours(kind, values.tolist(), dict(colours))
    classes = tuple(
        ClassInfo(
            index=index,
            name=f"class {index}",
            colour=drawn[index],
            label_value=unpack(value) if kind == "colour" else value,
        )
        for index, value in enumerate(values.tolist())
    )
    return ClassTable(kind=kind, legend=Legend.of(classes), colours=colours)


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
    return ClassTable(kind=kind, legend=legend, colours=_palette_colours(scans))


def stray_message(table: ClassTable, strays: Sequence[LabelScan], where: Path) -> str:
    """Every image with more values than classes, its values and their pixels, and the ways out."""
    known = ", ".join(table.shown(value) for value in table.known)
    lines = []
    for scan in strays:
        pairs = zip(scan.values.tolist(), scan.counts.tolist(), strict=True)
        listed = shorten([f"{table.shown(value)} ({pixels})" for value, pixels in pairs])
        lines.append(f"  - {scan.path}: {scan.pixels} pixel(s), value (pixels): {listed}\n")
    return (
        f"{where}: expected {len(table.classes)} classes (values {known}), found other values in "
        f"{len(strays)} label image(s)\n{''.join(lines)}"
        "give the right number with --classes, correct the label images, or add --nearest, which takes such a value "
        "for the nearest class; nothing was written"
    )


def _palette_colours(scans: Sequence[LabelScan]) -> tuple[tuple[int, Colour], ...]:
    pairs = {
        value: colour
        for scan in scans
        if scan.colours
        for value, colour in zip(scan.values.tolist(), scan.colours, strict=True)
    }
    return tuple(sorted(pairs.items()))


def _class_colours(kind: LabelKind, values: list[int], palette: dict[int, Colour]) -> list[Colour]:
    if kind == "colour":
        return [unpack(value) for value in values]
    default = default_colours(len(values))
    if kind == "palette":
        return [palette.get(value, default[index]) for index, value in enumerate(values)]
    if _BRIGHT <= values[-1] <= 255:
        return [(value, value, value) for value in values]
    return list(default)
