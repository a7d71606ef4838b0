"""A U-Net that works on patches of pixels: coarse and wide instead of fine and narrow, for deployment on CPUs.

Space-to-depth input and sub-pixel output as in Shi et al. 2016 (arXiv:1609.05158); the U between them is that of
Ronneberger et al. 2015, with sums instead of concatenations as skips (as in LinkNet, arXiv:1707.03718).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matseg_trainer.networks.base import SegmentationNetwork, conv_block


class PatchUNet(SegmentationNetwork):
    """Four levels at 1/4, 1/8, 1/16 and 1/32 of the resolution; one 4 x 4 patch of labels per output position.

    On a CPU a 3 x 3 convolution over many channels of few pixels runs several times nearer the arithmetic limit than
    one over few channels of many pixels. Everything below full resolution is convolutions, sums and ReLUs, which
    all have int8 kernels.
    """

    patch = 4
    levels = 4
    stride = patch * 2 ** (levels - 1)

    def __init__(self, *, in_channels: int, n_class: int, width: int) -> None:
        super().__init__()
        widths = [width * min(2**level, 4) for level in range(self.levels)]
        self.n_class = n_class
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=self.patch, stride=self.patch, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.encoder = nn.ModuleList(conv_block([after, after, after], bias=False) for after in widths)
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(_downward(before, after) for before, after in steps)
        self.up = nn.ModuleList(
            nn.Conv2d(below, 4 * level, kernel_size=1) for level, below in reversed(steps)
        )
        self.decoder = nn.ModuleList(
            conv_block([level, level, level], bias=False) for level, _ in reversed(steps)
        )
        self.classifier = nn.Conv2d(width, n_class * self.patch**2, kernel_size=3, padding=1)
        self.peak_channels = 2 * n_class + 1 + 4 * width // self.patch**2
        self.initialise()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float to (N, K, H, W) logits."""
        return F.pixel_shuffle(self.patch_logits(x), self.patch)

    def patch_logits(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float to (N, K * 16, H/4, W/4): the logits of each class for the 16 pixels of each patch."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.down[level - 1](x))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(skip + F.pixel_shuffle(up(x), 2))
        logits: Tensor = self.classifier(x)
        return logits


def _downward(before: int, after: int) -> nn.Sequential:
    """Halve the resolution with a strided 2 x 2 convolution."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=2, stride=2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def decide(patch_logits: Tensor, n_class: int, patch: int) -> Tensor:
    """Labels (N, H, W) uint8 of patch logits: the class decision before the rearrangement, which then moves bytes."""
    n, _, rows, columns = patch_logits.shape
    labels = patch_logits.reshape(n, n_class, patch, patch, rows, columns).argmax(dim=1).to(torch.uint8)
    return labels.permute(0, 3, 1, 4, 2).reshape(n, rows * patch, columns * patch)
