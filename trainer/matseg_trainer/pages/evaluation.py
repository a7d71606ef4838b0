"""The page of an evaluation, from the JSON document that `matseg-evaluate` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matseg_shared.images.palette import Colour
from matseg_shared.pages.charts import BLUE, ORANGE, Chart, Series
from matseg_shared.pages.page import Fact, Template, count, figure, percent, require_report_extra, write_page
from matseg_shared.pages.pictures import visible_colours
from matseg_trainer.evaluate.document import EvaluationDocument, Spread, read_evaluation
from matseg_trainer.pages.evaluation_pictures import ShownImage, take_pictures
from matseg_trainer.pages.places import page_path

_TEMPLATE = Template(package="matseg_trainer.pages", name="evaluation.html.j2", scripts=("wipe.js",))
SpreadKind = Literal["figure", "share", "difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationContent:
    """Content of the template, beside the document itself."""

    document: EvaluationDocument
    colours: tuple[Colour, ...]
    """Per class, as they can be seen."""
    tiles: tuple[Fact, ...]
    shown: tuple[ShownImage, ...]
    wrong_text: str
    spreads: tuple[tuple[str, Spread | None, SpreadKind], ...]
    """Name, spread over the images and kind of each figure."""
    files: tuple[Fact, ...]


def write_evaluation_page(metrics: Path, show: Sequence[int] | None = None) -> Path:
    """Make the page of an evaluation, from its JSON document; only the images it shows are read.

    `show`: channels of the images, one or three; None: colours, else the first.

    Returns:
        The page, see `page_path`.

    Raises:
        MissingExtraError: the extra `report` is not installed.
        MetadataError: the document is missing, or none of this version.
        OutputError: the page cannot be written.
    """
    target = page_path(metrics)
    require_report_extra(target.name)
    document = read_evaluation(metrics)
    shown = take_pictures(document, metrics.parent, show or ())
    names = [item.name for item in document.classes]
    wrong = "wrong pixels pink"
    if len(names) == 2:
        wrong = f"wrong pixels: {names[1]} found where there is none green, {names[1]} missed pink"
    if document.unlabelled:
        wrong += "; what nobody labelled is hatched, and in no figure"
    content = EvaluationContent(
        document=document,
        colours=visible_colours([item.colour for item in document.classes]),
        tiles=_tiles(document),
        shown=shown,
        wrong_text=wrong,
        spreads=tuple(_spreads(document, names)),
        files=(
            Fact(name="model", value=document.model, code=True),
            Fact(name="figures", value=str(metrics), code=True),
            Fact(name="boundary tolerance", value=f"{document.boundary_tolerance:g} pixels"),
            Fact(name="images", value=str(len(document.images))),
            Fact(
                name="labelled pixels", value=f"{count(document.pixels)} ({percent(document.labelled_share)})"
            ),
        ),
    )
    title, charts = f"{document.title}: evaluation", _reliability(document)
    write_page(target, _TEMPLATE, title=title, content=content, charts=charts, data={"images": shown})
    return target


def _tiles(document: EvaluationDocument) -> tuple[Fact, ...]:
    boundary = document.boundary
    displaced = "–" if boundary.displacement is None else f"{boundary.displacement:.2f} px"
    spread = ""
    if (folds := document.folds) is not None:
        spread = f"folds {folds.mean_iou.minimum:.3f} to {folds.mean_iou.maximum:.3f}; images "
    rows = (
        ("mean IoU", figure(document.mean_iou), spread + _range(document.spread.mean_iou)),
        ("accuracy", percent(document.accuracy), "share of pixels with the right class"),
        ("boundary displacement", displaced, "mean distance of predicted and labelled boundaries"),
        ("boundary F1", figure(boundary.f1, 3), f"within {document.boundary_tolerance:g} pixels"),
        ("calibration error", percent(document.calibration_error), "confidence against truth"),
        ("loss", figure(document.loss), "nats per pixel"),
    )
    return tuple(Fact(name=name, value=value, note=note) for name, value, note in rows)


def _range(spread: Spread | None) -> str:
    if spread is None or spread.images < 2:
        return "of one image" if spread is not None else ""
    return f"{spread.minimum:.3f} to {spread.maximum:.3f} over {spread.images} images"


def _spreads(
    document: EvaluationDocument, names: Sequence[str]
) -> Iterator[tuple[str, Spread | None, SpreadKind]]:
    spread = document.spread
    yield "mean IoU", spread.mean_iou, "figure"
    for name, iou in zip(names, spread.iou, strict=True):
        yield f"IoU of {name}", iou, "figure"
    yield "accuracy", spread.accuracy, "figure"
    yield "boundary displacement (px)", spread.boundary_displacement, "figure"
    yield "boundary F1", spread.boundary_f1, "figure"
    for name, error in zip(names, spread.fraction_error, strict=True):
        yield f"phase fraction error of {name}", error, "difference"
    yield "calibration error", spread.calibration_error, "share"


def _reliability(document: EvaluationDocument) -> tuple[Chart, ...]:
    bins = [item for item in document.reliability if item.pixels]
    confidence, accuracy = [item.confidence for item in bins], [item.accuracy for item in bins]
    middles = [(item.lower + item.upper) / 2 for item in document.reliability]
    total = max(1, document.pixels)
    shares = [item.pixels / total if item.pixels else None for item in document.reliability]
    return (
        Chart(
            id="reliability",
            title="Reliability diagram",
            summary="Below the dashed line the model is surer than it is right; above it, less sure.",
            x_title="confidence",
            y_title="accuracy",
            series=[
                Series(name="perfect", x=[0, 1], y=[0, 1], dash="dash", width=1),
                Series(name="this model", x=confidence, y=accuracy, colour=BLUE, kind="marked"),
            ],
            x_range=(0, 1.02),
            y_range=(0, 1.02),
            height=380,
        ),
        Chart(
            id="confidence",
            title="How sure the model is",
            summary="Share of all pixels by the probability of their most probable class, on a logarithmic scale.",
            x_title="confidence",
            y_title="share of the pixels",
            series=[Series(name="pixels", x=middles, y=shares, kind="bars", colour=ORANGE)],
            x_range=(0, 1.02),
            y_log=True,
            height=380,
        ),
    )
