"""Networks of the papers' width with settled random weights, as torch weights and as ONNX files in fp32 and int8.

How long a network takes does not depend on its weights; so none is trained. Batch norm is settled on the demo's
synthetic scan, so that values stay in a range like a trained network's, and int8 is calibrated on it.

A program of its own (`python _full_width.py NAME WIDTH FOLDER`), so that torch leaves no threads and no memory behind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _profile import count_operations, grey_image
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from matseg_trainer.networks.base import SegmentationNetwork

CROPS, CROP = 4, 128
"""Calibration: enough for the ranges of a network whose accuracy nobody asks for."""
N_CLASS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A network before it is timed."""

    mean: float
    std: float
    operations: float
    """Operations of the fp32 graph, per input."""
    naive_difference: float | None
    """PixelNet: largest difference of a logit between the naive form and ours, relative to the largest logit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Paths of one network's files."""

    folder: Path
    name: str
    width: int

    @property
    def weights(self) -> Path:
        """The state dictionary."""
        return self.folder / f"{self.name}.pth"

    def onnx(self, precision: str) -> Path:
        """The graph."""
        return self.folder / f"{self.name}_{precision}.onnx"

    def facts(self) -> Facts:
        """Results of the program."""
        return Facts(**json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8")))


def phantom_crops() -> NDArray[np.uint8]:
    """(CROPS, 1, CROP, CROP) grey slices of the demo's synthetic scan."""
    from matseg_trainer.demo.phantom import make_scan, render_slice

    slices = [render_slice(make_scan(seed), 0.0, CROP)[0] for seed in range(CROPS)]
    return np.stack(slices)[:, None]


def settled_network(name: str, width: int, images: torch.Tensor) -> SegmentationNetwork:
    """Random weights, seed 0, with the batch statistics of (N, 1, h, w) normalised images."""
    import torch
    from torch import nn

    from matseg_trainer.networks.registry import build_network

    torch.manual_seed(0)
    network = build_network(name, in_channels=1, n_class=N_CLASS, width=width)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what it sees
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def naive_pixelnet(network: SegmentationNetwork, images: torch.Tensor, pixels: int = 1 << 15) -> torch.Tensor:
    """PixelNet as papers and the guide have it: all feature maps upsampled, then the MLP on every pixel's 1472 values.

    Args:
        network: ours; its weights are put together to the one matrix of the hidden layer.
        images: (N, 1, H, W) normalised.
        pixels: that go through the MLP at once; all together would take 6 GB more, and no less time.

    Returns:
        (N, K, H, W) logits.
    """
    import torch
    from torch.nn import functional as F

    from matseg_trainer.networks.pixelnet import PixelNet

    assert isinstance(network, PixelNet)
    maps = network.feature_maps(images)
    size = images.shape[-2:]
    channels = [part.shape[1] for part in maps]
    hypercolumn = images.new_empty(len(images), sum(channels), *size)  # torch.cat would hold everything twice
    for place, part in zip(hypercolumn.split(channels, dim=1), maps, strict=True):
        place.copy_(F.interpolate(part, size=size, mode="bilinear", align_corners=False))
    matrix = torch.cat([layer.weight for layer in network.hidden], dim=1).flatten(1)  # type: ignore[misc]
    bias = network.hidden[0].bias
    columns = hypercolumn.flatten(2)
    del hypercolumn
    logits = []
    for start in range(0, columns.shape[2], pixels):
        hidden = F.conv1d(columns[..., start : start + pixels], matrix[..., None], bias).relu_()  # type: ignore[arg-type]
        logits.append(F.conv1d(hidden, network.classifier.weight[..., 0], network.classifier.bias))
    return torch.cat(logits, dim=2).unflatten(2, size)


def make(files: Files, size: int) -> Facts:
    """Write weights and graphs."""
    import onnx
    import torch

    from matseg_trainer.export.graph import DeployedNetwork, to_onnx, with_one_score
    from matseg_trainer.export.quantise.rewrite import in_integer_operators
    from matseg_trainer.export.quantise.static import activation_ranges, quantise
    from matseg_trainer.export.quantise.upsample import upsample_integers
    from matseg_trainer.networks.registry import build_network

    crops = phantom_crops()
    mean, std = float(crops.mean()), float(crops.std())
    images = (torch.from_numpy(crops).float() - mean) / std
    network = settled_network(files.name, files.width, images)
    torch.save(network.state_dict(), files.weights)
    difference = None
    if files.name == "pixelnet":
        with torch.inference_mode():
            ours = network(images[:1])
            difference = float((naive_pixelnet(network, images[:1]) - ours).abs().max() / ours.abs().max())
    single = build_network(files.name, in_channels=1, n_class=1, width=files.width)
    fp32 = to_onnx(DeployedNetwork(with_one_score(network, single), (mean,), (std,)).eval(), 1, "uint8")
    del network, single
    onnx.save(fp32, files.onnx("fp32"))
    ready = in_integer_operators(fp32)
    int8 = quantise(ready, activation_ranges(ready, list(crops[:, None])))
    onnx.save(upsample_integers(int8), files.onnx("int8"))
    operations = count_operations(files.onnx("fp32"), grey_image(size), threads=0)
    return Facts(mean=mean, std=std, operations=operations, naive_difference=difference)


def main(arguments: Sequence[str]) -> None:
    """NAME WIDTH SIZE FOLDER."""
    name, width, size, folder = arguments
    files = Files(folder=Path(folder), name=name, width=int(width))
    facts = make(files, int(size))
    (files.folder / f"{name}.json").write_text(json.dumps(asdict(facts)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
