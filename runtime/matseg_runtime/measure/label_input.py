"""Labels as an input: what is known of them, and how their slices are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from matseg_runtime.measure.report import REPORT_NAME, read_report
from matseg_runtime.sink.images import LEDGER_NAME
from matseg_runtime.sink.volume import side_folder
from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.open import open_source, split_location
from matseg_runtime.units import VoxelSize, unit_of
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import is_grey
from matseg_shared.images.read import IMAGE_SUFFIXES, PixelArray

_SIGNATURE = re.compile(rb'matseg(\0+| ?:?= ?)\{"ledger_version"|Labels by matseg-run')
"""Signature of the provenance in images and headers that matseg-run writes."""
_HEAD = 1 << 16
Labels = NDArray[np.integer[Any]]
_NO_LABELS = (
    "expected labels, one whole number per class, found {} pixels; name what matseg-run wrote, or save the classes as "
    "8-bit numbers"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFacts:
    """The origin, classes and voxels of some labels, as far as they are known."""

    ours: bool
    """True where matseg-run wrote them, so that 255 means no label and absent chunks hold it."""
    names: tuple[str, ...] = ()
    """Names of the classes 0, 1, ...; empty: not known."""
    voxel: VoxelSize | None = None
    axis: int | None = None
    """The axis that slices were cut along, when it is not the first."""
    report_folder: Path | None = None
    """Folder of the report of matseg-run."""


def facts_of(location: str) -> LabelFacts:
    """Read what matseg-run left beside its output; for a zarr that was moved away from it, its attributes."""
    file, node = split_location(location)
    if "://" in file:
        return LabelFacts(ours=False)
    path = Path(file) / (node or "").strip("/")
    beside = side_folder(path)
    for folder, ledger in ((path, path / LEDGER_NAME), (beside, beside)):
        if not ledger.is_dir():
            continue
        try:
            report = read_report(folder / REPORT_NAME)
        except (OSError, ValidationError):  # less is known then, and nothing wrong
            continue
        voxel = report.voxel_size
        if voxel is not None:
            unit = unit_of(voxel.unit)
            voxel = None if unit is None else replace(voxel, unit=unit, origin="the run's report")
        # these have one page or file per slice, others the axes of the input
        by_slice = report.provenance.output_format in ("png", "tiff", "tiff-stack")
        return LabelFacts(
            ours=True,
            names=tuple(item.name for item in report.phase_fractions),
            voxel=voxel,
            axis=None if by_slice else report.provenance.axis,
            report_folder=folder,
        )
    return (
        _attributes(Path(file), node) if Path(file).suffix == ".zarr" else LabelFacts(ours=_is_signed(path))
    )


def _is_signed(path: Path) -> bool:
    """True where a file of labels, or the first one of a folder, says that matseg-run wrote it."""
    try:
        if path.is_dir():
            path = next(entry for entry in sorted(path.iterdir()) if entry.suffix.lower() in IMAGE_SUFFIXES)
        with path.open("rb") as stream:
            return _SIGNATURE.search(stream.read(_HEAD)) is not None
    except (OSError, StopIteration):  # what cannot be read is told when it is opened
        return False


def _attributes(path: Path, node: str | None) -> LabelFacts:
    """Facts in the attributes of an OME-Zarr label image."""
    if not path.is_dir():
        return LabelFacts(ours=False)
    import zarr

    from matseg_runtime.source.zarr import without_remarks

    try:
        with without_remarks():
            attributes: dict[str, Any] = dict(zarr.open(path, path=(node or "").strip("/"), mode="r").attrs)
        label = attributes.get("ome", attributes).get("image-label", {})
        named = {int(item["label-value"]): str(item["name"]) for item in label.get("properties", ())}
    except Exception:  # what cannot be opened is told when it is opened to be read
        return LabelFacts(ours=False)
    whole = sorted(named) == list(range(len(named)))
    names = tuple(named[value] for value in range(len(named))) if whole else ()
    return LabelFacts(ours="matseg" in attributes and bool(names), names=names)


def open_labels(location: str, options: SourceOptions) -> Source:
    """Open labels for reading.

    Raises:
        UsageError: they cannot be opened, or are no labels.
        MissingExtraError: an optional package is needed for their format.
    """
    source = open_source(location, options)
    if source.volume is not None and np.dtype(source.volume.dtype).kind not in "iub":
        source.close()
        raise UsageError(f"{location}: {_NO_LABELS.format(source.volume.dtype)}")
    return source


def as_labels(pixels: PixelArray, where: str) -> Labels:
    """(H, W) class values of a slice as it is stored.

    Raises:
        ImageError: it holds no class values.
    """
    if pixels.ndim == 3:
        if not is_grey(pixels):
            raise ImageError(
                where, "expected one class value per pixel, found colours; save it as a palette or grey image"
            )
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "iu":
        raise ImageError(where, _NO_LABELS.format(pixels.dtype.name))
    if pixels.dtype.kind == "i" and pixels.size and int(pixels.min()) < 0:
        raise ImageError(where, f"expected class values from 0 up, found {int(pixels.min())}")
    return pixels


def class_names(
    values: Sequence[int], names: Sequence[str], given: bool, location: str
) -> list[tuple[int, str]]:
    """Value and name of every class, those that do not occur included where they are known.

    Ascending `values` occur. Names are those of the classes 0, 1, ..., or `given` by the user for the values in order.

    Raises:
        UsageError: there are more values than names.
    """
    if not names:
        return [(value, f"class {value}") for value in values]
    if not values or values[-1] < len(names):
        return list(enumerate(names))
    if given and len(values) == len(names):
        return list(zip(values, names, strict=True))
    found = ", ".join(map(str, values[:12])) + (" ..." if len(values) > 12 else "")
    raise UsageError(
        f"{location}: expected {len(names)} classes ({', '.join(names)}), found the values {found}; give the name of "
        "every value with --names, or leave out a value with --no-data"
    )
