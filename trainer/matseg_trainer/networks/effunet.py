"""A U-Net whose encoder is an EfficientNet-Lite, for which weights from ImageNet exist.

Encoder: Tan and Le 2019 (arXiv:1905.11946) in its "Lite" form of 2020, without squeeze-and-excitation and with ReLU6,
so that every output depends on a bounded neighbourhood. Decoder: Ronneberger et al. 2015 (arXiv:1505.04597).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from matseg_trainer.networks.base import SegmentationNetwork, conv_block

NORM_EPS = 1e-3
"""TensorFlow's, with which the published weights were trained."""


class _Stage(NamedTuple):
    """Inverted bottlenecks (Sandler et al. 2018, arXiv:1801.04381) of one width."""

    expansion: int
    width: int
    depth: int
    kernel: int
    stride: int


_STAGES = (
    _Stage(1, 16, 1, 3, 1),
    _Stage(6, 24, 2, 3, 2),
    _Stage(6, 40, 2, 5, 2),
    _Stage(6, 80, 3, 3, 2),
    _Stage(6, 112, 3, 5, 1),
    _Stage(6, 192, 4, 5, 2),
    _Stage(6, 320, 1, 3, 1),
)
_STEM = 32
_SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Encoder -> factors of width and depth."""
_DECODER = (1, 2, 4, 8, 8)
"""Channels of the decoder at 1/1, 1/2, 1/4, ..., in units of `width`."""


class EffUNet(SegmentationNetwork):
    """EfficientNet-Lite down to 1/16, two 3 x 3 convolutions per level up, the image itself as the last skip."""

    stride = 16
    default_width = 16

    def __init__(
        self, *, in_channels: int, n_class: int, width: int, encoder: str = "lite0", levels: int = 4
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, encoder, levels)
        skips = [width, *self.encoder.widths]
        self.stride = 2**levels
        self.image = conv_block([in_channels, width], bias=False)
        ups = [unit * width for unit in _DECODER[:levels]]
        steps = list(zip(ups, skips, [*ups[1:], skips[-1]], strict=False))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, after, kernel_size=2, stride=2) for after, _, below in reversed(steps)
        )
        self.decoder = nn.ModuleList(
            conv_block([after + skip, after, after], bias=False) for after, skip, _ in reversed(steps)
        )
        self.classifier = nn.Conv2d(width, n_class, kernel_size=1)
        self.peak_channels = 5 * width
        self.initialise()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float to (N, K, H, W) logits."""
        skips = [self.image(x), *self.encoder(x)]
        x = skips.pop()
        for up, block, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.classifier(x)
        return logits


class Encoder(nn.Module):
    """The stages of an EfficientNet-Lite down to 1 / 2**`levels` of the resolution."""

    def __init__(self, in_channels: int, name: str, levels: int) -> None:
        super().__init__()
        wider, deeper = _SCALES[name]
        self.stem = nn.Sequential(*_conv(in_channels, _STEM, 3, stride=2), nn.ReLU6(inplace=True))
        self.stages = nn.ModuleList()
        self.widths: list[int] = []
        """Channels of the features at 1/2, 1/4, ..."""
        before = _STEM
        for number, stage in enumerate(_STAGES):
            if stage.stride == 2:
                if len(self.widths) == levels - 1:
                    break
                self.widths.append(before)
            width = _rounded(stage.width * wider)
            # the first and the last stage keep their depth, as the stem and the head keep their width
            depth = stage.depth if number in (0, len(_STAGES) - 1) else math.ceil(stage.depth * deeper)
            strides = [stage.stride] + [1] * (depth - 1)
            widths = [before] + [width] * depth
            self.stages.append(
                nn.Sequential(
                    *(
                        _Bottleneck(first, after, stage.expansion, stage.kernel, stride)
                        for (first, after), stride in zip(itertools.pairwise(widths), strides, strict=True)
                    )
                )
            )
            before = width
        self.widths.append(before)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) to features at 1/2, 1/4, ... of the resolution."""
        features = []
        x = self.stem(x)
        for stage in self.stages:
            after = stage(x)
            if after.shape[-1] != x.shape[-1]:
                features.append(x)
            x = after
        return [*features, x]


class _Bottleneck(nn.Module):
    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = before * expansion
        expand = [*_conv(before, inner, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            *_conv(inner, inner, kernel, stride=stride, groups=inner),
            nn.ReLU6(inplace=True),
            *_conv(inner, after, 1),
        )
        self.is_residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


def _conv(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution with batch norm; with stride 2 padded below and on the right by one more, as TensorFlow does."""
    total = kernel - stride
    conv = nn.Conv2d(
        before,
        after,
        kernel,
        stride=stride,
        padding=0 if stride > 1 else total // 2,
        groups=groups,
        bias=False,
    )
    pad = [nn.ZeroPad2d((total // 2, total - total // 2) * 2)] if stride > 1 else []
    return [*pad, conv, nn.BatchNorm2d(after, eps=NORM_EPS)]


def _rounded(width: float) -> int:
    """The nearest multiple of 8, but not less than 90 % of the width, as the paper's code rounds."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest
