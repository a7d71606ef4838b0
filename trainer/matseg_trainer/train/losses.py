"""What a training minimises: cross-entropy, alone or with a term for whole regions, and a teacher's opinion.

Means are given as a sum and what it is to be divided by: of several processes, each divides by what all of them have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from matseg_trainer.data.augment import IGNORED

TEACHER_SHARE = 0.5
"""Of the loss of a step; the labels have the rest."""
_SMOOTH = 1.0
"""Pixels added to both parts of the Dice ratio, so that a class that is absent and not predicted costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """What the logits (N, K, ...) of a step are compared with."""

    labels: Tensor
    """(N, ...) int64 class indices, `IGNORED` where unknown."""
    soft: Tensor | None = None
    """(N, K, ...) float class probabilities by a teacher."""


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(sum of the weighted cross-entropy, sum of the weights) over all labelled pixels; both scalars."""
    total = F.cross_entropy(logits.float(), labels, weight=weights, ignore_index=IGNORED, reduction="sum")
    known = labels != IGNORED
    if weights is None:
        return total, known.sum().to(total.dtype)
    return total, weights[labels[known]].sum()


def distillation(logits: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats between a teacher's probabilities and ours, and the number of pixels that it has seen.

    Hinton et al. 2015 (arXiv:1503.02531).

    At temperature 1: a segmentation teacher is unsure just where the boundary is, which is what there is to learn.

    Args:
        logits: (N, K, ...).
        soft: (N, K, ...), sums to 1 over K, or to 0 where the teacher has not seen the pixel (padding).

    Returns:
        (sum over the pixels, sum of the teacher's probabilities); both scalars.
    """
    wanted = soft.float()
    return -(wanted * F.log_softmax(logits.float(), dim=1)).sum(), wanted.sum()


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
