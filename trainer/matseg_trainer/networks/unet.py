"""U-Net: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matseg_trainer.networks.base import SegmentationNetwork, conv_block


class UNet(SegmentationNetwork):
    """Five levels of two 3 x 3 convolutions, 2 x 2 pooling down, 2 x 2 up-convolutions and skips up.

    Differs from the paper in same padding (so output and input have one size) and batch norm, as is usual today.
    """

    stride = 16

    def __init__(self, *, in_channels: int, n_class: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        before = [in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            conv_block([first, after, after], bias=False) for first, after in zip(before, widths, strict=True)
        )
        upward = list(reversed(widths))
        steps = list(itertools.pairwise(upward))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, level, kernel_size=2, stride=2) for below, level in steps
        )
        self.decoder = nn.ModuleList(conv_block([2 * level, level, level], bias=False) for _, level in steps)
        self.classifier = nn.Conv2d(width, n_class, kernel_size=1)
        self.peak_channels = 5 * width
        self.initialise()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float to (N, K, H, W) logits."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.classifier(x)
        return logits
