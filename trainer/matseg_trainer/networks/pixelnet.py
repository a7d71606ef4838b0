"""PixelNet: Bansal, Chen, Russell, Gupta, Ramanan 2017 (arXiv:1702.06506)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matseg_trainer.networks.base import SegmentationNetwork, vgg16_blocks


class PixelNet(SegmentationNetwork):
    """VGG-16 hypercolumns (the last feature maps before each pooling, 1472 channels) and a per-pixel MLP.

    As in the user guide's program the MLP has one hidden layer of 2048 units, where the paper has two of 4096 and a
    sixth feature map (conv-7); batch norm is added because training starts from random weights. Upsampling is
    half-pixel bilinear (`align_corners=False`): with corners aligned a pixel's value would depend on the image's size.
    """

    stride = 16
    samples_pixels = True

    def __init__(self, *, in_channels: int, n_class: int, width: int) -> None:
        super().__init__()
        self.encoder = vgg16_blocks(in_channels, width)
        channels = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        hidden = 32 * width
        # The first MLP layer, cut into one matrix per feature map: it is linear, so it commutes with the upsampling
        # and runs at each map's own resolution, a fraction of the work for the same function.
        self.hidden = nn.ModuleList(
            nn.Conv2d(before, hidden, kernel_size=1, bias=level == 0) for level, before in enumerate(channels)
        )
        self.dropout = nn.Dropout()
        self.classifier = nn.Conv2d(hidden, n_class, kernel_size=1)
        self.slice_channels = 2 * width
        self.peak_channels = 8 * width
        self.initialise()
        with torch.no_grad():  # He initialisation for the layer as one, of all channels together
            for layer, before in zip(self.hidden, channels, strict=True):
                assert isinstance(layer, nn.Conv2d)
                layer.weight.mul_((before / sum(channels)) ** 0.5)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Five maps at 1, 1/2, ... 1/16 of the resolution."""
        maps: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            maps.append(x)
        return maps

    def logits(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float to (N, K, h, w) logits, dense.

        The hidden units are computed a slice at a time: the same sums, but the 2048 full-resolution maps (6 GB for
        an 852 x 852 slice) are never in memory together.
        """
        maps = self.feature_maps(x)
        logits = self.classifier.bias.view(1, -1, 1, 1)  # type: ignore[union-attr]
        for start in range(0, self.classifier.in_channels, self.slice_channels):
            part = slice(start, start + self.slice_channels)
            hidden = self.dropout(F.relu(self._hidden_slice(maps, part)))
            logits = logits + F.conv2d(hidden, self.classifier.weight[:, part])
        return logits

    def _hidden_slice(self, maps: list[Tensor], part: slice) -> Tensor:
        """Some of the hidden units before their ReLU, at full resolution: (N, slice, H, W)."""
        total: Tensor | None = None
        for level, (layer, features) in enumerate(zip(self.hidden, maps, strict=True)):
            assert isinstance(layer, nn.Conv2d)
            bias = None if layer.bias is None else layer.bias[part]
            share = F.conv2d(features, layer.weight[part], bias)
            if total is not None:
                factor = float(2**level)
                share = total + F.interpolate(
                    share, scale_factor=factor, mode="bilinear", align_corners=False
                )
            total = share
        assert total is not None
        return total

    def loss_inputs(self, images: Tensor, labels: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K, P) and labels (N, P) of the sampled pixels only, as the paper trains."""
        wanted = labels.flatten(1).gather(1, pixels)
        if self.scale > 1:  # each lies between four pixels of the working resolution
            dense = self(images).flatten(2)
            return dense.gather(2, pixels.unsqueeze(1).expand(-1, dense.shape[1], -1)), wanted
        height, width = images.shape[-2:]
        rows = torch.div(pixels, width, rounding_mode="floor")
        columns = pixels - rows * width
        # Pixel centres in the coordinates of grid_sample, where -1 and 1 are the outer edges of the image
        grid = torch.stack([(columns + 0.5) / width * 2 - 1, (rows + 0.5) / height * 2 - 1], dim=-1)
        grid = grid.unsqueeze(1)  # (N, 1, P, 2)
        hypercolumn = [
            F.grid_sample(features.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
            for features in self.feature_maps(images)
        ]
        total = sum(layer(column) for layer, column in zip(self.hidden, hypercolumn, strict=True))
        assert isinstance(total, Tensor)
        logits = self.classifier(self.dropout(F.relu(total))).squeeze(2)
        return logits, wanted
