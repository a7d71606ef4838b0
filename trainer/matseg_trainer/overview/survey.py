"""The whole workspace, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import ConfigError, DatasetError
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.folder import SPLITS, Dataset, images_in, is_unsplit, unsplit_words
from matseg_trainer.overview.models import exported_models, runs
from matseg_trainer.overview.state import DatasetState, RunState, SplitState, WorkspaceState
from matseg_trainer.overview.versions import DataChanges, version_state
from matseg_trainer.workspace import Workspace

BEGIN = "matseg-prep demo demo"
"""The first command of a newcomer."""
_LEAST_TO_SHARE, _PLENTY_TO_SHARE = 3, 6
"""Images of which one can be validated and one tested with; and two of each, as `matseg-prep split` has it."""


def survey(place: Workspace) -> WorkspaceState:
    """Everything that `matseg` shows; what cannot be read is said, and the rest is shown."""
    models, problems = exported_models(place)
    config: Mapping[str, Mapping[str, VersionConfig]] = {}
    if place.config_path.is_file():
        try:
            config = place.config().versions
        except ConfigError as error:
            problems.insert(0, str(error))
    outputs = runs(place)
    folders = sorted(
        folder.name
        for folder in place.data.glob("*")
        if any((folder / split / "images").is_dir() for split in SPLITS) or is_unsplit(folder)
    )
    names = list(dict.fromkeys([*folders, *config]))
    datasets = tuple(_dataset(place, name, config, models, outputs) for name in names)
    taken = {run.output for item in datasets for run in item.runs}
    steps = [item.next for item in datasets if item.next is not None and item.splits]
    return WorkspaceState(
        workspace=place.root,
        is_workspace=bool(folders) or place.config_path.is_file(),
        datasets=datasets,
        other_runs=tuple(run for run in outputs if run.output not in taken),
        problems=tuple(problems),
        next=steps[0] if steps else None if folders else BEGIN,
    )


def next_words(place: Workspace, name: str) -> str:
    """The next step of one data set, for a command that has just made it."""
    return next(item.step for item in survey(place).datasets if item.name == name)


def _dataset(
    place: Workspace,
    name: str,
    config: Mapping[str, Mapping[str, VersionConfig]],
    models: Mapping[Path, ModelMetadata],
    outputs: Sequence[RunState],
) -> DatasetState:
    try:
        dataset = place.dataset(name)
    except DatasetError:
        dataset = None
    changes = DataChanges(dataset)
    versions = config.get(name, {})
    known = {f"{name}_{version}" for version in versions}
    state = DatasetState(
        name=name,
        n_class=place.known_classes(name),
        splits=() if dataset is None else tuple(_split(dataset, split) for split in dataset.splits),
        versions=tuple(
            version_state(place, name, version, settings, models, changes)
            for version, settings in versions.items()
        ),
        runs=tuple(run for run in outputs if run.model_name in known),
        next=None,
        hint="",
    )
    held = [item.validation_images for item in versions.values()]
    command, hint = _next_step(place, state, has_folder=bool(held) and all(names is None for names in held))
    return replace(state, next=command, hint=hint)


def _split(dataset: Dataset, split: str) -> SplitState:
    folder = dataset.root / split
    images, labels = (len(images_in(folder / kind)) for kind in ("images", "labels"))
    arrays = len(list((folder / "labels_npy").glob("*.npy")))
    return SplitState(split=split, images=images, labels=labels, arrays=arrays)


def _next_step(place: Workspace, state: DatasetState, *, has_folder: bool) -> tuple[str | None, str]:
    """The command that takes a data set one step further, and its purpose.

    `has_folder`: its versions validate on the folder validate/.
    """
    name, splits = state.name, state.splits
    folder = place.data / name
    if not splits:
        if is_unsplit(folder):
            return None, unsplit_words(folder)
        return None, f"put images in data/{name}/train/images and label images in data/{name}/train/labels"
    if not place.config_path.exists() and (place.root / "config.py").is_file():
        command = "matseg-prep import-config config.py -o config.toml"
        return command, "bring the versions of an earlier MatSeg along"
    labelled = {item.split: item.images for item in splits if item.images and (item.labels or item.arrays)}
    for split in ("train", *(["validate"] if has_folder else [])):
        if split not in labelled:
            return _missing_split(place, name, split, labelled.get("train", 0))
    if state.versions:
        return _model_step(place, state)
    return shlex.join(["matseg-train", name]), "train a version that is made from the data"


def _missing_split(place: Workspace, name: str, split: str, pictures: int) -> tuple[str | None, str]:
    """The step towards labelled images to train or validate with, where a data set has `pictures` to train."""
    parts = f"{name}_split"
    if (place.data / parts).is_dir():
        return None, f"was shared out to {parts}"
    if split == "validate" and pictures >= _LEAST_TO_SHARE:
        few = " --validate 1 --test 1" if pictures < _PLENTY_TO_SHARE else ""
        words = shlex.join(["matseg-prep", "split", f"data/{name}/train", parts])
        return words + few, "share its images out to train, validate and test"
    return None, (
        f"put images in data/{name}/{split}/images and label images in data/{name}/{split}/labels, or let "
        f"matseg-prep import put them there with --split {split}"
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
    can_test = any(item.split == "test" and item.labels + item.arrays for item in state.splits)
    if can_test and "test" not in tests:
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
