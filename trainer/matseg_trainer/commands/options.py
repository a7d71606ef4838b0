"""Options that several commands of the trainer take, and the check that the extra they need is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from matseg_shared.console.command import debug_option, json_option, warn
from matseg_shared.console.options import flag, parsed
from matseg_shared.errors import MissingExtraError
from matseg_trainer.commands.completion import complete_dataset, complete_version
from matseg_trainer.workspace import Workspace, workspace_option

if TYPE_CHECKING:
    from matseg_trainer.config.versions import VersionConfig
    from matseg_trainer.predict.checkpoint import Checkpoint

dataset_argument = click.argument("dataset", shell_complete=complete_dataset)
version_argument = click.argument("version", shell_complete=complete_version)
gpu_option = flag("--gpu", "Use a GPU where there is one.")
device_option = click.option(
    "--device",
    metavar="cpu|cuda|cuda:N",
    help="Train on this device, and on no other should it be missing. Default: the CPU, or as --gpu says.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="N",
    help="Seed of all random draws, instead of the version's own.",
)
replace_option = flag("--overwrite", "Replace a data set of that name.")


def usual_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--workspace`, `--json` and `--debug`."""
    return workspace_option(json_option(debug_option(command)))


def new_dataset_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--seed` and `--overwrite`, of a command that makes a data set, and the usual options."""
    kind, text = click.IntRange(0), "Seed of all random draws."
    seed = click.option("--seed", type=kind, metavar="N", default=0, show_default=True, help=text)
    return seed(replace_option(usual_options(command)))


def class_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--classes`, `--class`, `--nearest` and `--max-moved`: what stands for classes in labels."""
    request = "matseg_trainer.prepare.label_request"
    for option in reversed(
        (
            click.option(
                "--classes",
                type=click.IntRange(2, 255),
                metavar="N",
                help="Number of classes. Default: n_class of config.toml; of an import, values that are not rare.",
            ),
            click.option(
                "--class",
                "named",
                type=parsed(f"{request}:parse_class"),
                multiple=True,
                metavar="NAME=VALUE",
                help="A class, and what stands for it: a value, R,G,B, or rest (all other values). Repeatable, "
                "in order.",
            ),
            flag("--nearest", "Take a label value of no class for the nearest class, where it is near."),
            click.option(
                "--max-moved",
                type=parsed(f"{request}:parse_percent"),
                metavar="P%",
                default="2%",
                show_default=True,
                help="Largest share of an image's pixels that --nearest may move.",
            ),
        )
    ):
        command = option(command)
    return command


def version_config(place: Workspace, dataset: str, version: str) -> VersionConfig:
    """Read the hyperparameters of a version, with a note on keys that have another name now.

    Raises:
        ConfigError: see `load_config` and `Config.version`.
    """
    config = place.config()
    if config.note is not None:
        warn(config.note)
    return config.version(dataset, version)


def trained_checkpoint(place: Workspace, dataset: str, version: str) -> Checkpoint:
    """Read a trained version, with a warning where config.toml has other hyperparameters now.

    `v1.fold2.seed0`, a training of a cross-validation, has those of `v1`.

    Raises:
        ConfigError: see `version_config`.
        ModelError: see `load_checkpoint` and `check_config`.
    """
    from matseg_trainer.config.versions import base_version
    from matseg_trainer.predict.checkpoint import check_config, load_checkpoint

    path = place.saved / f"{dataset}_{version}.pth"
    config = version_config(place, dataset, base_version(version))
    checkpoint = load_checkpoint(path)
    if (note := check_config(path, checkpoint, config)) is not None:
        warn(note)
    return checkpoint


def require_train_extra(command: str) -> None:
    """Say which extra is missing before anything imports it.

    Raises:
        MissingExtraError: torch, onnx or matplotlib is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "onnx", "onnxscript", "matplotlib")):
        raise MissingExtraError("train", command)
