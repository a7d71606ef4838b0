"""Calibration of probabilities: likelihood, Brier score, reliability."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_trainer.evaluate.document import ReliabilityBin
from matseg_trainer.evaluate.metrics import Sums

BINS = 15
"""Bins of equal width, as in Guo et al. 2017."""
_SMALLEST_PROBABILITY = 1e-12
"""A labelled class that is given none counts as this, so that one pixel cannot make the loss infinite."""
_CHUNK = 1 << 19
"""Pixels worked on at once; bounds the memory for float64 intermediates."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationAccumulator(Sums):
    """Sums over the pixels of one image, or of several."""

    loss: float
    """Sum of -ln(probability of the labelled class), nats."""
    brier: float
    pixels: NDArray[np.int64]
    """(BINS,) by the probability of the most probable class."""
    right: NDArray[np.int64]
    """(BINS,) those where it is the labelled one."""
    confidence: NDArray[np.float64]
    """(BINS,) sum of the most probable class's probability."""

    @property
    def mean_loss(self) -> float:
        """Negative log likelihood per pixel, nats."""
        return self.loss / int(self.pixels.sum())

    @property
    def mean_brier(self) -> float:
        """Brier's (1950) score for several classes, 0 (best) to 2."""
        return self.brier / int(self.pixels.sum())

    @property
    def expected_error(self) -> float:
        """Expected calibration error (Naeini et al. 2015): |accuracy - confidence| per bin, weighted by pixels."""
        return float(np.abs(self.right - self.confidence).sum() / self.pixels.sum())

    def bins(self) -> tuple[ReliabilityBin, ...]:
        """The reliability diagram."""
        return tuple(
            ReliabilityBin(
                lower=number / BINS,
                upper=(number + 1) / BINS,
                pixels=count,
                confidence=min(1.0, confidence / count) if count else None,
                accuracy=right / count if count else None,
            )
            for number, (count, right, confidence) in enumerate(
                zip(self.pixels.tolist(), self.right.tolist(), self.confidence.tolist(), strict=True)
            )
        )


def calibration(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8], probabilities: NDArray[np.float32]
) -> CalibrationAccumulator:
    """Sum up the labelled pixels of one image.

    Args:
        labels: (H, W) class indices, or `UNLABELLED`.
        predictions: (H, W) most probable class, as the model decided it.
        probabilities: (K, H, W), finite.
    """
    flat_labels, flat_predictions = labels.ravel(), predictions.ravel()
    flat = probabilities.reshape(len(probabilities), -1)
    if not (known := flat_labels != UNLABELLED).all():
        flat_labels, flat_predictions, flat = flat_labels[known], flat_predictions[known], flat[:, known]
    parts = [slice(start, start + _CHUNK) for start in range(0, flat_labels.size, _CHUNK)]
    chunks = (_sum_up(flat_labels[part], flat_predictions[part], flat[:, part]) for part in parts)
    return reduce(add, chunks)


def _sum_up(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8], chunk: NDArray[np.float32]
) -> CalibrationAccumulator:
    probabilities = chunk.astype(np.float64)
    pixel = np.arange(labels.size)
    of_label = probabilities[labels, pixel]
    confidence = np.minimum(probabilities[predictions, pixel], 1.0)  # a softmax may end a rounding above 1
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    return CalibrationAccumulator(
        loss=float(-np.log(np.clip(of_label, _SMALLEST_PROBABILITY, 1.0)).sum()),
        brier=float((np.square(probabilities).sum(axis=0) - 2 * of_label + 1).clip(0, 2).sum()),
        pixels=np.bincount(bins, minlength=BINS),
        right=np.bincount(bins[predictions == labels], minlength=BINS),
        confidence=np.bincount(bins, weights=confidence, minlength=BINS).astype(np.float64),
    )
