"""The page of an evaluation, from the JSON document that `matseg-evaluate` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matseg_shared.images.palette import Colour
from matseg_shared.pages.charts import BLUE, ORANGE, Chart, Series
from matseg_shared.pages.page import Template, count, figure, percent, require_report_extra, write_page
from matseg_shared.pages.parts import Fact
from matseg_shared.pages.pictures import visible_colours
from matseg_trainer.evaluate.document import EvaluationDocument, ImageResult, Spread, read_evaluation
from matseg_trainer.pages.evaluation_pictures import ShownImage, take_pictures
from matseg_trainer.pages.places import page_path

_TEMPLATE = Template(package="matseg_trainer.pages", name="evaluation.html.j2", scripts=("wipe.js",))
_CLASS_COLUMNS = 6
"""The table of images has a column per class up to so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class's pooled figures."""

    name: str
    colour: Colour
    iou: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    boundary_f1: float | None
    displacement: float | None
    labelled: float
    predicted: float
    error: float
    pixels: int
    """Labelled so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the confusion matrix."""

    pixels: int
    share: float | None
    """Of its row; None where the class is not in the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One labelled class."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadRow:
    """One figure over the images."""

    name: str
    spread: Spread | None
    kind: Literal["figure", "share", "difference"] = "figure"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One image in the table."""

    result: ImageResult
    is_shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WipeData:
    """What the wipe works with."""

    images: tuple[ShownImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationContent:
    """What the template shows."""

    document: EvaluationDocument
    missing: tuple[str, ...]
    tiles: tuple[Fact, ...]
    shown: tuple[ShownImage, ...]
    wrong_text: str
    classes: tuple[ClassRow, ...]
    matrix: tuple[MatrixRow, ...]
    spreads: tuple[SpreadRow, ...]
    images: tuple[ImageRow, ...]
    class_columns: tuple[str, ...]
    reliability_text: str
    files: tuple[Fact, ...]


def write_evaluation_page(metrics: Path, path: Path | None = None) -> Path:
    """Make the page of an evaluation; only the images it shows are read.

    Args:
        metrics: the JSON document.
        path: of the page; None: `page_path`.

    Returns:
        The page.

    Raises:
        MissingExtraError: the extra `report` is not installed.
        MetadataError: the document is missing, or none of this version.
        OutputError: the page cannot be written.
    """
    target = path or page_path(metrics)
    require_report_extra(target.name)
    document = read_evaluation(metrics)
    shown = take_pictures(document, metrics.parent)
    write_page(
        target,
        _TEMPLATE,
        title=f"{document.title}: evaluation",
        content=_content(document, metrics, shown),
        charts=_reliability(document),
        data=WipeData(images=shown),
    )
    return target


def _content(document: EvaluationDocument, metrics: Path, shown: tuple[ShownImage, ...]) -> EvaluationContent:
    names = tuple(item.name for item in document.classes)
    bad = sum(bool(item.problems) for item in shown)
    missing = (
        []
        if not bad
        else [f"{bad} of the {len(shown)} images shown are missing or have changed; each says how."]
    )
    stems = {item.stem for item in shown}
    colours = visible_colours([item.colour for item in document.classes])
    return EvaluationContent(
        document=document,
        missing=tuple(missing),
        tiles=_tiles(document),
        shown=shown,
        wrong_text=_wrong_text(names),
        classes=_class_rows(document, colours),
        matrix=_matrix(document, names),
        spreads=_spreads(document, names),
        images=tuple(ImageRow(result=item, is_shown=item.stem in stems) for item in document.worst_first),
        class_columns=names if len(names) <= _CLASS_COLUMNS else (),
        reliability_text=_reliability_text(document),
        files=(
            Fact(name="model", value=document.model, code=True),
            Fact(name="figures", value=str(metrics), code=True),
            Fact(name="boundary tolerance", value=f"{document.boundary_tolerance:g} pixels"),
            Fact(name="images", value=str(len(document.images))),
            Fact(name="pixels", value=count(document.pixels)),
        ),
    )


def _wrong_text(names: Sequence[str]) -> str:
    if len(names) == 2:
        return f"wrong pixels: {names[1]} found where there is none green, {names[1]} missed pink"
    return "wrong pixels pink"


def _tiles(document: EvaluationDocument) -> tuple[Fact, ...]:
    boundary = document.boundary
    return (
        Fact(name="mean IoU", value=figure(document.mean_iou), note=_range(document.spread.mean_iou)),
        Fact(name="accuracy", value=percent(document.accuracy), note="share of pixels with the right class"),
        Fact(
            name="boundary displacement",
            value="–" if boundary.displacement is None else f"{boundary.displacement:.2f} px",
            note="mean distance of predicted and labelled boundaries",
        ),
        Fact(
            name="boundary F1",
            value=figure(boundary.f1, 3),
            note=f"within {document.boundary_tolerance:g} pixels",
        ),
        Fact(
            name="calibration error",
            value=percent(document.calibration_error),
            note="confidence against truth",
        ),
        Fact(name="loss", value=figure(document.loss), note="nats per pixel"),
    )


def _range(spread: Spread | None) -> str:
    if spread is None or spread.images < 2:
        return "of one image" if spread is not None else ""
    return f"{spread.minimum:.3f} to {spread.maximum:.3f} over {spread.images} images"


def _class_rows(document: EvaluationDocument, colours: Sequence[Colour]) -> tuple[ClassRow, ...]:
    return tuple(
        ClassRow(
            name=item.name,
            colour=colour,
            iou=document.iou[item.index],
            precision=document.precision[item.index],
            recall=document.recall[item.index],
            f1=document.f1[item.index],
            boundary_f1=document.class_boundaries[item.index].f1,
            displacement=document.class_boundaries[item.index].displacement,
            labelled=document.labelled_fraction[item.index],
            predicted=document.predicted_fraction[item.index],
            error=document.fraction_error[item.index],
            pixels=sum(document.confusion_matrix[item.index]),
        )
        for item, colour in zip(document.classes, colours, strict=True)
    )


def _matrix(document: EvaluationDocument, names: Sequence[str]) -> tuple[MatrixRow, ...]:
    rows = []
    for name, counts in zip(names, document.confusion_matrix, strict=True):
        total = sum(counts)
        cells = tuple(Cell(pixels=number, share=number / total if total else None) for number in counts)
        rows.append(MatrixRow(name=name, cells=cells))
    return tuple(rows)


def _spreads(document: EvaluationDocument, names: Sequence[str]) -> tuple[SpreadRow, ...]:
    spread = document.spread
    rows = [
        SpreadRow(name="mean IoU", spread=spread.mean_iou),
        *(
            SpreadRow(name=f"IoU of {name}", spread=value)
            for name, value in zip(names, spread.iou, strict=True)
        ),
        SpreadRow(name="accuracy", spread=spread.accuracy),
        SpreadRow(name="boundary displacement (px)", spread=spread.boundary_displacement),
        SpreadRow(name="boundary F1", spread=spread.boundary_f1),
        *(
            SpreadRow(name=f"phase fraction error of {name}", spread=value, kind="difference")
            for name, value in zip(names, spread.fraction_error, strict=True)
        ),
        SpreadRow(name="calibration error", spread=spread.calibration_error, kind="share"),
    ]
    return tuple(rows)


def _reliability(document: EvaluationDocument) -> tuple[Chart, ...]:
    bins = [item for item in document.reliability if item.pixels]
    total = max(1, document.pixels)
    diagonal = Series(name="perfect", x=[0, 1], y=[0, 1], dash="dash", width=1)
    curve = Series(
        name="this model",
        x=[item.confidence for item in bins],
        y=[item.accuracy for item in bins],
        colour=BLUE,
        kind="marked",
    )
    return (
        Chart(
            id="reliability",
            title="Reliability diagram",
            summary="Below the dashed line the model is surer than it is right; above it, less sure.",
            x_title="confidence",
            y_title="accuracy",
            series=[diagonal, curve],
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
            series=[
                Series(
                    name="pixels",
                    x=[(item.lower + item.upper) / 2 for item in document.reliability],
                    y=[item.pixels / total if item.pixels else None for item in document.reliability],
                    kind="bars",
                    colour=ORANGE,
                )
            ],
            x_range=(0, 1.02),
            y_log=True,
            height=380,
        ),
    )


def _reliability_text(document: EvaluationDocument) -> str:
    return (
        f"Expected calibration error {document.calibration_error:.2%}; Brier score {document.brier:.4f}; "
        f"cross-entropy {document.loss:.4f} nats."
    )
