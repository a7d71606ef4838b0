"""Interface of all networks, and the blocks they share."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmentationNetwork(nn.Module, ABC):
    """Maps a normalised image (N, C, H, W) float to logits (N, K, H, W); H and W are multiples of `stride`."""

    stride: int
    """Pixels; a shift of the input by it is the same shift of the output."""

    scale: int = 1
    """Edge of the squares of pixels that it works on the means of; see `work_at`."""

    samples_pixels: ClassVar[bool] = False
    """True for a network that trains on sampled pixels instead of whole images; see `loss_inputs`."""

    default_width: ClassVar[int] = 64
    """Channels of the first level in the papers of U-Net, SegNet and PixelNet."""

    encoder: nn.ModuleList
    """Its first half, level by level, where it has one: what can start from published weights."""

    variant: str | None = None
    """Name of the encoder, of a network that can have several; None: it has one."""

    peak_channels: int
    """Full-resolution channels alive at once at inference, about; for planning memory."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float to (N, K, H, W) logits."""
        if self.scale == 1:
            return self.logits(x)
        coarse = self.logits(F.avg_pool2d(x, self.scale))
        return F.interpolate(coarse, scale_factor=float(self.scale), mode="bilinear", align_corners=False)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float at the working resolution to (N, K, h, w) logits there."""

    def work_at(self, scale: int) -> None:
        """Work on means of `scale` x `scale` pixels, and interpolate the logits between them bilinearly.

        Of a power of 2 the weights of the interpolation are exact, so that they are the same in a tile and the whole.
        """
        self.stride, self.scale = self.stride * scale, scale
        channels = self.peak_channels / scale**2
        # the image, its logits and probabilities stay at full resolution
        self.peak_channels = math.ceil(channels) + 8

    def initialise(self) -> None:
        """He initialisation for every convolution (He et al. 2015, arXiv:1502.01852)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def classifier_bias(self) -> str:
        """Name of the bias of the last layer; its length is a multiple of the classes, class by class."""
        return [name for name, _ in self.named_parameters() if name.startswith("classifier.")][-1]

    def loss_inputs(self, images: Tensor, labels: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels that the training loss compares; a network may look at fewer pixels than all.

        Args:
            images: (N, C, H, W) normalised.
            labels: (N, H, W) int64.
            pixels: (N, P) int64 flat indices of randomly sampled pixels, for networks that train on samples.

        Returns:
            (N, K, ...) logits and (N, ...) labels.
        """
        del pixels
        return self(images), labels


def conv_block(channels: Sequence[int], *, bias: bool) -> nn.Sequential:
    """3 x 3 convolutions, each with batch norm (Ioffe and Szegedy 2015) and ReLU: `channels[0]` in, the rest out."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [
            nn.Conv2d(before, after, kernel_size=3, padding=1, bias=bias),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def vgg16_blocks(in_channels: int, width: int) -> nn.ModuleList:
    """The thirteen convolutions of VGG-16 with batch norm, as five blocks before each pooling.

    Simonyan and Zisserman 2015 (arXiv:1409.1556), configuration D.
    """
    widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
    depths = [2, 2, 3, 3, 3]
    before = [in_channels, *widths[:-1]]
    return nn.ModuleList(
        conv_block([first, *[after] * depth], bias=True)
        for first, after, depth in zip(before, widths, depths, strict=True)
    )


def count_parameters(network: nn.Module) -> int:
    """Trainable weights."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def normalise(images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Raw pixels (N, C, H, W) of any dtype to float32 with the training set's mean 0 and deviation 1 per channel."""
    offset, scale = (
        torch.as_tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        for values in (mean, std)
    )
    return (images.to(torch.float32) - offset) / scale


def decide(logits: Tensor) -> Tensor:
    """The class of each pixel: (N, K, ...) logits to (N, ...) int64, the first of equal ones.

    The same as argmax over the channels, which torch computes pixel by pixel: ten times slower on a CPU.
    """
    best = logits[:, 0]
    labels = torch.zeros_like(best, dtype=torch.int64)
    for index in range(1, logits.shape[1]):
        labels.masked_fill_(logits[:, index] > best, index)
        best = torch.maximum(best, logits[:, index])
    return labels
