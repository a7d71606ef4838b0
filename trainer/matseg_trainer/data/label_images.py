"""Label images in whatever form they come: grey values, grey stored as RGB, palette indices or colours.

Inside, a value is one integer: the grey value, the palette index, or 0xRRGGBB, whose order is that of (R, G, B).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import DatasetError, ImageError
from matseg_shared.images.palette import Colour
from matseg_shared.images.read import StoredImage, is_grey, read_stored
from matseg_trainer.data.folder import shorten

LabelKind = Literal["grey", "palette", "colour", "value"]
"""`value`: grey values and palette indices that mean the same."""
Values = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelScan:
    """Which values one label image holds."""

    path: Path
    kind: LabelKind
    shape: tuple[int, int]
    """(H, W) in pixels."""
    values: Values
    """Ascending."""
    counts: Values
    """Pixels per value."""
    colours: tuple[Colour, ...]
    """RGB per value of a palette image, else empty."""


def pack(colours: NDArray[np.integer]) -> Values:
    """(..., 3) RGB to (...) 0xRRGGBB."""
    parts = colours.astype(np.int64)
    return (parts[..., 0] << 16) | (parts[..., 1] << 8) | parts[..., 2]


def unpack(value: int) -> Colour:
    """0xRRGGBB to RGB."""
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
        colours=tuple(palette[value] for value in values) if palette else (),
    )


def read_values(path: Path, kind: LabelKind) -> Values:
    """(H, W) int64 values of a label image, as an image of `kind`.

    Raises:
        ImageError: as `scan_label`.
    """
    stored, own = _read(path)
    return _convert(_values_of(stored, own), own, kind, np.asarray(stored.palette or [(0, 0, 0)]))


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


def _convert(
    values: NDArray[np.integer], own: LabelKind, kind: LabelKind, palette: NDArray[np.integer]
) -> Values:
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
    `matseg-run --uncertain` adds to a set of grey label images, in colours that an annotator sees.

    Args:
        scans: the label images of all splits.
        known: grey values or palette indices of the classes; empty: not decided yet, or colours.

    Raises:
        DatasetError: palettes disagree, or indices and grey values cannot be told apart; names the images.
    """
    kinds = {scan.kind for scan in scans}
    if kinds == {"palette"}:
        _check_palettes(scans)
        return "palette", tuple(scans)
    if kinds == {"palette", "grey"} and _are_values(scans, known):
        return "value", tuple(dataclasses.replace(scan, kind="value", colours=()) for scan in scans)
    target: LabelKind = "colour" if "colour" in kinds else "grey"
    coloured = [scan for scan in scans if any(len(set(colour)) > 1 for colour in scan.colours)]
    if target == "grey" and coloured:
        grey = [scan.path.name for scan in scans if scan.kind == "grey"]
        raise DatasetError(
            f"{scans[0].path.parent}: expected label images of one kind, found palette images "
            f"({shorten([scan.path.name for scan in coloured])}) among grey ones ({shorten(grey)}); save all alike"
        )
    wide = [scan.path.name for scan in scans if scan.kind == "grey" and scan.values[-1] > 255]
    if target == "colour" and wide:
        raise DatasetError(
            f"{scans[0].path.parent}: expected label images of one kind, found 16-bit grey ones ({shorten(wide)}) "
            "among colour-coded ones; save all the same way"
        )
    return target, tuple(_as_kind(scan, target) for scan in scans)


def _are_values(scans: Sequence[LabelScan], known: frozenset[int]) -> bool:
    """Whether all indices and grey values are of classes, and the palettes' colours cannot be taken for grey values."""
    indexed = [scan for scan in scans if scan.kind == "palette"]
    shown_as_grey = all(
        len(set(colour)) == 1 and colour[0] in known for scan in indexed for colour in scan.colours
    )
    return not shown_as_grey and all(known.issuperset(scan.values.tolist()) for scan in scans)


def _as_kind(scan: LabelScan, kind: LabelKind) -> LabelScan:
    if scan.kind == kind:
        return scan
    if scan.kind == "palette":
        colours = np.asarray(scan.colours)
        values = colours[:, 0].astype(np.int64) if kind == "grey" else pack(colours)
    else:
        values = scan.values * 0x010101
    unique, inverse = np.unique(values, return_inverse=True)  # a palette may hold one colour twice
    counts = np.bincount(inverse, weights=scan.counts).astype(np.int64)
    return LabelScan(path=scan.path, kind=kind, shape=scan.shape, values=unique, counts=counts, colours=())


def _check_palettes(scans: Sequence[LabelScan]) -> None:
    first: dict[int, tuple[Colour, Path]] = {}
    for scan in scans:
        for value, colour in zip(scan.values.tolist(), scan.colours, strict=True):
            known, path = first.setdefault(value, (colour, scan.path))
            if known != colour:
                raise DatasetError(
                    f"{scan.path}: expected the palette of {path.name}, with {known} at index {value}, found {colour}; "
                    "save the label images with one palette, or as RGB without one"
                )
