"""Label images in whatever form they come.

They hold grey values (whole numbers of any dtype), grey stored as RGB, palette indices or colours. Inside, a value is
one integer: the grey value, the palette index, or 0xRRGGBB, whose order is that of (R, G, B).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import LabelValue
from matseg_shared.errors import DatasetError, ImageError
from matseg_shared.images.channels import is_grey
from matseg_shared.images.palette import Colour
from matseg_shared.images.read import read_stored
from matseg_shared.images.stored import StoredImage
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.mapped import row_bands

LabelKind = Literal["grey", "palette", "colour", "value"]
"""`value`: grey values and palette indices that mean the same."""
Values = NDArray[np.int64]

_MOST_COUNTED = 1 << 16
"""Values below it are counted in one pass."""
_LARGEST = 1 << 53
"""Whole numbers below it are the same as floats."""


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

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the image's pixels per value."""
        return self.counts / (self.shape[0] * self.shape[1])


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
        ImageError: it cannot be read, or its pixels are no whole numbers.
    """
    stored, kind = _read(path)
    pixels = _values_of(stored, kind)
    if is_counted(pixels):
        bands = (pixels[rows] for rows in row_bands(pixels.shape))
        largest = int(pixels.max())
        histogram = np.sum([np.bincount(band.ravel(), minlength=largest + 1) for band in bands], axis=0)
        values = np.flatnonzero(histogram)
        counts = histogram[values]
    else:
        values, counts = np.unique(pixels, return_counts=True)
    palette = stored.palette or ()
    return LabelScan(
        path=path,
        kind=kind,
        shape=(pixels.shape[0], pixels.shape[1]),
        values=values.astype(np.int64),
        counts=counts.astype(np.int64),
        colours=tuple(palette[value] for value in values if palette),
    )


def is_counted(values: NDArray[np.integer]) -> bool:
    """True where so few different values are possible that a table of them is faster than sorting."""
    return bool(values.min() >= 0 and values.max() < _MOST_COUNTED)


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
    require_whole(pixels, path)
    if pixels.dtype.kind in "bf" or pixels.dtype == np.uint64:
        stored = dataclasses.replace(stored, pixels=pixels.astype(np.int64))
    if stored.inverted:  # how ImageJ writes a look-up table from white to black
        greys = tuple((255 - value,) * 3 for value in range(256)) if pixels.dtype == np.uint8 else None
        stored = dataclasses.replace(stored, pixels=~pixels, palette=greys)
    if stored.palette is not None:
        return stored, "palette"
    if is_grey(pixels):
        return stored, "grey"
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
        found = f"{pixels.shape[2]} channels of {pixels.dtype}"
        raise ImageError(path, f"expected one value per pixel, or 8-bit RGB, as labels, found {found}")
    return stored, "colour"


def require_whole(pixels: NDArray[Any], where: Path | str) -> None:
    """Refuse pixels that are no whole numbers below 2^53 with an ImageError."""
    whole = pixels.dtype.kind in "biu" or (pixels.dtype.kind == "f" and (pixels == np.rint(pixels)).all())
    if not whole or not -_LARGEST < float(pixels.min()) <= float(pixels.max()) < _LARGEST:
        other = " with fractions, NaN or numbers beyond 2^53" if pixels.dtype.kind in "fu" else ""
        raise ImageError(
            where,
            f"expected whole numbers as labels, found {pixels.dtype}{other}; save one whole number per class",
        )


def _values_of(stored: StoredImage, kind: LabelKind) -> NDArray[np.integer]:
    if kind == "colour":
        return pack(stored.pixels)
    return stored.pixels if stored.pixels.ndim == 2 else stored.pixels[..., 0]


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
    scans: Sequence[LabelScan], known: frozenset[int] = frozenset(), *, in_colours: bool = False
) -> tuple[LabelKind, tuple[LabelScan, ...]]:
    """One kind for all label images of a data set, and their values in it.

    Palettes are applied where other images are grey or colour-coded; grey counts as colour where others are coloured.
    Where the values of the classes are known, palette indices can stand beside grey values: that is how
    `matseg-run --uncertain` adds to a set of grey label images, in colours that an annotator sees. `known` is empty
    where the classes are not decided yet, or have colours; with `in_colours` palettes are applied in any case.

    Raises:
        DatasetError: palettes disagree, or indices and grey values cannot be told apart; names the images.
    """
    kinds = {scan.kind for scan in scans}
    in_colours = "colour" in kinds or (in_colours and "palette" in kinds)
    if kinds == {"palette"} and not in_colours:
        _require_one_palette(scans)
        return "palette", tuple(scans)
    if kinds == {"palette", "grey"} and _are_values(scans, known):
        return "value", tuple(dataclasses.replace(scan, kind="value", colours=()) for scan in scans)
    target: LabelKind = "colour" if in_colours else "grey"
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
                    "save the label images with one palette, or as RGB without one, or let `matseg-prep import IMAGES "
                    "NAME --labels LABELS` go by the numbers alone"
                )
