"""Pictures of a training and of an evaluation."""

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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from matseg_trainer.config.versions import Keep
    from matseg_trainer.train.epoch_record import EpochRecord

_TRAIN = "#0072b2"
_VALIDATE = "#d55e00"


def plot_training(
    path: Path, title: str, records: Sequence[EpochRecord], classes: Sequence[ClassInfo], keep: Keep
) -> None:
    """Loss, accuracy, IoU and learning rate per epoch, as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    from matseg_trainer.train.epoch_record import kept_epoch

    epochs = [record.epoch for record in records]
    figure = Figure(figsize=(11, 7), layout="constrained")
    loss, accuracy, iou, rate = figure.subplots(2, 2).ravel()
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for split, colour in (("train", _TRAIN), ("validate", _VALIDATE)):
            values = [getattr(getattr(record, split), name) for record in records]
            axes.plot(epochs, values, color=colour, marker=".", label=split)
        axes.legend(frameon=False)
    _forget_the_start(accuracy, [[r.train.accuracy for r in records], [r.validate.accuracy for r in records]])
    loss.set_ylabel("cross-entropy (nats)")
    loss.set_yscale("log")
    accuracy.set_ylabel("global accuracy")
    kept = kept_epoch(records, keep)
    for item in classes:
        values = [record.validate.iou[item.index] for record in records]
        iou.plot(epochs, [np.nan if v is None else v for v in values], marker=".", lw=1, label=item.name)
    iou.plot(epochs, [r.train.mean_iou for r in records], color=_TRAIN, ls=":", label="mean, train")
    iou.plot(epochs, [r.validate.mean_iou for r in records], color="black", lw=2, label="mean")
    shown = [[value for value in record.validate.iou if value is not None] for record in records]
    _forget_the_start(iou, [[min(values) for values in shown if values], [r.train.mean_iou for r in records]])
    text = f"{keep}: {kept.validate.mean_iou:.4f} in epoch {kept.epoch}"
    iou.axvline(kept.epoch, color="grey", lw=0.8, ls="--", label=text)
    iou.set_ylabel("validation IoU")
    iou.legend(frameon=False, fontsize="small")
    rate.plot(epochs, [record.lr for record in records], color="black", marker=".")
    rate.set_ylabel("learning rate")
    rate.set_yscale("log")
    for axes in (loss, accuracy, iou, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    _save(figure, path)


def _forget_the_start(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Let the axis begin where the curves are after the first quarter, so that their ends can be told apart."""
    lowest = min(min(values[len(values) // 4 :]) for values in curves if values)
    axes.set_ylim(max(0.0, lowest - 0.25 * (1 - lowest) - 0.002), 1 + 0.02 * (1 - lowest))


def plot_confusion(path: Path, title: str, matrix: ConfusionMatrix, classes: Sequence[ClassInfo]) -> None:
    """The confusion matrix, each row as shares of the labelled class, with pixel counts, as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    names = [item.name for item in classes]
    rows = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    size = 2.5 + 0.9 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        axes.text(
            column,
            row,
            f"{share:.2%}\n{matrix[row, column]:,}",
            ha="center",
            va="center",
            fontsize="small",
            color="white" if share < 0.5 else "black",
        )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    axes.set_title(title, fontsize="medium")
    figure.colorbar(picture, ax=axes, label="share of the labelled class")
    _save(figure, path)


def plot_reliability(path: Path, title: str, result: EvaluationDocument) -> None:
    """The reliability diagram: accuracy against confidence per bin, and how many pixels each bin holds, as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [item for item in result.reliability if item.pixels]
    confidence = [np.nan if item.confidence is None else item.confidence for item in bins]
    accuracy = [np.nan if item.accuracy is None else item.accuracy for item in bins]
    curve.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--", label="calibrated")
    curve.plot(confidence, accuracy, color=_TRAIN, marker="o", label="model")
    curve.set_ylabel("share of right pixels")
    curve.set_ylim(0, 1.02)
    curve.legend(frameon=False, loc="upper left")
    curve.set_title(
        f"{title}\ncalibration error {result.calibration_error:.4f}, Brier score {result.brier:.4f}",
        fontsize="medium",
    )
    for item in result.reliability:
        counts.bar(item.lower, item.pixels, width=item.upper - item.lower, align="edge", color=_TRAIN)
    counts.set_yscale("log")
    counts.set_ylabel("pixels")
    counts.set_xlabel("probability of the predicted class")
    counts.set_xlim(0, 1.02)
    for axes in (curve, counts):
        axes.grid(alpha=0.25)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())
