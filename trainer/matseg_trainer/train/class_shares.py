"""Class shares of partly labelled images: of each class as much is labelled as somebody drew, not as much as there is.

A network trained on strokes takes a class for as frequent as it is labelled. Expectation maximisation over the pixels
that nobody labelled finds how frequent each class is, and what its logits lack for that (Saerens, Latinne and
Decaestecker 2002, doi 10.1162/089976602753284446).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from matseg_trainer.data.examples import IGNORED, Example

_ROUNDS = 200
_PRECISION = 1e-6
"""Change of a share from one round to the next, below which they stop."""
_LEAST_RATIO = 1e-3
"""Share of a class, over that of its labels, below which it does not fall: the sample may miss a rare one."""
_VALUES = 1 << 22
"""Probabilities that are looked at, of all images together."""


def logit_shift(
    predictions: Iterable[tuple[NDArray[np.float32], Example]], trained: NDArray[np.float64], pixels: int
) -> NDArray[np.float32]:
    """Logits to add so that classes are as frequent as they are, and not as they are labelled.

    Args:
        predictions: (K, H, W) logits of some images, or of parts of them, each with that image or part.
        trained: (K,) class shares among the labelled pixels.
        pixels: of all these images.

    Returns:
        (K,); 0 for a class that is labelled nowhere.
    """
    step = -(-pixels * len(trained) // _VALUES)
    known, parts = np.zeros(len(trained)), []
    for logits, example in predictions:
        labels, values = example.labels.ravel()[::step], logits.reshape(len(logits), -1)[:, ::step]
        known += np.bincount(labels, minlength=IGNORED + 1)[: len(trained)]
        unknown = labels == IGNORED
        if example.absent is not None:
            unknown &= ~example.absent.ravel()[::step]
        powers = np.exp(values[:, unknown] - values[:, unknown].max(axis=0))
        parts.append(powers / powers.sum(axis=0))
    shares = estimate_shares(np.concatenate(parts, axis=1), known, trained)
    ratio = np.divide(shares, trained, out=np.ones_like(trained), where=trained > 0)
    return np.log(np.maximum(ratio, _LEAST_RATIO)).astype(np.float32)


def estimate_shares(
    probabilities: NDArray[np.float32], known: NDArray[np.float64], trained: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Class shares among all pixels.

    Args:
        probabilities: (K, N) of the pixels without a label, as a network has them for which the classes are as frequent
            as `trained`.
        known: (K,) pixels with a label.
        trained: (K,) shares.

    Returns:
        (K,); of a class that is labelled at least what is labelled of it.
    """
    shares: NDArray[np.float64] = trained
    least = np.finfo(np.float32).tiny
    for _ in range(_ROUNDS):
        factor = np.divide(shares, trained, out=np.zeros_like(shares), where=trained > 0)
        weighted = probabilities * factor.astype(np.float32)[:, np.newaxis]
        weighted /= np.maximum(weighted.sum(axis=0), least)
        before, shares = shares, known + weighted.sum(axis=1, dtype=np.float64)
        shares = shares / shares.sum()
        if np.abs(shares - before).max() < _PRECISION:
            break
    return shares
