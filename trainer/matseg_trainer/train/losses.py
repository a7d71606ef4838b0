"""Cross-entropy, focal loss, and the terms of Dice and Tversky, over the labelled pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from matseg_trainer.data.examples import IGNORED

_SMOOTH = 1.0
"""Pixels added to both parts of a ratio, so that a class that is absent and not predicted costs nothing."""

FOCUS = 2.0
"""Exponent of the focal loss; the best of its paper."""
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7
"""Weights of the Tversky index; the best of its paper: what is missed costs more than what is too much."""


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(sum of the weighted cross-entropy, sum of the weights) over all labelled pixels; both scalars."""
    total = F.cross_entropy(logits.float(), labels, weight=weights, ignore_index=IGNORED, reduction="sum")
    known = labels != IGNORED
    if weights is None:
        return total, known.sum().to(total.dtype)
    if labels.device.type == "cpu":
        return total, weights[labels[known]].sum()
    # no GPU is waited for to know how many are known
    return total, F.pad(weights, (0, IGNORED + 1 - len(weights)))[labels].sum()


def focal_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Sum of the weighted cross-entropy times (1 - p)^2, p the probability of a pixel's class.

    Lin et al. 2017 (arXiv:1708.02002), over all classes instead of two; arguments as of `weighted_cross_entropy`.
    """
    each = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    lost = (1 - torch.exp(-each)) ** FOCUS * each  # nothing where ignored
    if weights is not None:
        lost = lost * F.pad(weights, (0, IGNORED + 1 - len(weights)))[labels]
    return lost.sum()


def soft_dice(logits: Tensor, labels: Tensor, everywhere: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """1 - Dice coefficient of the probabilities, mean over the classes (Milletari et al. 2016, arXiv:1606.04797).

    The coefficient is that of all pixels together, not the mean of the images'.

    Args:
        logits: (N, K, ...).
        labels: (N, ...) int64.
        everywhere: sums a tensor over processes that each have a part of the images, gradients included; None: there is
            one process.
    """
    both, given, wanted = _overlaps(logits, labels, everywhere)
    return 1 - ((2 * both + _SMOOTH) / (given + wanted + _SMOOTH)).mean()


def tversky(logits: Tensor, labels: Tensor, everywhere: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """1 - Tversky index of the probabilities, mean over the classes (Salehi et al. 2017, arXiv:1706.05721).

    The index is that of all pixels together; arguments as of `soft_dice`.
    """
    both, given, wanted = _overlaps(logits, labels, everywhere)
    either = both + FALSE_POSITIVES * (given - both) + FALSE_NEGATIVES * (wanted - both)
    return 1 - ((both + _SMOOTH) / (either + _SMOOTH)).mean()


def _overlaps(
    logits: Tensor, labels: Tensor, everywhere: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(K,) pixels of each class, in probabilities: given and wanted, given, wanted."""
    known = (labels != IGNORED).unsqueeze(1)
    probabilities = torch.softmax(logits.float(), dim=1) * known
    indices = labels.clamp(max=logits.shape[1] - 1).unsqueeze(1)
    labelled = torch.zeros_like(probabilities).scatter_(1, indices, 1.0) * known
    over = [0, *range(2, logits.dim())]
    sums = (probabilities * labelled).sum(over), probabilities.sum(over), labelled.sum(over)
    if everywhere is not None:
        both, given, wanted = everywhere(torch.stack(sums))
        return both, given, wanted
    return sums
