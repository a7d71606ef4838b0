"""An evaluation as tables on the terminal, legible at 80 columns."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from matseg_shared.console.command import console
from matseg_trainer.evaluate.document import CrossValidation, EvaluationDocument
from matseg_trainer.evaluate.run import EvaluationOutputs

_WORST = 5

NAME_WIDTH = 12
"""Width of the names of the files that are listed in the end."""


def print_evaluation(result: EvaluationDocument, outputs: EvaluationOutputs) -> None:
    """Figures per class, boundaries and phase fractions, spread over the images, the worst images, the files."""
    out = console()
    if result.folds is not None:
        out.print(_folds_table(result, result.folds))
        out.print("every image, predicted by those that have not seen it:")
    out.print(_class_table(result))
    mean_iou, accuracy = _number(result.mean_iou, 5), _number(result.accuracy, 5)
    out.print(f"mean IoU {mean_iou}   accuracy {accuracy}   loss {result.loss:.5f}")
    out.print(_shape_table(result))
    out.print(
        f"all boundaries: {_number(result.boundary.displacement)} px, F1 {_number(result.boundary.f1)}   "
        f"calibration error {result.calibration_error:.5f}   Brier {result.brier:.5f}"
    )
    if len(result.images) > 1:
        out.print(_spread_table(result))
    out.print("worst images first:")
    for image in result.worst_first[:_WORST]:
        why, mean_iou = image.disagreement, _number(image.mean_iou)
        out.print(f"  {why.rank}. {image.stem}, mean IoU {mean_iou}: {why.reason}", markup=False)
    for name in ("predictions", "overlays", "metrics", "table", "confusion", "reliability"):
        if (path := getattr(outputs, name)) is not None:  # in one piece, to be copied
            out.print(f"  {name:<{NAME_WIDTH}} {path}", markup=False, soft_wrap=True)


def _folds_table(result: EvaluationDocument, folds: CrossValidation) -> Table:
    """Every training on the images of its fold, then the spread over them."""
    columns = ["mean IoU", "accuracy", *(f"IoU {item.name}" for item in result.classes)]
    table = _table(f"{result.title}: {len(folds.images)} folds", "training", "images", *columns)
    for one in folds.trainings:
        values = (one.mean_iou, one.accuracy, *one.iou)
        images = str(len(folds.images[one.fold - 1]))
        table.add_row(f"fold {one.fold} seed {one.seed}", images, *map(_number, values))
    table.add_section()
    spreads = (folds.mean_iou, folds.accuracy, *folds.iou)
    for name in ("median", "minimum", "maximum", "mean"):
        table.add_row(name, "", *(_number(None if one is None else getattr(one, name)) for one in spreads))
    return table


def _class_table(result: EvaluationDocument) -> Table:
    title = f"{result.title}: {len(result.images)} image(s)"
    if result.unlabelled:
        title += f", {result.labelled_share:.2%} of their pixels labelled"
    table = _table(title, "class", "IoU", "precision", "recall", "F1", "labelled px")
    for item in result.classes:
        figures = (getattr(result, name)[item.index] for name in ("iou", "precision", "recall", "f1"))
        labelled = sum(result.confusion_matrix[item.index])
        table.add_row(escape(item.name), *(_number(value, 5) for value in figures), f"{labelled:,}")
    return table


def _shape_table(result: EvaluationDocument) -> Table:
    table = _table(
        f"phase fractions, and boundaries (F1 within {result.boundary_tolerance:g} px)",
        *("class", "labelled", "predicted", "error", "displaced px", "F1"),
    )
    for item in result.classes:
        boundary = result.class_boundaries[item.index]
        table.add_row(
            escape(item.name),
            f"{result.labelled_fraction[item.index]:.3%}",
            f"{result.predicted_fraction[item.index]:.3%}",
            f"{result.fraction_error[item.index]:+.3%}",
            _number(boundary.displacement),
            _number(boundary.f1),
        )
    return table


def _spread_table(result: EvaluationDocument) -> Table:
    table = _table("image by image", "", "median", "quartiles", "lowest", "highest")
    spread = result.spread
    rows = [
        ("mean IoU", spread.mean_iou, ".4f"),
        ("accuracy", spread.accuracy, ".4f"),
        ("displaced px", spread.boundary_displacement, ".4f"),
        ("boundary F1", spread.boundary_f1, ".4f"),
        ("calibration error", spread.calibration_error, ".4f"),
        *((f"IoU {item.name}", spread.iou[item.index], ".4f") for item in result.classes),
        *((f"error {item.name}", spread.fraction_error[item.index], "+.3%") for item in result.classes),
    ]
    for name, one, form in rows:
        cells = ["-"] * 4
        if one is not None:
            quartiles = f"{one.lower_quartile:{form}} {one.upper_quartile:{form}}"
            cells = [f"{one.median:{form}}", quartiles, f"{one.minimum:{form}}", f"{one.maximum:{form}}"]
        table.add_row(escape(name), *cells)
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)  # a narrow terminal folds the names only
    return table


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
