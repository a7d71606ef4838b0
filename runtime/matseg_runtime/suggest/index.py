"""The list of what was proposed for labelling, `index.json` in `<OUT>_uncertain/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from matseg_runtime.records import Record
from matseg_shared.contract.tiling import Box
from matseg_shared.system.files import write_text

INDEX_NAME = "index.json"
FOLDER_SUFFIX = "_uncertain"


def _read_box(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if value.keys() != {"y", "x", "height", "width"}:
        raise ValueError("expected y, x, height and width")
    return Box(value["y"], value["x"], value["y"] + value["height"], value["x"] + value["width"])


def _write_box(box: Box | None) -> dict[str, int] | None:
    if box is None:
        return None
    height, width = box.shape
    return {"y": box.y0, "x": box.x0, "height": height, "width": width}


class UncertainItem(Record):
    """One slice or crop; paths are relative to the folder, with forward slashes."""

    name: str
    """Stem of its files."""
    slice: str
    """As its label image or ledger has it."""
    position: int
    """Position of the slice in the input, from 0."""
    where: str
    """The image, or the volume and the slice in it."""
    box: Annotated[Box | None, BeforeValidator(_read_box), PlainSerializer(_write_box)]
    """In pixels; None: the whole slice."""
    score: float
    """Share of its pixels in places where the model is unsure."""
    unsureness: float
    """Mean of one minus the probability of the best class."""
    image: str
    label: str
    map: str
    """Grey image: 0 where the model is sure, 255 where all classes are equally probable."""
    label_sha256: str
    """As it was written: another one now means that somebody has worked on it."""


class UncertainIndex(Record):
    """All that was proposed, the most uncertain first."""

    index_version: Literal[1] = 1
    model_name: str
    model_sha256: str
    input: str
    output: str
    asked: int
    """Slices or crops that were asked for."""
    crop: int | None
    """Edge in pixels; None: whole slices."""
    spacing: int
    """Slices between two that are chosen, at least."""
    least_confidence: float
    """On average over a neighbourhood; below it the model is unsure."""
    neighbourhood: int
    """Its edge in pixels."""
    window: str | None
    """Intensities that were mapped to the model's: the images hold the mapped ones. None: pixels as they were."""
    items: tuple[UncertainItem, ...]

    def proposes(self, other: UncertainIndex) -> bool:
        """True where both come from the same model and choose the same places."""
        return self.model_sha256 == other.model_sha256 and [(item.name, item.box) for item in self.items] == [
            (item.name, item.box) for item in other.items
        ]


def read_index(folder: Path) -> UncertainIndex | None:
    """The index in a folder; None where there is none that can be read."""
    try:
        return UncertainIndex.model_validate_json((folder / INDEX_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def write_index(folder: Path, index: UncertainIndex) -> None:
    """Write it into a folder.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(folder / INDEX_NAME, index.model_dump_json(indent=1) + "\n")


def folder_beside(ledger_folder: Path, path: Path, *, is_volume: bool) -> Path:
    """Where proposals go: beside the labels, named after them.

    Args:
        ledger_folder: of the output.
        path: of the output.
        is_volume: whether it is one file or zarr; its ledger is beside it then, and never within another zarr.
    """
    if not is_volume:
        return path.with_name(path.name + FOLDER_SUFFIX)
    stem = ledger_folder.name.removesuffix(".matseg")
    for suffix in (".zarr", ".tif", ".tiff"):
        stem = stem.removesuffix(suffix)
    return ledger_folder.with_name(stem + FOLDER_SUFFIX)
