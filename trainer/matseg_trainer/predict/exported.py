"""An exported file as a checkpoint: its weights can be trained again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from matseg_runtime.model.file import Model, choose_model, read_model
from matseg_runtime.model.zoo import PREFIX, read_index
from matseg_shared.contract.metadata import graph_kind
from matseg_shared.errors import ModelError, UsageError
from matseg_trainer.config.versions import VersionConfig, current_names
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.predict.checkpoint import Checkpoint

_PREFIX = "network."
"""Begins the names of a network's weights in a graph."""


def load_exported(choice: str) -> tuple[Path, Checkpoint]:
    """The file that `--weights` names, `zoo:NAME` or the path of an .onnx file, and its weights.

    Export puts each batch norm into the convolution before it. Here the convolution keeps what it got, and the norm
    does nothing until `refit_norms`.

    Raises:
        ModelError: the file is missing, damaged, not trusted, or holds other weights than its description says.
        UsageError: its weights are rounded, to int8 or fp16, or those of an ensemble.
    """
    import onnx

    path, trust = choose_model(choice)
    file = read_model(path, trust)
    model = file.model
    export = model.metadata.export
    if members := model.metadata.ensemble:
        raise UsageError(
            f"--weights {choice}: expected one network, found the mean of {len(members)}; name the checkpoint of "
            "one of them"
        )
    if export.precision != "fp32":
        raise UsageError(
            f"--weights {choice}: expected a model in fp32, found {graph_kind(export.precision, export.tta)}, whose "
            f"weights are rounded; name its checkpoint, or {_in_fp32(choice)}"
        )
    stored = {
        item.name.removeprefix(_PREFIX): torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
        for item in onnx.load_from_string(file.content).graph.initializer
        if item.name.startswith(_PREFIX)
    }
    try:
        weights = _unfolded(_checkpoint(model, {}).new_network(), stored)
        checkpoint = _checkpoint(model, weights)
        checkpoint.network()
    except (KeyError, RuntimeError, StopIteration, ValidationError) as error:
        raise ModelError(
            f"{path}: expected the weights of a {model.metadata.training.network} as matseg-export writes them, found "
            f"others ({error}); name the checkpoint it was exported from"
        ) from error
    return path, checkpoint


def _in_fp32(choice: str) -> str:
    """The model of the same training whose weights are not rounded, in words."""
    models = read_index().models if choice.startswith(PREFIX) else ()
    trainings = {item.name: (item.dataset, item.version) for item in models}
    for item in models:
        if item.precision == "fp32" and trainings[item.name] == trainings[choice.removeprefix(PREFIX)]:
            return f"{PREFIX}{item.name}, the fp32 model of the same training"
    return "the fp32 model of the same training"


def _checkpoint(model: Model, weights: Mapping[str, Tensor]) -> Checkpoint:
    metadata = model.metadata
    # what was trained with keys that are gone is the same network without them
    known = {
        key: value
        for key, value in current_names(metadata.training.config).items()
        if key in VersionConfig.model_fields
    }
    return Checkpoint(
        weights=weights,
        training=metadata.training.model_copy(update={"config": known}),
        classes=metadata.classes,
        input=metadata.input,
        sample=model.self_test.image,
        pixel_size=metadata.pixel_size,
    )


def _unfolded(network: SegmentationNetwork, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network, of what is left of it in a graph; KeyError names what is missing."""
    state = network.state_dict()
    norms = _norms_after_convolutions(network)
    for name, module in network.named_modules():
        if name in norms:
            norm = norms[name]
            bias = stored[f"{name}.bias" if f"{name}.bias" in stored else f"{name}.weight_bias"]
            state[f"{name}.weight"] = stored[f"{name}.weight"]
            if f"{name}.bias" in state:
                state[f"{name}.bias"] = torch.zeros_like(bias)
            state[f"{norm}.running_mean"] = torch.zeros_like(bias)
            state[f"{norm}.running_var"] = torch.ones_like(bias)
            eps = cast(nn.BatchNorm2d, network.get_submodule(norm)).eps
            state[f"{norm}.weight"] = torch.full_like(bias, math.sqrt(1 + eps))
            state[f"{norm}.bias"] = bias
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            state[f"{name}.weight"] = _of_two_classes(stored[f"{name}.weight"], state[f"{name}.weight"])
            if (key := f"{name}.bias") in state:
                # the exporter leaves out a bias of zeros
                state[key] = _of_two_classes(stored.get(key, torch.zeros_like(state[key])), state[key])
    return state


def _norms_after_convolutions(network: SegmentationNetwork) -> dict[str, str]:
    """Name of each convolution that a batch norm follows -> name of that norm."""
    found = {}
    for name, block in network.named_modules():
        if isinstance(block, nn.Sequential):
            for (first, layer), (second, norm) in itertools.pairwise(block.named_children()):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    found[f"{name}.{first}"] = f"{name}.{second}"
    return found


def _of_two_classes(stored: Tensor, wanted: Tensor) -> Tensor:
    """Weights of the last layer with a logit per class, where export left the difference of the two."""
    if stored.shape == wanted.shape:
        return stored
    axis = next(axis for axis, size in enumerate(wanted.shape) if size != stored.shape[axis])
    return torch.cat([torch.zeros_like(stored), stored], dim=axis)


@torch.inference_mode()
def refit_norms(network: nn.Module, batches: Iterable[Tensor], part: nn.Module | None = None) -> None:
    """Give all batch norms the statistics of these images, and weights with which the network gives what it gave.

    Training goes on from there without a jump, where norms of other images, or of none, would change what each layer
    gives with the first step.

    Args:
        network: in any mode; it is in evaluation mode afterwards.
        batches: (N, C, H, W) normalised.
        part: of the network, whose norms alone are changed; None: all.
    """
    norms = [module for module in (part or network).modules() if isinstance(module, nn.BatchNorm2d)]
    sums = [torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms]
    counts = [0] * len(norms)

    def count(number: int, values: Tensor) -> None:
        pixels = values.transpose(0, 1).flatten(1).double()
        sums[number] += torch.stack([pixels.sum(dim=1), pixels.square().sum(dim=1)])
        counts[number] += pixels.shape[1]

    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs, number=number: count(number, inputs[0]))
        for number, norm in enumerate(norms)
    ]
    network.eval()
    for images in batches:
        network(images)
    for hook in hooks:
        hook.remove()
    for norm, total, pixels in zip(norms, sums, counts, strict=True):
        mean, square = total / pixels
        variance = (square - mean.square()).clamp(min=0)
        old_mean, old_variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        gain = norm.weight.double() / torch.sqrt(old_variance.double() + norm.eps)
        norm.bias.add_((gain * (mean - old_mean.double())).float())
        norm.weight.copy_(gain * torch.sqrt(variance + norm.eps))
        old_mean.copy_(mean)
        old_variance.copy_(variance)
