"""Cross-entropy and the Dice term, over the labelled pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from matseg_trainer.data.examples import IGNORED

_SMOOTH = 1.0
"""Pixels added to both parts of the Dice ratio, so that a class that is absent and not predicted costs nothing."""


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(sum of the weighted cross-entropy, sum of the weights) over all labelled pixels; both scalars."""
    total = F.cross_entropy(logits.float(), labels, weight=weights, ignore_index=IGNORED, reduction="sum")
    known = labels != IGNORED
    if weights is None:
        return total, known.sum().to(total.dtype)
    if labels.device.type == "cpu":
        return total, weights[labels[known]].sum()
    by_label = F.pad(
        weights, (0, IGNORED + 1 - len(weights))
    )  # no GPU is waited for to know how many are known
    return total, by_label[labels].sum()


def soft_dice(logits: Tensor, labels: Tensor, everywhere: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """1 - Dice coefficient of the probabilities, mean over the classes (Milletari et al. 2016, arXiv:1606.04797).

    The coefficient is that of all pixels together, not the mean of the images'.

    Args:
        logits: (N, K, ...).
        labels: (N, ...) int64.
        everywhere: sums a tensor over processes that each have a part of the images, gradients included; None: there is
            one process.
    """
    known = (labels != IGNORED).unsqueeze(1)
    probabilities = torch.softmax(logits.float(), dim=1) * known
    wanted = torch.zeros_like(probabilities).scatter_(
        1, labels.clamp(max=logits.shape[1] - 1).unsqueeze(1), 1.0
    )
    wanted = wanted * known
    over = [0, *range(2, logits.dim())]
    both = (probabilities * wanted).sum(over)
    either = probabilities.sum(over) + wanted.sum(over)
    if everywhere is not None:
        both, either = everywhere(torch.stack([both, either]))
    return 1 - ((2 * both + _SMOOTH) / (either + _SMOOTH)).mean()
