"""A U-Net whose encoder is an EfficientNet-Lite, for which weights from ImageNet exist.

Encoder: Tan and Le 2019 (arXiv:1905.11946) in its "Lite" form of 2020, without squeeze-and-excitation and with ReLU6,
so that every output depends on a bounded neighbourhood. Decoder: Ronneberger et al. 2015 (arXiv:1505.04597).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matseg_trainer.networks.base import SegmentationNetwork, conv_block

DEFAULT_ENCODER = "lite0"
_NORM_EPS = 1e-3
"""TensorFlow's, with which the published weights were trained."""
_STEM = 32
"""Channels of the first convolution."""


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
)
"""Down to 1/16 of the resolution; with those at 1/32, left out here, an output sees 851 pixels instead of 339."""
_FACTORS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Encoder -> factors of width and depth."""
_DECODER = (1, 2, 4, 8)
"""Channels of the decoder at 1/1, 1/2, 1/4 and 1/8, in units of `width`."""


class EffUNet(SegmentationNetwork):
    """EfficientNet-Lite down to 1/16, two 3 x 3 convolutions per level up, the image itself as the last skip."""

    stride = 16
    default_width = 16

    def __init__(self, *, in_channels: int, n_class: int, width: int, encoder: str = DEFAULT_ENCODER) -> None:
        super().__init__()
        self.variant = encoder
        self.encoder, widths = _encoder(in_channels, *_FACTORS[encoder])
        self.image = conv_block([in_channels, width], bias=False)
        upward = [unit * width for unit in _DECODER]
        steps = list(zip([*upward[1:], widths[-1]], upward, [width, *widths[:-1]], strict=True))[::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, level, kernel_size=2, stride=2) for below, level, _ in steps
        )
        self.decoder = nn.ModuleList(
            conv_block([level + skip, level, level], bias=False) for _, level, skip in steps
        )
        self.classifier = nn.Conv2d(width, n_class, kernel_size=1)
        self.peak_channels = max(5 * width, width + _STEM)
        self.initialise()

    def logits(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float to (N, K, h, w) logits."""
        skips: list[Tensor] = [self.image(x)]
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.classifier(x)
        return logits


def _encoder(in_channels: int, wider: float, deeper: float) -> tuple[nn.ModuleList, list[int]]:
    """Levels at 1/2, 1/4, 1/8 and 1/16 of the resolution, and the channels of what each makes."""
    stem = nn.Sequential(*_conv(in_channels, _STEM, 3, stride=2), nn.ReLU6(inplace=True))
    levels: list[list[nn.Module]] = [[stem]]
    widths = [_STEM]
    for number, stage in enumerate(_STAGES):
        if stage.stride == 2:
            levels.append([])
            widths.append(widths[-1])
        width = _rounded(stage.width * wider)
        # the first stage keeps its depth, as the stem keeps its width
        depth = stage.depth if number == 0 else math.ceil(stage.depth * deeper)
        for stride in (stage.stride, *[1] * (depth - 1)):
            levels[-1].append(Bottleneck(widths[-1], width, stage.expansion, stage.kernel, stride))
            widths[-1] = width
    return nn.ModuleList(nn.Sequential(*level) for level in levels), widths


class Bottleneck(nn.Module):
    """Expansion 1 x 1, depthwise convolution, projection 1 x 1; a residual where its shape allows one."""

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expand = (
            nn.Sequential(*_conv(before, inner, 1), nn.ReLU6(inplace=True)) if expansion > 1 else None
        )
        self.depthwise = nn.Sequential(
            *_conv(inner, inner, kernel, stride=stride, groups=inner), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(*_conv(inner, after, 1))
        self.is_residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        inner = x if self.expand is None else self.expand(x)
        result: Tensor = self.project(self.depthwise(inner))
        return x + result if self.is_residual else result


class _SameConv2d(nn.Conv2d):
    """Padded, with a stride, to TensorFlow's "SAME": of an odd number, the larger half is below and right."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        total = self.kernel_size[0] - self.stride[0]
        return super().forward(F.pad(x, (total // 2, total - total // 2) * 2))


class _Fp32Conv2d(_SameConv2d):
    """A depthwise convolution that CPUs compute in fp32, whatever the mixed precision.

    oneDNN's gradients of those with a stride or 5 x 5 are three times slower in bf16.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16 or x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def _conv(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution with batch norm."""
    kind: type[nn.Conv2d] = _SameConv2d
    if groups > 1 and (stride > 1 or kernel > 3):
        kind = _Fp32Conv2d
    padding = kernel // 2 if stride == 1 else 0
    conv = kind(before, after, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after, eps=_NORM_EPS)]


def _rounded(width: float) -> int:
    """The nearest multiple of 8, but not less than 90 % of the width, as the paper's code rounds."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest
