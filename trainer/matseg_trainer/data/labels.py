"""Label images in whatever form they come, and which of their values stands for which class.

Label images hold grey values, grey stored as RGB, palette indices or colours. Inside, a value is one integer: the grey
value, the palette index, or 0xRRGGBB, whose order is that of (R, G, B). A single label image may lack classes (one that
is wholly class 2 must not become class 0), so the table of classes is made over all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED, LabelValue, Legend
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, ImageError
from matseg_shared.images.palette import Colour, default_colours
from matseg_shared.images.read import StoredImage, is_grey, read_stored
from matseg_trainer.data.folder import shorten

LabelKind = Literal["grey", "palette", "colour", "value"]
"""`value`: grey values and palette indices that mean the same."""
Values = NDArray[np.int64]

_BRIGHT = 128
"""Grey labels whose largest value is at least this are meant to be looked at; 0, 1, 2 are not."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelScan:
    """The values that one label image holds."""

    path: Path
    kind: LabelKind
    shape: tuple[int, int]
    """(H, W) in pixels."""
    values: Values
    """Ascending."""
    counts: Values
    """Pixels per value."""
    colours: tuple[Colour, ...] = ()
    """RGB per value of a palette image, else empty."""

    @property
    def pixels(self) -> int:
        """Pixels of all these values."""
        return int(self.counts.sum())


def pack(colours: NDArray[np.integer]) -> Values:
    """(..., 3) RGB to (...) 0xRRGGBB."""
    parts = colours.astype(np.int64)
    return (parts[..., 0] << 16) | (parts[..., 1] << 8) | parts[..., 2]


def packed(value: LabelValue) -> int:
    """A class's value as label images are compared: of a colour, 0xRRGGBB."""
    return value if isinstance(value, int) else int(pack(np.array(value)))


def unpack(value: Any) -> tuple[Any, Any, Any]:
    """0xRRGGBB to RGB, of one value or of an array."""
    return value >> 16, value >> 8 & 255, value & 255


def scan_label(path: Path) -> LabelScan:
    """Read one label image and count its values.

    Raises:
        ImageError: it cannot be read, or its pixels are not integers of at most 16 bits.
    """
    stored, kind = _read(path)
    pixels = _values_of(stored, kind)
    if kind == "colour":
        values, counts = np.unique(pixels, return_counts=True)
    else:
        histogram = np.bincount(pixels.ravel())
        values = np.flatnonzero(histogram)
        counts = histogram[values]
    palette = stored.palette or ()
    return LabelScan(
        path=path,
        kind=kind,
        shape=(pixels.shape[0], pixels.shape[1]),
        values=values.astype(np.int64),
        counts=counts.astype(np.int64),
        colours=tuple(palette[value] for value in values if palette),
    )


def read_values(path: Path, kind: LabelKind) -> Values:
    """(H, W) int64 values of a label image, as an image of `kind`.

    Raises:
        ImageError: as `scan_label`.
    """
    stored, own = _read(path)
    return _as_kind(_values_of(stored, own), own, kind, np.asarray(stored.palette or [(0, 0, 0)]))


def _read(path: Path) -> tuple[StoredImage, LabelKind]:
    stored = read_stored(path)
    pixels = stored.pixels
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2 or pixels.min() < 0:
        raise ImageError(
            path,
            f"expected a label image of 8- or 16-bit integers, found {pixels.dtype}; save one whole number per class",
        )
    if stored.palette is not None:
        return stored, "palette"
    if is_grey(pixels):
        return stored, "grey"
    if pixels.dtype != np.uint8:
        raise ImageError(
            path, f"expected 8 bits per colour of a label image, found {pixels.dtype}; save it as 8-bit RGB"
        )
    return stored, "colour"


def _values_of(stored: StoredImage, kind: LabelKind) -> NDArray[np.integer]:
    if kind == "colour":
        return pack(stored.pixels)
    grey: NDArray[np.integer] = stored.pixels if stored.pixels.ndim == 2 else stored.pixels[..., 0]
    return grey


def _as_kind(
    values: NDArray[np.integer], own: LabelKind, kind: LabelKind, palette: NDArray[np.integer]
) -> Values:
    """Values of one kind as those of another; palette: (N, 3) RGB per index."""
    if own == kind or kind == "value":
        return values.astype(np.int64)
    if own == "palette":
        return palette[values, 0].astype(np.int64) if kind == "grey" else pack(palette[values])
    return values.astype(np.int64) * 0x010101


def unify(
    scans: Sequence[LabelScan], known: frozenset[int] = frozenset()
) -> tuple[LabelKind, tuple[LabelScan, ...]]:
    """One kind for all label images of a data set, and their values in it.

    Palettes are applied where other images are grey or colour-coded; grey counts as colour where others are coloured.
    Where the values of the classes are known, palette indices can stand beside grey values: that is how
    `matseg-run --uncertain` adds to a set of grey label images, in colours that an annotator sees. `known` is empty
    where the classes are not decided yet, or have colours.

    Raises:
        DatasetError: palettes disagree, or indices and grey values cannot be told apart; names the images.
    """
    kinds = {scan.kind for scan in scans}
    if kinds == {"palette"}:
        _require_one_palette(scans)
        return "palette", tuple(scans)
    if kinds == {"palette", "grey"} and _are_values(scans, known):
        return "value", tuple(dataclasses.replace(scan, kind="value", colours=()) for scan in scans)
    target: LabelKind = "colour" if "colour" in kinds else "grey"
    coloured = [scan.path.name for scan in scans if any(len(set(colour)) > 1 for colour in scan.colours)]
    if target == "grey" and coloured:
        grey = [scan.path.name for scan in scans if scan.kind == "grey"]
        raise DatasetError(
            f"{scans[0].path.parent}: expected label images of one kind, found palette images "
            f"({shorten(coloured)}) among grey ones ({shorten(grey)}); save all alike"
        )
    _refuse_inverting_palettes(scans)
    wide = [scan.path.name for scan in scans if scan.kind == "grey" and scan.values[-1] > 255]
    if target == "colour" and wide:
        raise DatasetError(
            f"{scans[0].path.parent}: expected label images of one kind, found 16-bit grey ones ({shorten(wide)}) "
            "among colour-coded ones; save all the same way"
        )
    return target, tuple(_scan_as(scan, target) for scan in scans)


def _are_values(scans: Sequence[LabelScan], known: frozenset[int]) -> bool:
    """True where all indices and grey values are of classes, and no palette's colours can be taken for grey values."""
    shown_as_grey = all(
        len(set(colour)) == 1 and colour[0] in known for scan in scans for colour in scan.colours
    )
    return not shown_as_grey and all(known.issuperset(scan.values.tolist()) for scan in scans)


def _refuse_inverting_palettes(scans: Sequence[LabelScan]) -> None:
    """Refuse palettes of which both indices and shades are values of the grey label images, and differ.

    ImageJ shows a selection of 255 in black by such a palette; others store white as index 0 and mean the shades.
    """
    grey = [scan for scan in scans if scan.kind == "grey"]
    known = {value for scan in grey for value in scan.values.tolist()}
    exchanged = [
        scan.path.name
        for scan in scans
        if scan.colours
        and all(len(set(colour)) == 1 for colour in scan.colours)
        and (shades := [colour[0] for colour in scan.colours]) != scan.values.tolist()
        and known.issuperset([*shades, *scan.values.tolist()])
    ]
    if exchanged:
        raise DatasetError(
            f"{scans[0].path.parent}: expected label images of one kind, found ones with an inverting look-up table "
            f"({shorten(exchanged)}) among grey ones ({shorten([scan.path.name for scan in grey])}), and nobody can "
            "know which of the two are meant; in Fiji, Image > Lookup Tables > Invert LUT and save them again"
        )


def _scan_as(scan: LabelScan, kind: LabelKind) -> LabelScan:
    if scan.kind == kind:
        return scan
    indices = np.arange(len(scan.values)) if scan.kind == "palette" else scan.values
    values = _as_kind(indices, scan.kind, kind, np.asarray(scan.colours))
    unique, inverse = np.unique(values, return_inverse=True)  # a palette may hold one colour twice
    counts = np.bincount(inverse, weights=scan.counts).astype(np.int64)
    return dataclasses.replace(scan, kind=kind, values=unique, counts=counts, colours=())


def _require_one_palette(scans: Sequence[LabelScan]) -> None:
    first: dict[int, tuple[Colour, Path]] = {}
    for scan in scans:
        for value, colour in zip(scan.values.tolist(), scan.colours, strict=True):
            known, path = first.setdefault(value, (colour, scan.path))
            if known != colour:
                raise DatasetError(
                    f"{scan.path}: expected the palette of {path.name}, with {known} at index {value}, found {colour}; "
                    "save the label images with one palette, or as RGB without one"
                )


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
