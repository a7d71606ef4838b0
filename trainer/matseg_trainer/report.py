"""An evaluation as tables on the terminal."""

from __future__ import annotations

import math

from rich.table import Table

from matseg_shared.command import console
from matseg_shared.metrics import segmentation_metrics
from matseg_trainer.evaluate import Evaluation, EvaluationOutputs


def print_evaluation(result: Evaluation, outputs: EvaluationOutputs) -> None:
    """Per-class figures, totals, the worst images, and where the pictures are."""
    metrics = segmentation_metrics(result.matrix)
    table = Table(
        title=f"{result.name} on {result.split}: {len(result.images)} image(s)", title_justify="left"
    )
    table.add_column("class")
    for heading in ("IoU", "precision", "recall", "F1", "labelled pixels"):
        table.add_column(heading, justify="right")
    for item, labelled in zip(result.classes, result.matrix.sum(axis=1), strict=True):
        figures = (getattr(metrics, name)[item.index] for name in ("iou", "precision", "recall", "f1"))
        table.add_row(item.name, *(_figure(value) for value in figures), f"{labelled:,}")
    out = console()
    out.print(table)
    out.print(
        f"mean IoU {_figure(metrics.mean_iou)}   accuracy {_figure(metrics.accuracy)}   loss {result.loss:.5f}"
    )
    by_iou = sorted(result.images, key=lambda image: segmentation_metrics(image.matrix).mean_iou)
    worst = ", ".join(
        f"{image.stem} ({_figure(segmentation_metrics(image.matrix).mean_iou)})" for image in by_iou[:3]
    )
    out.print(f"lowest mean IoU: {worst}")
    out.print(f"  predictions  {outputs.predictions}")
    if outputs.overlays is not None:
        out.print(f"  overlays     {outputs.overlays}")
    out.print(f"  metrics      {outputs.metrics}\n  confusion    {outputs.confusion}")


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.5f}"
