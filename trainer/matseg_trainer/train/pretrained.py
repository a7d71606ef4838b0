"""Fine-tuning: start a training from the weights of another one instead of from random ones.

Everything that means the same for both is taken over: all layers with their batch norm statistics. What may mean
something else is not: the classifier where the classes are others, the normalisation (always the new images' own),
the optimiser's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from matseg_runtime.model.zoo import PREFIX
from matseg_shared.contract.metadata import ClassInfo, InitInfo
from matseg_shared.errors import ModelError
from matseg_shared.images.channels import kind_of
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.registry import NETWORKS
from matseg_trainer.predict.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    weights_sha256,
)
from matseg_trainer.predict.exported import load_exported
from matseg_trainer.workspace import Workspace

_CLASSIFIER = "classifier."
"""Prefix of the names of the last layer's weights, in all networks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PretrainedWeights:
    """A checkpoint, or an exported model, to start from."""

    path: Path
    checkpoint: Checkpoint
    is_exported: bool = False
    """Its batch norms are in its convolutions; see `refit_norms`."""

    @classmethod
    def load(cls, workspace: Workspace, choice: str) -> PretrainedWeights:
        """Read what `--weights` names: a checkpoint, as `find_checkpoint` has it, or an exported model.

        Raises:
            UsageError: it is an exported model of rounded weights.
            ModelError: there is no such file (names the nearest checkpoint), or it is damaged.
        """
        if choice.endswith(".onnx") or choice.startswith(PREFIX):
            path, checkpoint = load_exported(choice)
            return cls(path=path, checkpoint=checkpoint, is_exported=True)
        path = find_checkpoint(workspace, choice, "--weights")
        return cls(path=path, checkpoint=load_checkpoint(path))

    @property
    def info(self) -> InitInfo:
        """The origin, for the new checkpoint."""
        training = self.checkpoint.training
        return InitInfo(
            name=f"{training.dataset}_{training.version}", sha256=weights_sha256(self.checkpoint.weights)
        )

    def copy_into(self, network: SegmentationNetwork, kind: str, classes: Sequence[ClassInfo]) -> str:
        """Give a fresh network these weights.

        The classifier is taken over only when the classes have the same names in the same order. Weights of the first
        convolution for grey images are spread evenly over three colours, so that grey stored as colour gives what grey
        gave; those for colour are summed for grey images, which is the same the other way round; and so for any number.

        Returns:
            What was and what was not taken over, in words.

        Raises:
            ModelError: the checkpoint is of another network or width.
        """
        self._check_architecture(network, kind)
        state = network.state_dict()
        notes = []
        if [item.name for item in classes] != [item.name for item in self.checkpoint.classes]:
            notes.append("a new classifier, as the classes are others")
        for name, fresh in state.items():
            if notes and name.startswith(_CLASSIFIER):
                continue
            stored = self.checkpoint.weights[name]
            state[name] = stored if stored.shape == fresh.shape else with_channels(stored, fresh.shape[1])
        if (before := self.checkpoint.input.channels) != (channels := _input_channels(network)):
            notes.append(f"first layer from {kind_of(before)} to {kind_of(channels)}")
        network.load_state_dict(state)
        return "; ".join([self.info.name, *notes])

    def _check_architecture(self, network: SegmentationNetwork, kind: str) -> None:
        trained = self.checkpoint.training.network
        theirs = {name: tensor.shape for name, tensor in self.checkpoint.weights.items()}
        ours = {name: tensor.shape for name, tensor in network.state_dict().items()}
        same = theirs.keys() == ours.keys() and all(
            theirs[name] == shape
            or name.startswith(_CLASSIFIER)
            or differ_in_channels_only(theirs[name], shape)
            for name, shape in ours.items()
        )
        if trained != kind or not same:
            config = self.checkpoint.config
            width = config.width or NETWORKS[trained].default_width
            variant = config.architecture["encoder"]
            encoder = "" if variant is None else f', encoder = "{variant}"'
            raise ModelError(
                f"{self.path}: expected a checkpoint of the new version's own network to start from, found a {trained} "
                f'of width {width}; give the version model = "{trained}"{encoder} and width = {width}, or leave out '
                "--weights"
            )


def origin_changes(started: InitInfo | None, given: InitInfo | None) -> list[str]:
    """Differences between what a training started from (None: random weights) and what `--weights` names, in words."""
    if given is None or given == started:
        return []
    was = "random weights" if started is None else f"{started.name} ({started.sha256[:12]})"
    return [f"init: was {was}, now {given.name} ({given.sha256[:12]})"]


def _input_channels(network: SegmentationNetwork) -> int:
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    return first.in_channels


def differ_in_channels_only(stored: torch.Size, fresh: torch.Size) -> bool:
    """True for weights of convolutions that differ in the channels they read."""
    return len(stored) == len(fresh) == 4 and (stored[0], *stored[2:]) == (fresh[0], *fresh[2:])


def with_channels(weight: Tensor, channels: int) -> Tensor:
    """(out, in, h, w) for another number of input channels, with the same answer where all of them are equal."""
    return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
