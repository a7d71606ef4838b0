"""What several commands of the trainer take, and the check that the extra they need is installed."""

from __future__ import annotations

import importlib.util

import click

from matseg_shared.errors import MissingExtraError
from matseg_trainer.commands.completion import complete_dataset, complete_version

dataset_argument = click.argument("dataset", shell_complete=complete_dataset)
version_argument = click.argument("version", shell_complete=complete_version)
gpu_option = click.option("--gpu", is_flag=True, help="Use a GPU, should one be available.")
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


def require_train_extra(command: str) -> None:
    """Say which extra is missing before anything imports it.

    Raises:
        MissingExtraError: torch, onnx or matplotlib is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "onnx", "onnxscript", "matplotlib")):
        raise MissingExtraError("train", command)
