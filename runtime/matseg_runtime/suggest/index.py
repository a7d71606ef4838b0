"""The list of what was proposed for labelling, `index.json` in `<OUT>_uncertain/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from matseg_runtime.records import Record
from matseg_shared.contract.tiling import Box

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
    return {"y": box.y0, "x": box.x0, "height": box.shape[0], "width": box.shape[1]}


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

    def proposes(self, model_sha256: str, places: Sequence[tuple[str, Box | None]]) -> bool:
        """True where it comes from that model and holds these places, each a name and a box."""
        return self.model_sha256 == model_sha256 and [(item.name, item.box) for item in self.items] == places


def read_index(folder: Path) -> UncertainIndex | None:
    """The index in a folder; None where there is none that can be read."""
    try:
        return UncertainIndex.model_validate_json((folder / INDEX_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def folder_beside(ledger_folder: Path, path: Path) -> Path:
    """Folder of proposals: beside the labels at `path`, named after them, never within the zarr of another image."""
    if ledger_folder.parent == path:  # a folder of label images
        return path.with_name(path.name + FOLDER_SUFFIX)
    stem = ledger_folder.name.removesuffix(".matseg")
    for suffix in (".zarr", ".tif", ".tiff", ".mhd", ".mha", ".nrrd", ".mrc"):
        stem = stem.removesuffix(suffix)
    return ledger_folder.with_name(stem + FOLDER_SUFFIX)
