"""Checkpoints of all networks whose weights make every pixel's neighbourhood matter, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from matseg_shared.contract.metadata import ClassInfo, Histogram, InputInfo, TrainingInfo
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import Checkpoint, package_versions

NETWORKS = ("unet", "segnet", "pixelnet", "patchunet", "effunet")
WIDTH = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """A checkpoint and the file made of it."""

    checkpoint: Checkpoint
    path: Path


def make_checkpoint(name: str, *, channels: int = 1, n_class: int = 3, scale: int = 1) -> Checkpoint:
    """A network of random weights whose batch norm is settled on noise, so that activations stay of order 1."""
    torch.manual_seed(NETWORKS.index(name))
    network = build_network(name, in_channels=channels, n_class=n_class, width=WIDTH, scale=scale)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(4, channels, 96, 96))
        network.eval()
        spread = network(torch.randn(1, channels, 96, 96)).flatten(2)
        last = next(module for module in network.classifier.modules() if hasattr(module, "weight"))
        last.weight.div_(spread.std())
        offsets = spread.mean(dim=(0, 2)) / spread.std()
        last.bias.sub_(offsets.repeat_interleave(len(last.bias) // n_class))
    config = VersionConfig.model_validate({"model": name, "n_class": n_class, "width": WIDTH, "scale": scale})
    rng = np.random.default_rng(0)
    return Checkpoint(
        weights=network.state_dict(),
        training=TrainingInfo(
            dataset="noise",
            version=f"v{NETWORKS.index(name) + 1}",
            network=name,
            config=config.model_dump(mode="json"),
            epoch=1,
            metrics={},
            fingerprint="0" * 64,
            seed=0,
            packages=package_versions(),
        ),
        classes=tuple(
            ClassInfo(index=k, name=f"class {k}", colour=(80 * k, 0, 0), label_value=k)
            for k in range(n_class)
        ),
        input=InputInfo(
            channels=channels,
            dtype="uint8",
            mean=(127.0,) * channels,
            std=(60.0,) * channels,
            histogram=Histogram(low=0.0, high=255.0, counts=(1, 1)),
        ),
        sample=rng.integers(0, 256, (1, channels, 64, 64), dtype=np.uint8),
    )
