"""SegNet: Badrinarayanan, Kendall, Cipolla 2017 (arXiv:1511.00561)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matseg_trainer.networks.base import SegmentationNetwork, conv_block, vgg16_blocks


class SegNet(SegmentationNetwork):
    """VGG-16 encoder with batch norm; a mirrored decoder that puts values back where max pooling took them from."""

    stride = 32

    def __init__(self, *, in_channels: int, n_class: int, width: int) -> None:
        super().__init__()
        self.encoder = vgg16_blocks(in_channels, width)
        w = width
        self.decoder = nn.ModuleList(
            [
                conv_block([8 * w, 8 * w, 8 * w, 8 * w], bias=True),
                conv_block([8 * w, 8 * w, 8 * w, 4 * w], bias=True),
                conv_block([4 * w, 4 * w, 4 * w, 2 * w], bias=True),
                conv_block([2 * w, 2 * w, w], bias=True),
                conv_block([w, w], bias=True),
            ]
        )
        self.classifier = nn.Conv2d(width, n_class, kernel_size=3, padding=1)
        self.peak_channels = 7 * width
        self.initialise()

    def logits(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float to (N, K, h, w) logits."""
        origins: list[tuple[Tensor, ...]] = []
        for block in self.encoder:
            x, origin = max_pool_with_origin(block(x))
            origins.append(origin)
        for block, origin in zip(self.decoder, reversed(origins), strict=True):
            x = block(max_unpool(x, origin))
        logits: Tensor = self.classifier(x)
        return logits


def max_pool_with_origin(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """2 x 2 max pooling of (N, C, H, W), H and W even, that remembers where each maximum came from.

    The same as `max_pool2d(return_indices=True)`, ties included (the first in reading order wins), but in operators
    that every runtime has: PyTorch's indices do not export, and ONNX's MaxUnpool means something else and has no
    CUDA kernel.

    Returns:
        (N, C, H/2, W/2) maxima, and four masks of that shape and dtype: one is 1 where its corner (upper left, upper
        right, lower left, lower right) holds the maximum.
    """
    pooled = F.max_pool2d(x, 2)
    corners = (x[..., 0::2, 0::2], x[..., 0::2, 1::2], x[..., 1::2, 0::2], x[..., 1::2, 1::2])
    masks: list[Tensor] = []
    taken: Tensor | None = None
    for corner in corners:
        hit = corner == pooled
        first = hit if taken is None else hit & ~taken
        taken = hit if taken is None else taken | hit
        masks.append(first.to(x.dtype))
    return pooled, tuple(masks)


def max_unpool(y: Tensor, origin: tuple[Tensor, ...]) -> Tensor:
    """Put (N, C, H, W) back to where the maxima came from, zeros elsewhere: (N, C, 2H, 2W)."""
    upper_left, upper_right, lower_left, lower_right = (y * mask.to(y.dtype) for mask in origin)
    upper = torch.stack([upper_left, upper_right], dim=-1).flatten(-2)
    lower = torch.stack([lower_left, lower_right], dim=-1).flatten(-2)
    return torch.stack([upper, lower], dim=-2).flatten(-3, -2)
