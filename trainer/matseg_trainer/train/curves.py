"""The curves of a training as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.evaluate.plots import save_figure
from matseg_trainer.train.log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRAIN = "#0072b2"
_VALIDATE = "#d55e00"


def plot_training(path: Path, title: str, log: TrainingLog, classes: Sequence[ClassInfo]) -> None:
    """Loss, accuracy, IoU and learning rate per epoch, as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    records, kept = log.epochs, log.kept
    epochs = [record.epoch for record in records]
    train, measured = [record.train for record in records], [record.measured for record in records]
    splits = [("train", train, _TRAIN), ("validate", measured, _VALIDATE)][: 1 + log.is_validated]
    figure = Figure(figsize=(11, 7), layout="constrained")
    loss, accuracy, iou, rate = figure.subplots(2, 2).ravel()
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for split, scores, colour in splits:
            values = [getattr(score, name) for score in scores]
            axes.plot(epochs, values, color=colour, marker=".", label=split)
        axes.legend(frameon=False)
    _forget_the_start(accuracy, [[score.accuracy for score in scores] for scores in (train, measured)])
    loss.set_ylabel("cross-entropy (nats)")
    loss.set_yscale("log")
    accuracy.set_ylabel("global accuracy")
    for item in classes:
        values = [score.iou[item.index] for score in measured]
        iou.plot(epochs, [np.nan if v is None else v for v in values], marker=".", lw=1, label=item.name)
    iou.plot(epochs, [score.mean_iou for score in train], color=_TRAIN, ls=":", label="mean, train")
    iou.plot(epochs, [score.mean_iou for score in measured], color="black", lw=2, label="mean")
    shown = [[value for value in score.iou if value is not None] for score in measured]
    _forget_the_start(iou, [[min(values) for values in shown if values], [score.mean_iou for score in train]])
    text = f"{log.checkpoint}: {kept.measured.mean_iou:.4f} in epoch {kept.epoch}"
    iou.axvline(kept.epoch, color="grey", lw=0.8, ls="--", label=text)
    iou.set_ylabel("validation IoU" if log.is_validated else "training IoU")
    iou.legend(frameon=False, fontsize="small")
    rate.plot(epochs, [record.lr for record in records], color="black", marker=".")
    rate.set_ylabel("learning rate")
    rate.set_yscale("log")
    for axes in (loss, accuracy, iou, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    save_figure(figure, path)


def _forget_the_start(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Let the axis begin where the curves are after the first quarter, so that their ends can be told apart."""
    lowest = min(min(values[len(values) // 4 :]) for values in curves if values)
    axes.set_ylim(max(0.0, lowest - 0.25 * (1 - lowest) - 0.002), 1 + 0.02 * (1 - lowest))
