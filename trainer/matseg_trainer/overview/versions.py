"""Progress of the versions of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from matseg_shared.contract.metadata import ModelMetadata, TrainingInfo
from matseg_shared.errors import DatasetError, MetadataError, ModelError, UsageError
from matseg_trainer.config.versions import VersionConfig, config_differences, fold_version
from matseg_trainer.data.folder import Dataset
from matseg_trainer.evaluate.document import FOLDS, read_evaluation
from matseg_trainer.overview.state import EvaluationState, ModelState, VersionState
from matseg_trainer.predict.checkpoint_header import read_training
from matseg_trainer.train.log import read_log
from matseg_trainer.workspace import Workspace

_HASHED_BYTES = 1 << 30
"""A larger data set is not compared with what a version was trained on."""


class DataChanges:
    """Comparison of a data set with what versions were trained on.

    Its content is read only if any of its files is newer than a checkpoint, and once for all versions that share it out
    alike.
    """

    def __init__(self, dataset: Dataset | None) -> None:
        self._dataset = dataset
        self._fingerprints: dict[tuple[str, ...] | None, str] = {}

    def since(self, checkpoint: Path, training: TrainingInfo) -> bool:
        """Tell, as far as that is possible, whether it has changed."""
        is_newer = self._newest > checkpoint.stat().st_mtime
        return is_newer and self._fingerprint(training) not in ("", training.fingerprint)

    @cached_property
    def _paths(self) -> list[Path]:
        """Files that are learned from, and their folders; not predictions and overlays, which lie beside them."""
        splits = (
            () if self._dataset is None else [self._dataset.root / split for split in ("train", "validate")]
        )
        folders = [split / kind for split in splits for kind in ("images", "labels_npy")]
        return [path for folder in folders if folder.is_dir() for path in (folder, *folder.iterdir())]

    @cached_property
    def _newest(self) -> float:
        return max((path.stat().st_mtime for path in self._paths), default=0.0)

    def _fingerprint(self, training: TrainingInfo) -> str:
        """Fingerprint of the data, shared out as for a training; empty where it cannot be told."""
        if self._dataset is None or sum(path.stat().st_size for path in self._paths) > _HASHED_BYTES:
            return ""
        dataset = self._dataset.as_trained(training)
        if dataset.validation_images not in self._fingerprints:
            found = ""
            with suppress(DatasetError):
                found = dataset.fingerprint(dataset.learned_splits)
            self._fingerprints[dataset.validation_images] = found
        return self._fingerprints[dataset.validation_images]


def version_state(
    place: Workspace,
    name: str,
    version: str,
    config: VersionConfig,
    models: Mapping[Path, ModelMetadata],
    changes: DataChanges,
) -> VersionState:
    """One version of the data set `name` in `config.toml`, with what was made of it; `models` may be of others."""
    stem = f"{name}_{version}"
    checkpoint, resume = place.saved / f"{stem}.pth", place.saved / f"{stem}.resume.pth"
    epochs, training, notes = 0, None, []
    with suppress(UsageError):
        epochs = len(read_log(place.log / f"{stem}.jsonl").epochs)
    if checkpoint.is_file():
        try:
            training = read_training(checkpoint)
        except ModelError as error:
            notes.append(str(error))
    stale = [] if training is None else _stale(stem, checkpoint, training, config, changes)
    mean_iou = None if training is None else training.metrics.get("mean_iou")
    states = tuple(
        ModelState(
            path=path,
            precision=metadata.export.precision,
            tta=metadata.export.tta,
            bytes=path.stat().st_size,
            is_stale=training is not None and metadata.training != training,
        )
        for path, metadata in models.items()
        if metadata.name == stem
    )
    notes += [f"{model.path.name} was exported from another checkpoint" for model in states if model.is_stale]
    return VersionState(
        version=version,
        network=config.model,
        progress="interrupted" if resume.exists() else "untrained" if training is None else "trained",
        epochs=epochs,
        epochs_wanted=config.epoch,
        kept_epoch=None if training is None else training.epoch,
        mean_iou=mean_iou if isinstance(mean_iou, float) else None,
        evaluations=tuple(_evaluations(place, stem, checkpoint)),
        models=states,
        notes=(*stale, *notes),
        is_stale=bool(stale),
    )


def _stale(
    name: str, checkpoint: Path, training: TrainingInfo, config: VersionConfig, changes: DataChanges
) -> list[str]:
    keys = [problem.where for problem in config_differences(training.config, config)]
    notes = [f"{name} was trained with another {', '.join(keys)} than config.toml now gives"] if keys else []
    if changes.since(checkpoint, training):
        notes.append(f"{name} was trained on other images or labels than data/{training.dataset} now holds")
    return notes


def _evaluations(place: Workspace, name: str, checkpoint: Path) -> Iterator[EvaluationState]:
    """Figures in `log/` that name this version themselves: `a_v1_x.json` may be another's."""
    folds = place.log / f"{name}.{FOLDS}.json"
    for path in (*sorted(place.log.glob(f"{name}_*.json")), folds):
        try:
            document = read_evaluation(path)
        except MetadataError:
            continue  # of something else, or of a version that wrote other figures
        if document.name == name:
            trained = (
                place.saved.glob(f"{fold_version(name, '*', '*')}.pth") if path == folds else [checkpoint]
            )
            yield EvaluationState(
                split=document.split,
                dataset=document.dataset,
                model="onnx" if path.stem.endswith("_onnx") else "checkpoint",
                mean_iou=document.mean_iou,
                path=path,
                is_stale=any(
                    file.is_file() and file.stat().st_mtime > path.stat().st_mtime for file in trained
                ),
            )
