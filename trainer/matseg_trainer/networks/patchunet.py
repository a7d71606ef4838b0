"""A U-Net that works on patches of pixels: coarse and wide instead of fine and narrow, for deployment on CPUs.

Space-to-depth input and sub-pixel output (Shi et al. 2016, arXiv:1609.05158), written as convolutions whose stride is
their kernel; between them the U of Ronneberger et al. 2015, with sums as skips (as in LinkNet, arXiv:1707.03718).
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn

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
        self.stem = _blocks_to_pixels(in_channels, width, self.patch)
        self.encoder = nn.ModuleList(conv_block([after, after, after], bias=False) for after in widths)
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(_blocks_to_pixels(before, after, 2) for before, after in steps)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, level, kernel_size=2, stride=2) for level, below in reversed(steps)
        )
        self.decoder = nn.ModuleList(
            conv_block([level, level, level], bias=False) for level, _ in reversed(steps)
        )
        # A kernel of 3 x 3 sees the patches around: with 1 x 1, boundaries would break at the edges of patches
        self.classifier = nn.Sequential(
            nn.Conv2d(width, n_class * self.patch**2, kernel_size=3, padding=1), nn.PixelShuffle(self.patch)
        )
        self.peak_channels = 2 * n_class + 1 + 4 * width // self.patch**2
        self.initialise()

    def logits(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float to (N, K, h, w) logits."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.down[level - 1](x))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(skip + up(x))
        logits: Tensor = self.classifier(x)
        return logits


def _blocks_to_pixels(before: int, after: int, edge: int) -> nn.Sequential:
    """A convolution whose stride is its kernel, with batch norm and ReLU: the resolution falls to 1/`edge`."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=edge, stride=edge, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
