"""Accuracy that a precision costs on the validation images, and the most it may cost."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import segment_image
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.metadata import AccuracyInfo
from matseg_trainer.data.examples import Examples
from matseg_trainer.evaluate.metrics import confusion_matrix, segmentation_metrics
from matseg_trainer.predict.predictor import TILE

LARGEST_LOSS = 0.002
"""Loss of mean IoU against fp32 on the validation images."""
SPLIT = "validate"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccuracyCheck:
    """Mean IoU on the validation images, which a model of lower precision must (nearly) keep."""

    images: Examples
    n_class: int
    mean_iou_fp32: float
    progress: Progress = SILENT

    @classmethod
    def of(cls, images: Examples, n_class: int, fp32: bytes, progress: Progress = SILENT) -> AccuracyCheck:
        """With the fp32 model's figure measured."""
        progress.stage("measuring fp32", len(images), unit="images")
        mean_iou = _mean_iou(images, n_class, fp32, progress)
        return cls(images=images, n_class=n_class, mean_iou_fp32=mean_iou, progress=progress)

    def measure(self, content: bytes) -> AccuracyInfo:
        """Segment all images with the runtime; `content` is a whole model file."""
        self.progress.stage("measuring the new precision", len(self.images), unit="images")
        return AccuracyInfo(
            split=SPLIT,
            images=len(self.images),
            mean_iou=_mean_iou(self.images, self.n_class, content, self.progress),
            mean_iou_fp32=self.mean_iou_fp32,
        )


def passes(accuracy: AccuracyInfo) -> bool:
    """True where the loss is small enough."""
    return accuracy.mean_iou >= accuracy.mean_iou_fp32 - LARGEST_LOSS


def _mean_iou(images: Examples, n_class: int, content: bytes, progress: Progress) -> float:
    with tempfile.TemporaryDirectory(prefix="matseg-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        session = Session.open(path, provider="cpu", trust=MADE_HERE)
    matrix = np.zeros((n_class, n_class), dtype=np.int64)
    for image in images:
        labels = segment_image(session, image.pixels, tile=(TILE, TILE)).labels
        matrix += confusion_matrix(image.labels, labels, n_class)
        progress.advance()
    return segmentation_metrics(matrix).mean_iou or 0.0
