"""U-Net: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597), and one on the encoder of VGG-16."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matseg_trainer.networks.base import SegmentationNetwork, conv_block, vgg16_blocks


class UNet(SegmentationNetwork):
    """Five levels of two 3 x 3 convolutions, 2 x 2 pooling down, 2 x 2 up-convolutions and skips up.

    Differs from the paper in same padding (so output and input have one size) and batch norm, as is usual today.
    """

    stride = 16
    widths: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Channels of each level, in units of the first."""

    def __init__(self, *, in_channels: int, n_class: int, width: int) -> None:
        super().__init__()
        widths = [width * unit for unit in self.widths]
        self.encoder = self._encoder(in_channels, widths)
        upward = list(reversed(widths))
        steps = list(itertools.pairwise(upward))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, level, kernel_size=2, stride=2) for below, level in steps
        )
        self.decoder = nn.ModuleList(conv_block([2 * level, level, level], bias=False) for _, level in steps)
        self.classifier = nn.Conv2d(width, n_class, kernel_size=1)
        self.peak_channels = 5 * width
        self.initialise()

    def logits(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float to (N, K, h, w) logits."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.classifier(x)
        return logits

    def _encoder(self, in_channels: int, widths: list[int]) -> nn.ModuleList:
        before = [in_channels, *widths[:-1]]
        return nn.ModuleList(
            conv_block([first, after, after], bias=False) for first, after in zip(before, widths, strict=True)
        )


class VGGUNet(UNet):
    """The same decoder on the thirteen convolutions of VGG-16, for which published weights exist."""

    widths = (1, 2, 4, 8, 8)

    def _encoder(self, in_channels: int, widths: list[int]) -> nn.ModuleList:
        return vgg16_blocks(in_channels, widths[0])
