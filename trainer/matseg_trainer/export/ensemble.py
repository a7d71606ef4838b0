"""The members of an ensemble: checkpoints of one data set that one file can hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from matseg_shared.errors import UsageError
from matseg_trainer.config.versions import base_version, fold_version
from matseg_trainer.evaluate.document import FOLDS
from matseg_trainer.predict.checkpoint import CHECKPOINT_SUFFIX, Checkpoint
from matseg_trainer.workspace import Workspace

LARGEST_FILE = (1 << 31) - (64 << 20)
"""Bytes of weights that leave room for the rest in an ONNX file, which protobuf limits to 2 GiB."""
_LONGEST = 64
_SHOWN = 200


def expand_members(workspace: Workspace, dataset: str, choice: str) -> tuple[str, ...]:
    """Versions that `--ensemble` names: `v1,v2`; `v1.folds` are all trainings of a cross-validation of v1.

    Raises:
        UsageError: one is named twice, there are fewer than two, or no training of a cross-validation.
    """
    found: list[str] = []
    for name in filter(None, (part.strip() for part in choice.split(","))):
        version = name.removesuffix(f".{FOLDS}")
        found += [name] if version == name else _trainings(workspace, dataset, version)
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise UsageError(
            f"--ensemble {choice}: {twice[0]} is named twice, which would count it twice; name it once"
        )
    if len(found) < 2:
        raise UsageError(
            f"--ensemble {choice}: expected at least two trainings, found {len(found)}; name versions, as in v1,v2, or "
            "a cross-validation, as in v1.folds"
        )
    return tuple(found)


def _trainings(workspace: Workspace, dataset: str, version: str) -> list[str]:
    """All folds, seed after seed."""
    pattern = f"{dataset}_{fold_version(version, '*', '*')}{CHECKPOINT_SUFFIX}"
    names = [path.stem.removeprefix(f"{dataset}_") for path in workspace.saved.glob(pattern)]
    names = [name for name in names if base_version(name) == version]
    if not names:
        raise UsageError(
            f"{workspace.saved}: expected trainings of a cross-validation of {version}, found none; make them with "
            f"{shlex.join(['matseg-train', dataset, version, '--folds', '5'])}"
        )
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)[::-1][:2]])


def ensemble_name(dataset: str, choice: str) -> str:
    """Name of the model of an ensemble: `steel_v1+v2`, or `steel_v1.folds`."""
    parts = [part.strip() for part in choice.split(",") if part.strip()]
    joined = "+".join(parts)
    return f"{dataset}_{joined if len(joined) <= _LONGEST else f'{parts[0]}+{len(parts) - 1}'}"


def require_alike(members: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints whose probabilities have no common meaning, or which one file cannot hold.

    They may differ in network, width and training images, and so in mean and deviation: each normalises as it learnt.

    Raises:
        UsageError: naming two that differ, and in what; or the size.
    """
    first = dict(_aspects(members[0]))
    for member in members[1:]:
        for aspect, value in _aspects(member):
            if value != first[aspect]:
                one, other = (
                    f"{item.training.dataset}_{item.training.version}" for item in (members[0], member)
                )
                raise UsageError(
                    f"an ensemble needs members that are alike, and {one} and {other} differ in {aspect}: "
                    f"{str(first[aspect])[:_SHOWN]} and {str(value)[:_SHOWN]}; leave one of them out"
                )
    size = sum(tensor.nbytes for member in members for tensor in member.weights.values())
    if size > LARGEST_FILE:
        raise UsageError(
            f"the weights of these {len(members)} networks take {size / 1e9:.1f} GB, and an ONNX file holds "
            f"{LARGEST_FILE / 1e9:.1f} GB; leave some of them out"
        )


def _aspects(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    given, config = checkpoint.input, checkpoint.config
    yield "data set", checkpoint.training.dataset
    classes = checkpoint.classes
    yield "the names of their classes", ", ".join(item.name for item in classes)
    yield (
        "the colours and label values of their classes",
        [(item.colour, item.label_value) for item in classes],
    )
    yield "channels", given.picked or given.channels
    yield "the names of their channels", ", ".join(given.channel_names) or "none"
    yield "pixels", given.dtype
    yield "context", given.context
    yield "scale", config.scale
    yield "crop_bottom", given.crop_bottom
    yield "no_data", config.no_data
    size = checkpoint.pixel_size
    yield "pixel size", "unknown" if size is None else f"{size.value:g} {size.unit}"
