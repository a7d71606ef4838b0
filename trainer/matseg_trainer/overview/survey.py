"""The whole workspace, and what to type next."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matseg_shared.contract.classes import CLASSES_NAME
from matseg_shared.errors import ConfigError, DatasetError
from matseg_shared.images.read import list_images
from matseg_trainer.config.load import CONFIG_NAME
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.folder import SPLITS, Dataset, is_unsplit, unsplit_words
from matseg_trainer.overview.models import ModelFile, exported_models, runs
from matseg_trainer.overview.state import DatasetState, RunState, SplitState, WorkspaceState
from matseg_trainer.overview.versions import DataChanges, version_state
from matseg_trainer.workspace import Workspace

EARLIER_CONFIG_NAME = "config.py"
BEGIN = "matseg-prep demo demo"
"""The first command of a newcomer."""


def survey(place: Workspace) -> WorkspaceState:
    """Everything that `matseg` shows; what cannot be read is said, and the rest is shown."""
    problems: list[str] = []
    config: Mapping[str, Mapping[str, VersionConfig]] = {}
    if place.config_path.is_file():
        try:
            config = place.config().versions
        except ConfigError as error:
            problems.append(str(error))
    found = list(exported_models(place))
    models = [item for item in found if isinstance(item, ModelFile)]
    problems += [item for item in found if isinstance(item, str)]
    outputs = runs(place)
    folders = _dataset_folders(place)
    names = list(dict.fromkeys([*folders, *config]))
    datasets = tuple(_dataset(place, name, config.get(name, {}), models, outputs) for name in names)
    taken = {run.output for item in datasets for run in item.runs}
    steps = [item.next for item in datasets if item.next is not None and item.splits]
    is_workspace = bool(folders) or place.config_path.is_file()
    return WorkspaceState(
        workspace=place.root,
        is_workspace=is_workspace,
        datasets=datasets,
        other_runs=tuple(run for run in outputs if run.output not in taken),
        problems=tuple(problems),
        next=steps[0] if steps else None if folders else BEGIN,
    )


def _dataset_folders(place: Workspace) -> list[str]:
    if not place.data.is_dir():
        return []
    return sorted(
        folder.name
        for folder in place.data.iterdir()
        if any((folder / split / "images").is_dir() for split in SPLITS) or is_unsplit(folder)
    )


def _dataset(
    place: Workspace,
    name: str,
    config: Mapping[str, VersionConfig],
    models: Sequence[ModelFile],
    outputs: Sequence[RunState],
) -> DatasetState:
    try:
        dataset = place.dataset(name)
    except DatasetError:
        dataset = None
    splits = () if dataset is None else tuple(_split(dataset, split) for split in dataset.splits)
    changes = DataChanges(dataset)
    versions = tuple(
        version_state(
            place,
            version,
            f"{name}_{version}",
            settings,
            [file for file in models if file.metadata.name == f"{name}_{version}"],
            changes,
        )
        for version, settings in config.items()
    )
    known = {f"{name}_{version}" for version in config}
    numbers: set[int | None] = {settings.n_class for settings in config.values()}
    if not numbers and dataset is not None and dataset.classes_path.is_file():
        numbers = {_number_of_classes(dataset)}
    state = DatasetState(
        name=name,
        n_class=numbers.pop() if len(numbers) == 1 else None,
        splits=splits,
        versions=versions,
        runs=tuple(run for run in outputs if run.model_name in known),
        next=None,
        hint="",
    )
    command, hint = next_step(place, state)
    return replace(state, next=command, hint=hint)


def _number_of_classes(dataset: Dataset) -> int | None:
    try:
        return len(dataset.classes)
    except DatasetError:
        return None


def _split(dataset: Dataset, split: str) -> SplitState:
    images, labels = (_count(dataset.root / split / kind) for kind in ("images", "labels"))
    folder = dataset.root / split / "labels_npy"
    arrays = sum(1 for _ in folder.glob("*.npy")) if folder.is_dir() else 0
    return SplitState(split=split, images=images, labels=labels, arrays=arrays)


def _count(folder: Path) -> int:
    return len(list_images(folder)[0]) if folder.is_dir() else 0


def next_step(place: Workspace, state: DatasetState) -> tuple[str | None, str]:
    """The command that takes a data set one step further, and its purpose."""
    name, splits = state.name, state.splits
    word = shlex.quote(name)
    if not splits:
        if is_unsplit(place.data / name):
            return None, unsplit_words(place.data / name)
        return None, f"put images in data/{name}/train/images and label images in data/{name}/train/labels"
    if not place.config_path.exists() and (place.root / EARLIER_CONFIG_NAME).is_file():
        command = f"matseg-prep import-config {EARLIER_CONFIG_NAME} -o {CONFIG_NAME}"
        return command, "bring the versions of an earlier MatSeg along"
    wanted = [item.split for item in splits if item.arrays < item.images and item.labels]
    hint = "make label arrays"
    if not wanted and not (place.data / name / CLASSES_NAME).is_file():
        wanted, hint = [item.split for item in splits if item.labels], "make the class table, keep the arrays"
    if wanted:
        if not state.versions and place.known_classes(name) is None:
            words = f"write to {CONFIG_NAME}, with n_class as your labels have it"
            return None, f"{words}\n\n{_starter(place, name)}"
        append = " --append" if any(item.arrays for item in splits if item.split in wanted) else ""
        return f"matseg-prep labels {word} {' '.join(wanted)}{append}", hint
    if not state.versions:
        return None, f"add a version to {CONFIG_NAME}, such as\n\n{_starter(place, name)}"
    return _model_step(place, state)


def _starter(place: Workspace, name: str) -> str:
    """A first version to put into `config.toml`: minutes on a CPU."""
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
    try:
        has_defaults = place.config_path.is_file() and name in place.config().versions
    except ConfigError:
        has_defaults = False
    n_class = place.known_classes(name) or 2
    defaults = "" if has_defaults else f"[{key}.default]\nn_class = {n_class}\n\n"
    return (
        f'{defaults}[{key}.v1]\nmodel = "unet"\nwidth = 16\ncrop = 256\nrepeat = 4\nbatch_size = 8\nlr = 0.003\n'
        'weight_decay = 0\nschedule = "cosine"\nepoch = 30\naug = true\nshuffle = true'
    )


def _model_step(place: Workspace, state: DatasetState) -> tuple[str | None, str]:
    """The next step of the version that is best so far; of the last one while none is trained."""
    name, versions = state.name, state.versions
    trained = [item for item in versions if item.progress == "trained"]
    if not trained:
        interrupted = [item for item in versions if item.progress == "interrupted"]
        words = shlex.join([name, (interrupted or versions)[-1].version])
        if interrupted:
            return f"matseg-train {words} --resume", "go on with training"
        return f"matseg-train {words}", "train"
    best = max(trained, key=lambda item: (not item.is_stale, item.mean_iou or 0.0))
    words = shlex.join([name, best.version])
    if best.is_stale:
        return f"matseg-train {words} --overwrite", "train again, for hyperparameters or data have changed"
    tests = {item.split for item in best.evaluations if item.dataset is None and not item.is_stale}
    if "test" not in tests and any(item.split == "test" and item.arrays for item in state.splits):
        return f"matseg-evaluate {words} --overlay", "measure it on the test images"
    fresh = [model for model in best.models if not model.is_stale]
    if not fresh:
        overwrite = " --overwrite" if (place.saved / f"{name}_{best.version}.onnx").exists() else ""
        return f"matseg-export {words}{overwrite}", "make one file that runs anywhere"
    if not state.runs:
        raw = place.data / f"{name}_raw"
        folder = f"data/{shlex.quote(raw.name)}" if raw.is_dir() else "FOLDER"
        model = fresh[0].path
        model = model.relative_to(place.root) if model.is_relative_to(place.root) else model
        return f"matseg-run {shlex.quote(model.as_posix())} {folder}", "label images"
    return None, "every step is done"
