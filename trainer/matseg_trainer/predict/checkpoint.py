"""Checkpoints: weights and everything needed to know what they are, loadable without executing anything."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from matseg_shared.console.help import did_you_mean
from matseg_shared.contract.metadata import ClassInfo, InputInfo, PixelSize, TrainingInfo
from matseg_shared.errors import ModelError, problems_of
from matseg_shared.system.files import atomic_write
from matseg_trainer.config.versions import VersionConfig, base_version, config_differences
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint_header import append_training
from matseg_trainer.workspace import Workspace

FORMAT = 1
CHECKPOINT_SUFFIX = ".pth"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """One epoch of one training: the best, or the last."""

    weights: Mapping[str, torch.Tensor]
    training: TrainingInfo
    classes: tuple[ClassInfo, ...]
    input: InputInfo
    sample: NDArray[Any]
    """(1, C, H, W) real pixels in the data's own dtype, with many classes; an exported model is tested on it."""
    pixel_size: PixelSize | None = None
    """Pixel size of the training images; None: they do not say."""

    @property
    def config(self) -> VersionConfig:
        """The hyperparameters it was trained with."""
        return VersionConfig.model_validate(self.training.config)

    def network(self) -> SegmentationNetwork:
        """The trained network in evaluation mode.

        Raises:
            RuntimeError: the weights are not those of such a network; found out before there is room made for it, as
                a description of a few bytes can ask for a network of any size.
        """
        with torch.device("meta"):  # shapes without memory
            described = self.new_network().state_dict()
        for name in dict.fromkeys((*described, *self.weights)):
            expected, found = described.get(name), self.weights.get(name)
            if expected is None or found is None or expected.shape != found.shape:
                raise RuntimeError(f"{name}: expected {_shape(expected)}, found {_shape(found)}")
            # torch would make real numbers of complex ones and of whole ones, and labels of the first class of NaN
            if found.dtype != expected.dtype:
                raise RuntimeError(f"{name} is of {found.dtype}, not {expected.dtype}")
            if not bool(torch.isfinite(found).all()):
                raise RuntimeError(f"{name} holds values that are no finite numbers")
        network = self.new_network()
        network.load_state_dict(dict(self.weights))
        return network.eval()

    def new_network(self, *, n_class: int | None = None) -> SegmentationNetwork:
        """The same network with random weights, or one for another number of classes."""
        return build_network(
            self.training.network,
            in_channels=self.input.channels,
            n_class=n_class or len(self.classes),
            **self.config.architecture,
        )


def _shape(tensor: torch.Tensor | None) -> str:
    return "nothing" if tensor is None else "x".join(map(str, tensor.shape)) or "one number"


