"""ROIs of ImageJ and Fiji: a set (`.zip`) or one ROI (`.roi`) for each picture, or one set for a stack."""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matseg_shared.errors import DatasetError, MissingExtraError
from matseg_trainer.prepare.imports.base import Export
from matseg_trainer.prepare.imports.files import ImageFinder
from matseg_trainer.prepare.imports.shapes import Drawing, Ring, Shape, ellipse, export_of, rectangle
from matseg_trainer.prepare.imports.slices import Slices

ROI_SUFFIX = ".roi"
_GIVEN_BY_IMAGEJ = re.compile(r"(\d{4,5}-){1,2}\d{4,5}")
_COUNTER = re.compile(r"[-_ .]*\d+$")
_LARGEST = 64 << 20
"""Bytes of one ROI."""
_AREAS = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")


def is_roi_set(path: Path) -> bool:
    """True for a zip archive of ROIs."""
    try:
        with zipfile.ZipFile(path) as packed:
            return any(name.lower().endswith(ROI_SUFFIX) for name in packed.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_imagej(files: Sequence[Path], finder: ImageFinder, stack: Slices | None) -> Export:
    """The pictures of sets of ROIs, each of the set's name; or those slices of a stack that ROIs lie in.

    A ROI's class is its group, where any has one; else its name without a number at its end. Positions of ROIs count in
    the `stack`.

    Raises:
        MissingExtraError: roifile is not installed.
        DatasetError: a file is damaged, or a position lies outside of the stack.
    """
    rois = [(path, name, roi) for path in files for name, roi in _read(path)]
    grouped = any(roi.group for _, _, roi in rois)
    shapes: dict[Any, list[Shape]] = defaultdict(list)
    left_out = 0
    for path, name, roi in rois:
        rings = _rings(roi)
        if not rings:
            left_out += 1
            continue
        kind = f"group {roi.group}" if grouped else _class_of(roi.name or Path(name).stem)
        place: Any = path
        if stack is not None:
            place = (roi.z_position or roi.t_position or roi.position) - 1
            if not 0 <= place < len(stack.names):
                raise DatasetError(
                    f"{path}: {name}: expected the position of one of {len(stack.names)} slices, found {place + 1}; "
                    "in Fiji, show the slice and update the ROI in the ROI Manager"
                )
        shapes[place].append(Shape(name=kind, where=f"{path}: {name}", parts=[rings]))
    drawings = (
        [Drawing(name=path.stem, image=finder.find(path.stem, path), shapes=shapes[path]) for path in files]
        if stack is None
        else [
            Drawing(name=stack.names[n], image=stack.picture(n), shapes=shapes[n], voxel=stack.voxel)
            for n in sorted(shapes)
        ]
    )
    return export_of("ImageJ ROIs", drawings, left_out=left_out)


def _read(path: Path) -> list[tuple[str, Any]]:
    """Name within the set, and ROI."""
    try:
        from roifile import ImagejRoi
    except ImportError as error:
        raise MissingExtraError("formats", f"reading ImageJ ROIs ({path})") from error

    name = path.name
    try:
        if path.suffix.lower() == ROI_SUFFIX:
            return [(name, ImagejRoi.frombytes(path.read_bytes()))]
        with zipfile.ZipFile(path) as packed:
            rois = []
            for item in packed.infolist():
                name = item.filename
                if item.file_size > _LARGEST:
                    raise ValueError(f"it has {item.file_size} bytes")
                if name.lower().endswith(ROI_SUFFIX):
                    rois.append((name, ImagejRoi.frombytes(packed.read(item))))
            return rois
    except Exception as error:  # roifile raises whatever a damaged file makes it stumble over
        raise DatasetError(
            f"{path}: expected an ImageJ ROI as {name}, found a damaged or unknown one ({error}); save it again in Fiji"
        ) from error


def _class_of(name: str) -> str:
    """`pore-12` is the 12th pore; what ImageJ calls by its place has no name."""
    return "roi" if _GIVEN_BY_IMAGEJ.fullmatch(name) else _COUNTER.sub("", name).strip() or "roi"


def _rings(roi: Any) -> list[Ring]:
    """Outlines, of which one within another is a hole; none of what has no area."""
    if roi.subtype.name in ("TEXT", "ARROW", "IMAGE") or roi.roitype.name not in _AREAS:
        return []
    if roi.composite or roi.roitype.name not in ("RECT", "OVAL"):
        rings = roi.coordinates(multi=True)
    else:
        left, top, right, bottom = roi.left, roi.top, roi.right, roi.bottom
        if roi.subpixelrect:
            left, top, right, bottom = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
        if roi.roitype.name == "RECT":
            rings = [rectangle(left, top, right, bottom)]
        else:
            rings = [ellipse((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)]
    return [np.asarray(ring, np.float64) for ring in rings if len(ring) > 2]
