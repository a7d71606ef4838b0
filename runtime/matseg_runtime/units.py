"""Lengths of voxels and amounts of memory, as people write and read them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matseg_shared.contract.metadata import PixelSize
from matseg_shared.errors import UsageError

PIXEL = "pixel"
"""The unit of lengths where no voxel size is known."""
_UNITS: dict[str, tuple[float, tuple[str, ...]]] = {
    "m": (1.0, ("meter", "metre")),
    "cm": (1e-2, ("centimeter", "centimetre")),
    "mm": (1e-3, ("millimeter", "millimetre")),
    "um": (1e-6, ("micrometer", "micrometre", "micron", "microns", "µm", "μm", "\\u00b5m")),
    "nm": (1e-9, ("nanometer", "nanometre")),
    "pm": (1e-12, ("picometer", "picometre")),
    "angstrom": (1e-10, ("angstrom", "å", "a", "ångström", "ångstrom")),
    "inch": (0.0254, ("inch", "inches", "in")),
}
"""Metres of each unit, and its other spellings: the first is OME-Zarr's."""
_IN_METRES = {unit: metres for unit, (metres, _) in _UNITS.items()}
_SPELLINGS = {spelling: unit for unit, (_, others) in _UNITS.items() for spelling in (unit, *others)}
_TOLERANCE = 0.01
_SHORTEST, _LONGEST = 1e-15, 1e6
"""Metres that the edge of a voxel may have; anything else is damage, and volumes of it are no numbers."""
_HANDY = ("m", "mm", "um", "nm", "pm")


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelSize:
    """Edge lengths of a voxel as slices show it; without a known size, lengths are in pixels and say so."""

    step: float | None
    """From one slice to the next; None: not known, so there are areas but no volumes."""
    row: float
    """From one row of a slice to the next: the height of a pixel."""
    column: float
    """The width of a pixel."""
    unit: str
    """`um`, `nm`, ...; `pixel` in `PIXELS` only."""
    origin: str = ""
    """Source of it, for a person; "" where that was not noted."""

    @property
    def area(self) -> float:
        """Area of a pixel, in the unit squared."""
        return self.row * self.column

    def agrees_with(self, other: VoxelSize) -> bool:
        """True where both mean the same pixels, within one per cent."""
        other = other._converted(self.unit)
        return math.isclose(self.row, other.row, rel_tol=_TOLERANCE) and math.isclose(
            self.column, other.column, rel_tol=_TOLERANCE
        )

    def cut_along(self, axis: int, was: int) -> VoxelSize | None:
        """The same voxels in slices along `axis` of the volume, where this is said of slices along the axis `was`.

        None where the step is not known, and the axis is another.
        """
        if axis == was:
            return self
        if self.step is None:
            return None
        edges = [self.row, self.column]
        edges.insert(was, self.step)
        return _cut(edges, axis, self.unit, self.origin)

    def in_handy_unit(self) -> VoxelSize | None:
        """The same in another unit where a TIFF, which has 32 bits for pixels per unit, could not hold the numbers.

        None where it cannot in any: the pixels are a million times as high as wide.
        """
        if self._fits_tiff():
            return self
        in_units = [self._converted(unit) for unit in _HANDY]
        handy = next((size for size in in_units if size.column >= 1), in_units[-1])
        return handy if handy._fits_tiff() else None

    def _fits_tiff(self) -> bool:
        return 1e-6 <= self.row <= 1e6 and 1e-6 <= self.column <= 1e6

    def _converted(self, unit: str) -> VoxelSize:
        row, column = (converted(edge, self.unit, unit) for edge in (self.row, self.column))
        step = None if self.step is None else converted(self.step, self.unit, unit)
        return replace(self, step=step, row=row, column=column, unit=unit)

    def __str__(self) -> str:
        step = "?" if self.step is None else f"{self.step:g}"
        return f"{step} x {self.row:g} x {self.column:g} {self.unit}"

    @property
    def exactly(self) -> str:
        """The same without rounding, to be compared."""
        step = "?" if self.step is None else exact(self.step)
        return f"{step} x {exact(self.row)} x {exact(self.column)} {self.unit}"


PIXELS = VoxelSize(step=None, row=1.0, column=1.0, unit=PIXEL)
"""Squares of edge 1, for lengths in pixels."""


def unit_of(text: str | None) -> str | None:
    """The short name of a unit of length; None when it is none, or pixels."""
    return None if text is None else _SPELLINGS.get(text.strip().lower())


def ome_unit(name: str) -> str:
    """A unit that `unit_of` gave, as OME-Zarr spells it out."""
    return _UNITS[name][1][0]


def parse_voxel_size(text: str, axis: int = 0) -> VoxelSize:
    """Read `0.65um`, `1.3,0.65um` (step between slices, pixel) or `1.3,0.65,0.65um` (z, y, x of the volume).

    The edges of a volume are put in the order of slices that are cut along `axis`.

    Raises:
        UsageError: anything else; shows the forms.
    """
    match = re.fullmatch(r"\s*([0-9.,eE+\-\s]*[0-9.])\s*([^\d\s.,][^\d.,]*)", text)
    unit = None if match is None else unit_of(match[2])
    try:
        values = [] if match is None else [float(part) for part in match[1].split(",")]
    except ValueError:
        values = []
    if unit is None or len(values) not in (1, 2, 3) or not all(_is_edge(value, unit) for value in values):
        raise UsageError(
            f"--voxel-size {text}: expected the edge of a voxel with its unit ({', '.join(_IN_METRES)}), such as "
            "0.65um, or Z,Y,X as 1.3,0.65,0.65um"
        )
    if len(values) < 3:  # said of slices, however they are cut
        step, edge = values[0], values[-1]
        return VoxelSize(step=step, row=edge, column=edge, unit=unit, origin="--voxel-size")
    return _cut(values, axis, unit, "--voxel-size")


