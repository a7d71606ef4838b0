"""Results of `--quantify` and `--uncertain`, for the page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from matseg_runtime.measure.report import SUMMARY_3D_NAME, SUMMARY_NAME
from matseg_runtime.measure.stereology import ClassQuantities
from matseg_runtime.measure.tables import RegionSummary
from matseg_runtime.measure.tables_3d import ClassVolumes, VolumeSummary
from matseg_runtime.page.record import RunRecord
from matseg_runtime.suggest.index import UncertainItem, folder_beside, read_index
from matseg_shared.errors import ImageError
from matseg_shared.images.channels import to_shown
from matseg_shared.images.context import of_slice
from matseg_shared.images.palette import Colour
from matseg_shared.images.read import read_image
from matseg_shared.images.tiff import stored_context
from matseg_shared.pages.charts import Chart, Series, thinned
from matseg_shared.pages.page import css_colour
from matseg_shared.pages.pictures import GreyWindow, jpeg_uri, png_uri, shrink

PROPOSALS = 12
"""Number of places worth a label that are shown."""
_EDGE = 360
_DOUBT: Colour = (213, 94, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One place that is worth a label; pictures are data URIs, or "" when they are gone."""

    name: str
    place: str
    score: float
    image: str
    map: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """All of them."""

    text: str
    items: tuple[Proposal, ...]
    maps: tuple[tuple[str, Path], ...]
    """(slice name, map) of whole slices, for the slice browser."""


Summary = TypeVar("Summary", RegionSummary, VolumeSummary)


def read_measures(record: RunRecord, kind: type[Summary], problems: list[str]) -> Summary | None:
    """The regions, where they were measured; what cannot be read is added to `problems`."""
    path = record.places.report.with_name(SUMMARY_NAME if kind is RegionSummary else SUMMARY_3D_NAME)
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        if not isinstance(error, FileNotFoundError):
            problems.append(
                f"{path}: cannot be read as the measurements of the regions; run matseg-quantify again."
            )
        return None


def size_charts(summary: RegionSummary | VolumeSummary, colours: Sequence[Colour]) -> list[Chart]:
    """The sizes of the regions of each class; none where there are none."""
    is_volume = isinstance(summary, VolumeSummary)
    classes: Sequence[ClassQuantities | ClassVolumes] = summary.classes
    series = [
        Series(
            name=item.name,
            x=thinned([(bar.low + bar.high) / 2 for bar in item.histogram], 4),
            y=[bar.regions for bar in item.histogram],
            colour=css_colour(colour),
            kind="steps",
            group=index,
        )
        for index, (item, colour) in enumerate(zip(classes, colours, strict=False))
        if item.histogram
    ]
    chart = Chart(
        id="sizes_3d" if is_volume else "sizes",
        title="Sizes of the regions in three dimensions" if is_volume else "Sizes of the regions",
        summary="How many regions of the volume have which diameter; those at the border are left out."
        if is_volume
        else "How many regions of all slices have which diameter; those at the edge are left out.",
        x_title=f"diameter ({summary.unit})",
        y_title="regions",
        x_log=True,
        series=series,
        height=280,
    )
    return [chart] if series else []


def read_proposals(record: RunRecord) -> Proposals | None:
    """Read what `--uncertain` proposed for labelling; None where it was not asked."""
    folder = folder_beside(record.places.ledger, record.places.labels)
    index = read_index(folder)
    if index is None or index.model_sha256 != record.report.provenance.model_sha256:
        return None
    more = len(index.items) - PROPOSALS
    text = (
        f"Where the model was unsure: its confidence is below {index.least_confidence:g} on average over "
        f"{index.neighbourhood} × {index.neighbourhood} pixels. Images and first labels to correct are in {folder}."
    )
    return Proposals(
        text=text + (f" {more} more are in that folder." if more > 0 else ""),
        items=tuple(_proposal(item, folder) for item in index.items[:PROPOSALS]),
        maps=tuple((item.slice, folder / item.map) for item in index.items if item.box is None),
    )


def _proposal(item: UncertainItem, folder: Path) -> Proposal:
    place = f"slice {item.position}" + ("" if item.box is None else f", x {item.box.x0}, y {item.box.y0}")
    image = doubt = problem = ""
    try:
        path = folder / item.image
        small = shrink(to_shown(of_slice(read_image(path), stored_context(path))), _EDGE)
        image = jpeg_uri(small if small.dtype == np.uint8 else GreyWindow.of([small]).apply(small))
        doubt = doubt_uri(folder / item.map, _EDGE)
    except ImageError as error:
        problem = str(error)
    return Proposal(name=item.name, place=place, score=item.score, image=image, map=doubt, problem=problem)


def doubt_uri(path: Path, edge: int) -> str:
    """A low-confidence map as a coloured veil: clear where the model is sure.

    Raises:
        ImageError: the map cannot be read.
    """
    unsure = shrink(read_image(path), edge)
    if unsure.ndim != 2 or unsure.dtype != np.uint8:
        raise ImageError(path, f"expected a grey 8-bit map, found {unsure.dtype} of shape {unsure.shape}")
    veil: NDArray[np.uint8] = np.empty((*unsure.shape, 4), np.uint8)
    veil[..., :3] = _DOUBT
    veil[..., 3] = np.minimum(255, unsure.astype(np.uint16) * 2)
    return png_uri(veil)
