"""Pictures of an evaluation: confusion matrix and reliability diagram."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.system.files import atomic_write
from matseg_trainer.evaluate.document import EvaluationDocument
from matseg_trainer.evaluate.metrics import ConfusionMatrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE = "#0072b2"


def plot_confusion(path: Path, title: str, matrix: ConfusionMatrix, classes: Sequence[ClassInfo]) -> None:
    """Draw the confusion matrix, each row as shares of the labelled class, with pixel counts, as PNG."""
    from matplotlib.figure import Figure

    names = [item.name for item in classes]
    rows = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    size = 2.5 + 0.9 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text, colour = f"{share:.2%}\n{matrix[row, column]:,}", "white" if share < 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize="small", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="labelled")
    axes.set_title(title, fontsize="medium")
    figure.colorbar(picture, ax=axes, label="share of the labelled class")
    save_figure(figure, path)


def plot_reliability(path: Path, title: str, result: EvaluationDocument) -> None:
    """Draw the reliability diagram, accuracy against confidence per bin, and the pixels of each bin, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [item for item in result.reliability if item.pixels]
    confidence = np.array([item.confidence for item in bins], np.float64)
    accuracy = np.array([item.accuracy for item in bins], np.float64)
    curve.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--", label="calibrated")
    curve.plot(confidence, accuracy, color=_BLUE, marker="o", label="model")
    curve.set(ylabel="share of right pixels", ylim=(0, 1.02))
    curve.legend(frameon=False, loc="upper left")
    figures = f"calibration error {result.calibration_error:.4f}, Brier score {result.brier:.4f}"
    curve.set_title(f"{title}\n{figures}", fontsize="medium")
    for item in result.reliability:
        counts.bar(item.lower, item.pixels, width=item.upper - item.lower, align="edge", color=_BLUE)
    counts.set(yscale="log", ylabel="pixels", xlabel="probability of the predicted class", xlim=(0, 1.02))
    for axes in (curve, counts):
        axes.grid(alpha=0.25)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())
