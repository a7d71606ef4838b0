"""Recognition of the tool that an export comes from, by its content."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from matseg_shared.console.progress import Progress
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import IMAGE_SUFFIXES
from matseg_trainer.data.folder import shorten
from matseg_trainer.prepare.imports.base import Export, ImportRequest
from matseg_trainer.prepare.imports.coco import read_coco
from matseg_trainer.prepare.imports.cvat import LABELMAP, read_cvat
from matseg_trainer.prepare.imports.files import ImageFinder, files_in, load_json, unpacked
from matseg_trainer.prepare.imports.imagej import ROI_SUFFIX, is_roi_set, read_imagej
from matseg_trainer.prepare.imports.labelbox import read_labelbox
from matseg_trainer.prepare.imports.labelme import read_labelme
from matseg_trainer.prepare.imports.qupath import read_qupath
from matseg_trainer.prepare.imports.slices import Slices, is_label_array
from matseg_trainer.prepare.imports.via import PROJECT_KEY, read_via
from matseg_trainer.prepare.imports.volume import ilastik_axes, ilastik_pairs, read_volumes

_ROIS = "ROIs of ImageJ"
_ILASTIK = "ilastik"
_ARRAYS = "label values"
_JSON_SUFFIXES = (".json", ".geojson", ".ndjson")
_ADVICE = {
    "annotations.xml": "is of CVAT's own format; export the task as Segmentation mask 1.1 or COCO 1.0",
    ".ilp": "is a project of ilastik; export Labels or Simple Segmentation from it as HDF5",
}
"""For files that hold labels, and are none that is read."""
_TOOLS = (
    "CVAT segmentation masks (a folder or zip with labelmap.txt), COCO JSON, LabelMe JSON, QuPath GeoJSON, ImageJ ROIs "
    "(.roi, .zip), VIA JSON, Labelbox rows (.ndjson), HDF5 of ilastik, or "
    "label values (.npy, rows of numbers as text)"
)


def open_export(
    request: ImportRequest, known: Sequence[ClassInfo], opened: ExitStack, progress: Progress
) -> Export:
    """The pictures of an export, whose files `opened` closes; `known` has the classes of what it becomes a split of.

    Raises:
        UsageError: nothing is there, it is of no tool that is known, or of several; or as the tool's reader.
        MissingExtraError: an optional package is needed for it.
    """
    if request.labels is not None:
        if request.images is not None:
            raise UsageError(
                "--labels and --images cannot be combined: with --labels, SOURCE is the images themselves"
            )
        return read_volumes([(request.source, request.labels)], request, known, opened, progress)
    path = Path(request.source)
    if not path.exists():
        raise UsageError(f"{path}: there is no such export; name {_TOOLS}")
    if path.is_file() and zipfile.is_zipfile(path) and not is_roi_set(path):
        path = opened.enter_context(unpacked(path))
    tool, found = _recognised(path)
    files = [item[0] for item in found]
    _refuse_options(request, tool)
    folder = path if path.is_dir() else path.parent
    if request.images is not None and not Path(request.images).exists():
        raise UsageError(f"--images {request.images}: expected the folder of the pictures, found none")
    finder = ImageFinder(Path(request.images or folder), is_given=request.images is not None)
    if tool in (_ILASTIK, _ARRAYS):
        pairs = [(request.images or str(folder), str(path))]
        if tool == _ILASTIK:
            pairs = ilastik_pairs(files, request.images)
        return read_volumes(pairs, request, known, opened, progress)
    if tool == _ROIS:
        export = read_imagej(files, finder, _stack(files, request, finder, opened))
    elif tool in _OF_FILES:
        export = _OF_FILES[tool](found, finder)
    elif len(found) == 1:
        export = _OF_ONE_FILE[tool](*found[0], finder)
    else:
        raise UsageError(
            f"expected one such export, found {shorten([*map(str, files)])}; import each by itself, with its --split"
        )
    same = sum(item.image == finder.only for item in export.images)
    if finder.only is not None and same > 1:
        raise UsageError(f"--images {request.images}: expected the folder of {same} pictures, found one file")
    return export


_OF_ONE_FILE: dict[str, Callable[..., Export]] = {
    "CVAT": read_cvat,
    "COCO": read_coco,
    "VIA": read_via,
    "Labelbox": read_labelbox,
}
_OF_FILES: dict[str, Callable[[list[Any], ImageFinder], Export]] = {
    "LabelMe": read_labelme,
    "QuPath": read_qupath,
}


def _recognised(path: Path) -> tuple[str, list[tuple[Any, ...]]]:
    """The tool, and its files; JSON with what is in it."""
    files = files_in(path) if path.is_dir() else [path]
    by_tool: dict[str, list[tuple[Any, ...]]] = {}
    for file in files:
        tool, *content = _tool_of(file)
        by_tool.setdefault(tool, []).append((file, *content))
    by_tool.pop("", None)
    if len(by_tool) > 1:
        by_tool.pop(_ARRAYS, None)  # lists of numbers that a tool writes, too
    if len(by_tool) > 1:
        listing = "; ".join(
            f"{tool}: {shorten([str(item[0]) for item in found])}" for tool, found in by_tool.items()
        )
        raise UsageError(
            f"{path}: expected the export of one tool, found several; name one of them\n  {listing}"
        )
    if not by_tool:
        for file in files:
            if (advice := _ADVICE.get(file.name, _ADVICE.get(file.suffix))) is not None:
                raise UsageError(f"{file}: {advice}")
        raise UsageError(
            f"{path}: expected {_TOOLS}, found none of them; slices of a volume are imported with --labels, label "
            "images are read where they are (docs/data.md)"
        )
    return by_tool.popitem()


def _tool_of(file: Path) -> tuple[Any, ...]:
    """The tool that a file is of, "" for none; and the content of JSON."""
    suffix = file.suffix.lower()
    if file.name == LABELMAP:
        return ("CVAT",)
    if suffix == ROI_SUFFIX or (suffix not in IMAGE_SUFFIXES and is_roi_set(file)):
        return (_ROIS,)
    if suffix in _JSON_SUFFIXES:
        content = load_json(file)
        content = [content] if isinstance(content, dict) and "data_row" in content else content
        return _tool_of_json(file, content), content
    if suffix not in IMAGE_SUFFIXES and ilastik_axes(str(file)) is not None:
        return (_ILASTIK,)
    return (_ARRAYS if is_label_array(file) else "",)


def _tool_of_json(path: Path, content: Any) -> str:
    if isinstance(content, list) and content and isinstance(content[0], dict):
        first = content[0]
        if "data_row" in first:
            return "Labelbox"
        if "Labeled Data" in first:
            raise DatasetError(
                f"{path}: expected rows of Labelbox (.ndjson), found its export of before 2023; export it again"
            )
        return "QuPath" if first.get("type") == "Feature" else ""
    if content == []:
        return "QuPath"  # as it exports a picture without objects
    if not isinstance(content, dict):
        return ""
    if {"images", "annotations"} <= set(content):
        return "COCO"
    if "shapes" in content and "imagePath" in content:
        return "LabelMe"
    if content.get("type") in ("FeatureCollection", "Feature"):
        return "QuPath"
    pictures = content.get(PROJECT_KEY, content)
    if (
        isinstance(pictures, dict)
        and pictures
        and all(isinstance(item, dict) and {"filename", "regions"} <= set(item) for item in pictures.values())
    ):
        return "VIA"
    return ""


def _refuse_options(request: ImportRequest, tool: str) -> None:
    """Refuse with a UsageError options that do not apply to exports of a tool."""
    if tool in (_ILASTIK, _ARRAYS):
        return
    volumes = {"--axis": request.axis, "--axes": request.axes} if tool != _ROIS else {}
    values = {
        "--classes": request.classes,
        "--class": request.named or None,
        "--nearest": request.nearest or None,
    }
    for what, options in (("volumes", volumes), ("label values", values)):
        if given := [option for option, value in options.items() if value is not None]:
            raise UsageError(f"{given[0]} applies to {what}, not to an export of {tool}")


def _stack(
    files: list[Path], request: ImportRequest, finder: ImageFinder, opened: ExitStack
) -> Slices | None:
    """The stack that the positions of ROIs count in; None where there are pictures called as the sets of ROIs."""
    if request.images is None or len(files) > 1:
        return None
    if finder.only is None and finder.find(files[0].stem, files[0]) is not None:
        return None
    stack = Slices.open(request.images, request, opened)
    return stack if len(stack.names) > 1 else None