def find_checkpoint(workspace: Workspace, choice: str, option: str) -> Path:
    """The checkpoint that an option names: `<dataset>_<version>` in `saved/`, or the path of a `.pth` file.

    Raises:
        ModelError: there is no such checkpoint; names the nearest.
    """
    named = workspace.saved / f"{choice}{CHECKPOINT_SUFFIX}"
    path = Path(choice) if choice.endswith(CHECKPOINT_SUFFIX) else named
    if not path.is_file():
        names = sorted(item.stem for item in workspace.saved.glob(f"*{CHECKPOINT_SUFFIX}"))
        known = [name for name in names if not name.endswith(".resume")]
        raise ModelError(
            f"{path}: expected the checkpoint of {option} {choice}, found no such file"
            f"{did_you_mean(choice, known)}; {workspace.saved} has {', '.join(known) or 'none'}"
        )
    return path


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    size = checkpoint.pixel_size
    document = {
        "matseg_checkpoint": FORMAT,
        "weights": dict(checkpoint.weights),
        "training": checkpoint.training.model_dump(mode="json"),
        "classes": [item.model_dump(mode="json") for item in checkpoint.classes],
        "input": checkpoint.input.model_dump(mode="json"),
        "pixel_size": None if size is None else size.model_dump(mode="json"),
        "sample": torch.from_numpy(np.ascontiguousarray(checkpoint.sample)),
    }
    content = io.BytesIO()
    torch.save(document, content)
    append_training(content, checkpoint.training)
    with atomic_write(path) as stream:
        stream.write(content.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: the file is missing, damaged, not ours, or its weights do not fit its configuration.
    """
    document = load_document(path)
    try:
        size = document.get("pixel_size")  # missing in checkpoints of earlier versions
        checkpoint = Checkpoint(
            weights=document["weights"],
            training=TrainingInfo.model_validate(document["training"]),
            classes=tuple(ClassInfo.model_validate(item) for item in document["classes"]),
            input=InputInfo.model_validate(document["input"]),
            sample=document["sample"].numpy(),
            pixel_size=None if size is None else PixelSize.model_validate(size),
        )
        checkpoint.network()
    except ValidationError as error:
        listing = "; ".join(str(problem) for problem in problems_of(error))
        raise ModelError(
            f"{path}: its description is not valid ({listing}); train this version again"
        ) from error
    except Exception as error:  # torch raises many kinds for weights of another kind, shape or device
        raise ModelError(
            f"{path}: its weights do not fit its description ({error}); train this version again"
        ) from error
    return checkpoint


def load_document(path: Path) -> dict[str, Any]:
    """Read the whole of a checkpoint, unchecked.

    Raises:
        ModelError: the file is missing, damaged, or not ours.
    """
    document = load_tensors(path)
    if document.get("matseg_checkpoint") != FORMAT:
        raise ModelError(f"{path}: expected a checkpoint written by matseg-train, found something else")
    return document


def check_config(path: Path, checkpoint: Checkpoint, config: VersionConfig) -> str | None:
    """Compare what a checkpoint was trained with and what the version has now.

    Returns:
        What to tell the user where the network is the same and other hyperparameters differ; None: nothing differs.

    Raises:
        ModelError: the network is another one; lists every difference.
    """
    version = base_version(checkpoint.training.version)
    if version != checkpoint.training.version:
        config = config.of_fold(checkpoint.config.validation_images or ())
    name = f"{checkpoint.training.dataset} {version}"
    differences = config_differences(checkpoint.training.config, config)
    then, now = ((item.model, item.n_class, item.architecture) for item in (checkpoint.config, config))
    if then != now:
        listing = "\n".join(f"  - {problem}" for problem in differences)
        raise ModelError(
            f"{path}: was trained with other hyperparameters, and another network, than config.toml now gives for "
            f"{name}:\n{listing}\n"
            "restore them, give the new ones another version name, or train again with --overwrite"
        )
    if not differences:
        return None
    keys = ", ".join(problem.where for problem in differences)
    return f"{path} was trained with another {keys} than config.toml now gives for {name}; it is used as it was trained"


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and values, whatever file they are stored in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: Path, document: Mapping[str, Any]) -> None:
    """Write tensors and plain values such that `weights_only=True` reads them, whole or not at all."""
    with atomic_write(path) as stream:
        torch.save(dict(document), stream)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what `save_tensors` wrote; nothing in the file is executed.

    Raises:
        ModelError: missing, damaged, or with content that is not tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what other versions of torch have written
            document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: there is no such checkpoint; train this version first (matseg-train)"
        ) from error
    except Exception as error:  # torch, zipfile and pickle raise many kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path}: expected a checkpoint written by matseg-train, found a damaged or foreign file ({reason})"
        ) from error
    if not isinstance(document, dict):
        raise ModelError(f"{path}: expected a checkpoint written by matseg-train, found something else")
    return document


def package_versions(*extra: str) -> dict[str, str]:
    """Versions of python, matseg, torch and numpy, and of the distributions named."""
    return {
        "python": platform.python_version(),
        "matseg": importlib.metadata.version("matseg"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **{name: importlib.metadata.version(name) for name in extra},
    }
