"""Pixels of a data set's images that are no sample, as matseg-run finds them in what it labels."""

from __future__ import annotations

from pathlib import Path

from matseg_runtime.source.base import file_identity
from matseg_runtime.source.sem_tags import picture_bar
from matseg_runtime.source.transform import Absent, NoDataOptions, absent_pixels
from matseg_shared.contract.metadata import TrainingInfo
from matseg_shared.images.context import of_slice
from matseg_shared.images.data_bar import data_bar_rows
from matseg_shared.images.read import PixelArray
from matseg_shared.images.tiff import stored_context


def told_bar(image: Path) -> int | None:
    """Rows at the foot of an image that are a bar of data, as its file says; None: it does not say."""
    return picture_bar(image, file_identity(image))


def absent_of(image: Path, pixels: PixelArray, no_data: NoDataOptions) -> Absent | None:
    """(H, W) where an image is no sample; None where all of it is one.

    Args:
        image: whose tags may tell of a bar of data.
        pixels: (H, W) or (H, W, C) as they are stored.
        no_data: as the version says.

    Raises:
        ImageError: nothing is left of it.
    """
    rows = no_data.crop_bottom
    if rows is None:
        rows = told_bar(image) or 0
    return absent_pixels(pixels, image, no_data.no_data, rows)


def note_on(image: Path, pixels: PixelArray) -> str | None:
    """Words on what files and looks tell of an image's no data; None: nothing."""
    pixels = of_slice(pixels, stored_context(image))
    bar, absent = told_bar(image), absent_of(image, pixels, NoDataOptions())
    if absent is not None:
        rows = f" (the lowest {bar} rows are a data bar, as its file says)" if bar else ""
        return f"{image.name}: {absent.mean():.1%} of its pixels are no data{rows}; their labels do not count"
    if bar is None and (looks := data_bar_rows(pixels)):
        return (
            f"{image.name}: seems to end in a data bar of {looks} rows, which is learned as if it were sample unless "
            f"config.toml says `crop_bottom = {looks}`"
        )
    return None


def no_data_of(training: TrainingInfo) -> NoDataOptions:
    """Pixels that a trained version took for no sample; versions of earlier times only NaN and what files say."""
    kinds, rows = (training.config.get(key) for key in ("no_data", "crop_bottom"))
    known = tuple(kind for kind in kinds or () if kind == "circle" or isinstance(kind, int | float))
    return NoDataOptions(no_data=known, crop_bottom=rows if isinstance(rows, int) else None)
