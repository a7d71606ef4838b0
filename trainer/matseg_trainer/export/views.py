"""Test-time augmentation: the views of an image whose class scores a file averages.

A network that has learned on flipped and turned crops should say the same of every one of them, and does not quite;
the mean errs less than one of them (Simonyan and Zisserman 2015, arXiv:1409.1556, section 3.2). The class scores are
averaged, not the probabilities, which takes less and did as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from matseg_shared.contract.metadata import Precision, Views
from matseg_shared.errors import UsageError

_ROWS, _COLUMNS = 2, 3
"""Axes of (N, C, H, W)."""
_FLIPS: tuple[tuple[int, ...], ...] = ((), (_ROWS,), (_COLUMNS,), (_ROWS, _COLUMNS))


def mean_of_views(network: nn.Module, images: Tensor, count: Views) -> Tensor:
    """The mean of what a network says of an image (1), of its flips (4), or of those and their quarter turns (8).

    The flips of (N, C, H, W) are one batch: the graph holds the network once, or twice with quarter turns.
    """
    if count == 1:
        scores: Tensor = network(images)
        return scores
    mean = _mean_of_flips(network, images)
    if count == 4:
        return mean
    turned = _mean_of_flips(network, images.transpose(_ROWS, _COLUMNS)).transpose(_ROWS, _COLUMNS)
    return (mean + turned) / 2


def _mean_of_flips(network: nn.Module, images: Tensor) -> Tensor:
    flipped = torch.cat([images.flip(axes) if axes else images for axes in _FLIPS])
    scores = network(flipped).unflatten(0, (len(_FLIPS), -1))
    straight = [item.flip(axes) if axes else item for item, axes in zip(scores, _FLIPS, strict=True)]
    mean: Tensor = (straight[0] + straight[1] + straight[2] + straight[3]) / 4
    return mean


def require_float(precision: Precision, count: int) -> None:
    """Refuse views in int8, where the mean of their scores would be rounded.

    Raises:
        UsageError: several views in int8.
    """
    if precision == "int8" and count > 1:
        raise UsageError(
            f"--tta {count} goes with --precision fp32 or fp16, not with int8: views are for accuracy, int8 for speed; "
            "leave one of the two out"
        )