def _is_edge(length: float, unit: str) -> bool:
    return _SHORTEST <= length * _IN_METRES[unit] <= _LONGEST  # which NaN and infinity are not


def _cut(edges: Sequence[float], axis: int, unit: str, origin: str) -> VoxelSize:
    """The voxel of slices along an axis, from the edges along z, y, x."""
    others = [edge for place, edge in enumerate(edges) if place != axis]
    return VoxelSize(step=edges[axis], row=others[0], column=others[1], unit=unit, origin=origin)


def voxel_of_scale(
    scale: Sequence[float], units: Sequence[str | None], axis: int, origin: str
) -> VoxelSize | None:
    """The voxel size that a file states.

    Args:
        scale: edges along (z, y, x) or, for a single image, (y, x).
        units: unit of each edge, as the file spells it.
        axis: spatial axis that slices are cut along.
        origin: who says so.

    Returns:
        None where a unit within slices is missing or no length, or a number is none that an edge can have; without a
        step where only that is not known.
    """
    names = [unit_of(unit) for unit in units]
    lengths = [float(value) for value in scale]
    if not all(_is_edge(value, name or "m") for value, name in zip(lengths, names, strict=True)):
        return None
    step, step_unit = (lengths.pop(axis), names.pop(axis)) if len(lengths) == 3 else (None, None)
    row_unit, unit = names
    if row_unit is None or unit is None:
        return None
    return VoxelSize(
        step=None if step is None or step_unit is None else converted(step, step_unit, unit),
        row=converted(lengths[0], row_unit, unit),
        column=lengths[1],
        unit=unit,
        origin=origin,
    )


def converted(length: float, unit: str, wanted: str) -> float:
    """A length in another unit; exactly as it is where nothing is to be done."""
    return length if unit == wanted else length * _IN_METRES[unit] / _IN_METRES[wanted]


def voxel_of_model(size: PixelSize) -> VoxelSize | None:
    """Pixel size of the images a model was trained on; how far apart slices are, it does not know."""
    return voxel_of_scale((size.value,) * 2, (size.unit,) * 2, 0, "the model")


def choose_voxel_size(
    asked: VoxelSize | None, found: VoxelSize | None, model: VoxelSize | None
) -> tuple[VoxelSize | None, str | None]:
    """The user's word, else the input's, else the model's; and a warning where the model saw other pixels."""
    chosen = asked or found or model
    if chosen is None or model is None or chosen.agrees_with(model):
        return chosen, None
    return chosen, (
        f"the model was trained on pixels of {model.column:g} {model.unit}, these are of {chosen.row:g} x "
        f"{chosen.column:g} {chosen.unit} ({chosen.origin} says so): look at some labels before you trust them"
    )


def oblong_warning(size: VoxelSize) -> str | None:
    """A warning where a pixel is not as high as it is wide: the sign of a volume cut along another axis than meant."""
    if math.isclose(size.row, size.column, rel_tol=_TOLERANCE):
        return None
    return (
        f"pixels are {size.row:g} {size.unit} high and {size.column:g} wide ({size.origin} says so), and to a model "
        "all pixels are square: is --axis the one that the model's slices were cut along?"
    )


def uneven_warning(size: VoxelSize, axis: int, axes: Sequence[int]) -> str | None:
    """A warning where voxels are no cubes, and their slices along several axes are given to one model.

    Args:
        size: as slices along `axis` show it.
        axis: spatial axis that it is said of.
        axes: all that slices are cut along.
    """
    views = {each: size.cut_along(each, axis) for each in axes}
    if size.step is None:
        return (
            f"how far apart the slices along axis {axis} are is not known: along the other axes the model takes pixels "
            f"for squares of {size.row:g} {size.unit}, as if voxels were cubes"
        )
    for each, view in views.items():
        if view is not None and not math.isclose(view.row, view.column, rel_tol=_TOLERANCE):
            return (
                f"voxels are no cubes ({size.origin} says so): slices along axis {each} have pixels {view.row:g} "
                f"{view.unit} high and {view.column:g} wide, and the model takes them for squares as large as those it "
                "was trained on; make the voxels cubes first, or label along one axis"
            )
    return None


def parse_size(text: str, name: str = "--memory") -> int:
    """Bytes of `2GB`, `500M` or `1.5 GiB`; errors say that it was given as `name`.

    Raises:
        UsageError: no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{name} {text}: expected a size such as 2GB or 500MB")
    thousand = 1024 if match[3] else 1000
    return int(float(match[1]) * thousand ** " KMGT".index(match[2].upper() or " "))


def format_size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def exact(number: float) -> str:
    """As short as can be without becoming another number: what is compared as text must differ where numbers do."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
