"""What a training minimises: cross-entropy, alone or with a term for whole regions, and a teacher's opinion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from matseg_trainer.augment import IGNORED

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


def distillation(logits: Tensor, soft: Tensor) -> Tensor:
    """Mean cross-entropy in nats between a teacher's probabilities and ours, over the pixels that it has seen.

    Hinton et al. 2015 (arXiv:1503.02531).

    At temperature 1: a segmentation teacher is unsure just where the boundary is, which is what there is to learn.

    Args:
        logits: (N, K, ...).
        soft: (N, K, ...), sums to 1 over K, or to 0 where the teacher has not seen the pixel (padding).
    """
    wanted = soft.float()
    return -(wanted * F.log_softmax(logits.float(), dim=1)).sum() / wanted.sum().clamp(min=1.0)


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - Dice coefficient of the probabilities, mean over the classes (Milletari et al. 2016, arXiv:1606.04797).

    Args:
        logits: (N, K, ...).
        labels: (N, ...) int64.
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
    return 1 - ((2 * both + _SMOOTH) / (either + _SMOOTH)).mean()
