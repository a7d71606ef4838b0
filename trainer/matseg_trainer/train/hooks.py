"""Functions that are called after each epoch: other logs than our own, for tools that people have already."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from matseg_shared.errors import MissingExtraError, UsageError
from matseg_shared.system import files

EpochHook: TypeAlias = Callable[[Path, list[dict[str, Any]]], object]
"""Function of the log's path, `log/<name>.jsonl`, and all epochs so far, as its lines have them."""


def epoch_hook(text: str) -> EpochHook:
    """The hook of a name: `csv`, `tensorboard`, or `module:function` of the user's own.

    Raises:
        UsageError: there is no such function.
        MissingExtraError: tensorboard is not installed.
    """
    if text == "csv":
        return write_csv
    if text == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError("tensorboard", "--on-epoch tensorboard")
        return write_tensorboard
    module, _, name = text.partition(":")
    try:
        hook: EpochHook = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever that module raises
        raise UsageError(
            f"--on-epoch: expected csv, tensorboard, or module:function that can be imported, found {text!r} "
            f"({error}); is its folder in PYTHONPATH?"
        ) from error
    if not callable(hook):
        raise UsageError(f"--on-epoch: expected a function, found that {text} is none")
    return hook


def write_csv(log: Path, epochs: list[dict[str, Any]]) -> None:
    """Write `log/<name>.csv` anew: a row per epoch."""
    rows = [{"epoch": epoch["epoch"], **_figures(epoch)} for epoch in epochs]
    files.write_csv(log.with_suffix(".csv"), [[*rows[0]], *([*row.values()] for row in rows)])


def write_tensorboard(log: Path, epochs: list[dict[str, Any]]) -> None:
    """Add the last epoch to the events in `log/tensorboard/<name>`; what was there of later ones is left out."""
    from torch.utils.tensorboard import SummaryWriter

    epoch = epochs[-1]
    number = epoch["epoch"]
    with SummaryWriter(log.parent / "tensorboard" / log.stem, purge_step=number) as writer:
        for name, value in _figures(epoch).items():
            if value is not None:
                writer.add_scalar(name, value, number)


def _figures(epoch: dict[str, Any]) -> dict[str, float | None]:
    """Names such as `validate/mean_iou`, and values."""
    figures: dict[str, float | None] = {"lr": epoch["lr"], "seconds": epoch["seconds"]}
    for split in ("train", "validate"):
        for name, value in (epoch[split] or {}).items():
            if name == "iou":
                figures |= {f"{split}/iou_{number}": item for number, item in enumerate(value)}
            else:
                figures[f"{split}/{name}"] = value
    return figures
