"""The curves of a training as one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.evaluate.plots import save_figure
from matseg_trainer.train.log import TrainingLog

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
    late = late_range([[score.accuracy for score in scores] for scores in (train, measured)])
    loss.set(ylabel="cross-entropy (nats)", yscale="log")
    accuracy.set(ylabel="global accuracy", ylim=late)
    by_class = [[score.iou[item.index] for score in measured] for item in classes]
    for item, curve in zip(classes, by_class, strict=True):
        iou.plot(epochs, [np.nan if v is None else v for v in curve], marker=".", lw=1, label=item.name)
    iou.plot(epochs, [score.mean_iou for score in train], color=_TRAIN, ls=":", label="mean, train")
    iou.plot(epochs, [score.mean_iou for score in measured], color="black", lw=2, label="mean")
    iou.set_ylim(late_range([*by_class, [score.mean_iou for score in train]]))
    text = f"{log.checkpoint}: {kept.measured.mean_iou:.4f} in epoch {kept.epoch}"
    iou.axvline(kept.epoch, color="grey", lw=0.8, ls="--", label=text)
    iou.set_ylabel("validation IoU" if log.is_validated else "training IoU")
    iou.legend(frameon=False, fontsize="small")
    rate.plot(epochs, [record.lr for record in records], color="black", marker=".")
    rate.set(ylabel="learning rate", yscale="log")
    for axes in (loss, accuracy, iou, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    save_figure(figure, path)


def late_range(curves: Iterable[Sequence[float | None]]) -> tuple[float, float]:
    """Range of an axis that begins where shares are after the first quarter, so that their ends can be told apart."""
    late = [value for curve in curves for value in curve[len(curve) // 4 :] if value is not None]
    lowest = min(late, default=0.0)
    return max(0.0, lowest - 0.25 * (1 - lowest) - 0.002), 1 + 0.02 * (1 - lowest)
