"""What one epoch of a training scored: a line of its log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matseg_trainer.config.versions import Keep, kept_index
from matseg_trainer.evaluate.metrics import segmentation_metrics
from matseg_trainer.train.step import RunningScore


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitScore:
    """What one split scored in one epoch."""

    loss: float
    accuracy: float
    mean_iou: float
    iou: tuple[float | None, ...]
    """Per class; None where a class occurs neither in the labels nor in the predictions."""

    @classmethod
    def of(cls, score: RunningScore) -> SplitScore:
        """From summed counts."""
        metrics = segmentation_metrics(score.matrix)
        iou = tuple(None if math.isnan(value) else value for value in metrics.iou)
        return cls(loss=score.loss, accuracy=metrics.accuracy, mean_iou=metrics.mean_iou, iou=iou)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of the log."""

    epoch: int
    """Counted from 1."""
    lr: float
    """Learning rate of its last step."""
    train: SplitScore
    """Of the augmented samples, while the weights were changing."""
    validate: SplitScore
    """Of whole validation images, in fp32, after the epoch."""
    seconds: float

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EpochRecord:
        """The inverse of `asdict`."""
        splits = {
            name: SplitScore(**{**values[name], "iou": tuple(values[name]["iou"])})
            for name in ("train", "validate")
        }
        return cls(**{**values, **splits})


def kept_epoch(records: Sequence[EpochRecord], keep: Keep) -> EpochRecord:
    """The epoch whose weights are kept."""
    return records[kept_index([record.validate.mean_iou for record in records], keep)]
