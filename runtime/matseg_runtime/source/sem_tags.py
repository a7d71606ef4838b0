"""Tags that electron microscopes write into their TIFFs: the size of a pixel, and how many rows are picture.

Thermo Fisher and FEI (tags 34680 and 34682), Zeiss (34118) and TESCAN (50431). JEOL and Hitachi write a text file
beside the picture, which is no input.
"""

from __future__ import annotations

import configparser
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tifffile import TiffPage

_FEI, _ZEISS, _TESCAN = (34682, 34680), 34118, 50431
_MOST = 0.5
"""Share of a picture that no bar takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemTags:
    """The facts that one picture states."""

    data_bar: int | None = None
    """Rows at its foot that are a bar of data; None: it does not say."""
    pixel: tuple[float, float, str] | None = None
    """Height and width of a pixel, and their unit; None: it does not say."""


def sem_tags(page: TiffPage) -> SemTags | None:
    """The facts of a page of an open TIFF; None where no electron microscope wrote it."""
    tags: Any = page.tags
    for code in _FEI:
        if isinstance(found := tags.valueof(code), Mapping):
            return _fei(page, found)
    if isinstance(found := tags.valueof(_ZEISS), Mapping):
        return _zeiss(page, found)
    found = tags.valueof(_TESCAN)
    return _tescan(page, found) if isinstance(found, bytes | str) else None


@functools.lru_cache(maxsize=256)
def picture_bar(path: Path, identity: str) -> int | None:  # noqa: ARG001 (another identity is another file)
    """Rows at the foot of an image file that are a bar of data; None where it does not say.

    Args:
        path: of the file; one that is no TIFF, or cannot be read, says nothing.
        identity: changes when the file does.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            found = sem_tags(tiff.pages.first)
    except Exception:  # tifffile raises many kinds for what is no TIFF
        return None
    return None if found is None else found.data_bar


def _fei(page: TiffPage, sections: Mapping[str, Any]) -> SemTags:
    found = (sections.get(name) for name in ("Image", "Scan", "PrivateFei"))
    image, scan, private = (section if isinstance(section, Mapping) else {} for section in found)
    rows, columns = finite(image.get("ResolutionY")), finite(image.get("ResolutionX"))
    bar = _rows_below(page, rows, columns)
    if rows is None and (height := finite(private.get("DatabarHeight"))) is not None:
        bar = _bar(page, height)
    return SemTags(data_bar=bar, pixel=_pixel(scan.get("PixelHeight"), scan.get("PixelWidth"), "m"))


def _zeiss(page: TiffPage, values: Mapping[str, Any]) -> SemTags:
    shape = values.get("dp_image_store")
    stored = re.fullmatch(
        r"(\d+)\s*\*\s*(\d+)", str(shape[1]) if isinstance(shape, tuple) and shape[1:] else ""
    )
    bar = None if stored is None else _rows_below(page, float(stored[2]), float(stored[1]))
    # rows that are not below the picture but drawn over it have no tag
    size: tuple[Any, ...] = values.get("ap_image_pixel_size") or values.get("ap_pixel_size") or ()
    edge, unit = (size[1], size[2]) if len(size) > 2 else (None, "m")
    return SemTags(data_bar=bar or None, pixel=_pixel(edge, edge, str(unit)))


def _tescan(page: TiffPage, value: bytes | str) -> SemTags:
    text = value if isinstance(value, str) else value.decode("latin-1")
    start = text.find("[MAIN]")
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(re.sub(r"[^\x20-\xff\r\n]", "", text[start:]) if start >= 0 else "")
    except configparser.Error:
        return SemTags()
    bar, *edges = (
        parser.get("MAIN", key, fallback=None) for key in ("imagestripsize", "pixelsizey", "pixelsizex")
    )
    rows = finite(bar)
    return SemTags(data_bar=None if rows is None else _bar(page, rows), pixel=_pixel(edges[0], edges[1], "m"))


def _rows_below(page: TiffPage, rows: float | None, columns: float | None) -> int | None:
    """Rows that are stored below so many of picture; None where it was scaled since, or nothing is said."""
    if rows is None or columns not in (None, page.imagewidth):
        return None
    return _bar(page, page.imagelength - rows)


def _bar(page: TiffPage, rows: float) -> int | None:
    return int(rows) if 0 <= rows <= _MOST * page.imagelength else None


def _pixel(row: object, column: object, unit: str) -> tuple[float, float, str] | None:
    height, width = finite(row), finite(column)
    if height is None or width is None or min(height, width) <= 0:
        return None
    if unit == "m":  # as microscopes have it, far from what anybody reads
        scale, unit = (1e9, "nm") if width < 1e-6 else (1e6, "um")
        return height * scale, width * scale, unit
    return height, width, unit


def finite(value: object) -> float | None:
    """A number, or the number in a text; None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
