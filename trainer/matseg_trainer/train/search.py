"""Random search over hyperparameters, in which the worse trials end early."""

from __future__ import annotations

import math
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from matseg_shared.console.help import did_you_mean
from matseg_shared.console.progress import Progress as Shown
from matseg_shared.errors import UsageError, problems_of
from matseg_trainer.config.load import DATA_KEYS
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.train.console import Progress
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.log import TrainingLog, read_log
from matseg_trainer.train.loop import run_training
from matseg_trainer.train.outputs import Outputs
from matseg_trainer.train.record import read_record
from matseg_trainer.train.resume import changes
from matseg_trainer.train.training import DivergedError, TrainingJob
from matseg_trainer.workspace import Workspace

KEPT_SHARE = 3
"""One trial of so many goes on from one rung to the next, with so many times the epochs."""
_NOT_TRIED = {
    *DATA_KEYS,
    *("validation_images", "epoch", "checkpoint", "seed", "workers"),
}
"""Keys that say what the data are, or by which trials could not be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """The options of a search."""

    values: Mapping[str, Sequence[Any]]
    """Key -> the values to draw from."""
    trials: int
    """The version itself, and so many less one that differ from it."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One trial, as far as it went."""

    trial: int
    """Counted from 1, which is the version itself."""
    changes: Mapping[str, Any]
    epochs: int
    """Trained; 0 where the training diverged."""
    mean_iou: float | None
    """On the validation images, of the epoch that is kept; None: the training diverged."""
    accuracy: float | None


def parse_try(text: str) -> tuple[str, tuple[Any, ...]]:
    """Read `lr=0.001,0.003`: a key and values as in config.toml, words without quotes.

    Raises:
        UsageError: there is no key or no value.
    """
    key, _, listed = text.partition("=")
    if not key or not listed:
        raise UsageError(f"--try {text}: expected a key and values, as in lr=0.001,0.003")
    try:
        return key, tuple(tomllib.loads(f"values = [{listed}]")["values"])
    except tomllib.TOMLDecodeError:
        return key, tuple(_plain(item.strip()) for item in listed.split(","))


def _plain(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def usual_values(config: VersionConfig) -> dict[str, tuple[Any, ...]]:
    """Values of the keys that most often matter, around those of a version."""
    values: dict[str, tuple[Any, ...]] = {
        "lr": tuple(float(f"{config.lr * factor:.2g}") for factor in (0.1, 0.3, 1, 3)),
        "weight_decay": (0.0, 1e-4, 5e-4),
        "loss": ("cross_entropy", "dice"),
        "aug": (False, "turns", True),
    }
    if config.crop is not None:
        values["oversample_classes"] = (0.0, 0.5)
    return values


def draw_trials(config: VersionConfig, request: SearchRequest, seed: int) -> list[dict[str, Any]]:
    """Differences from the version in each trial: nothing in the first, then values drawn at random, none twice.

    More trials begin with the same as fewer.

    Raises:
        UsageError: a key is unknown or cannot be searched over, or a value is wrong.
    """
    for key, values in request.values.items():
        _check(config, key, values)
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, Any]] = [{}]
    total = math.prod(len(values) for values in request.values.values())
    seen: set[tuple[int, ...]] = set()
    while len(drawn) < request.trials and len(seen) < total:
        chosen = {key: int(rng.integers(len(values))) for key, values in request.values.items()}
        if tuple(chosen.values()) in seen:
            continue
        seen.add(tuple(chosen.values()))
        trial = {key: request.values[key][index] for key, index in chosen.items()}
        changed = {key: value for key, value in trial.items() if value != getattr(config, key)}
        if changed not in drawn:
            drawn.append(changed)
    return drawn


def _check(config: VersionConfig, key: str, values: Sequence[Any]) -> None:
    known = [name for name in VersionConfig.model_fields if name not in _NOT_TRIED]
    if key not in known:
        reason = "cannot be searched over" if key in _NOT_TRIED else "is no key of a version"
        raise UsageError(f"--try {key}: {reason}{did_you_mean(key, known)}; known: {', '.join(known)}")
    for value in values:
        try:
            with_changes(config, {key: value})
        except ValidationError as error:
            problem = problems_of(error)[0].message
            raise UsageError(f"--try {key}: {problem[:1].lower()}{problem[1:]}, found {value!r}") from error


def with_changes(config: VersionConfig, changed: Mapping[str, Any]) -> VersionConfig:
    """The version with other values of some keys.

    Raises:
        pydantic.ValidationError: a value is wrong.
    """
    return VersionConfig.model_validate({**dict(config), **changed})


def rungs_of(trials: int, epochs: int) -> list[tuple[int, int]]:
    """(trials, epochs) of each rung: all trials at first, in the end few of them to the last epoch.

    Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) with a third kept, as Hyperband does (Li et al.
    2018, arXiv:1603.06560); of its brackets only the one that ends trials earliest.
    """
    steps = 0
    while KEPT_SHARE ** (steps + 1) <= min(trials, epochs):
        steps += 1
    return [
        (max(1, trials // KEPT_SHARE**step), math.ceil(epochs / KEPT_SHARE ** (steps - step)))
        for step in range(steps + 1)
    ]


def search(job: TrainingJob, request: SearchRequest, shown: Shown) -> list[TrialResult]:
    """Train trials of a version, rung by rung; what an earlier call has trained is not trained again.

    A trial is a training with the whole schedule that stops after the rung's epochs, and goes on bit for bit in the
    next rung. Trials are ranked by validation mean IoU.

    Returns:
        All trials: those that went furthest first, of these the best.

    Raises:
        UsageError: see `draw_trials`, or an earlier search was over other trials, seeds or data.
    """
    drawn = draw_trials(job.config, request, job.seed)
    root = job.workspace.root / "search" / job.name  # a workspace of its own
    if request.overwrite:
        shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    jobs = [
        replace(
            job,
            workspace=Workspace(root),
            version=f"{job.version}.trial{number}",
            config=with_changes(job.config, changed),
        )
        for number, changed in enumerate(drawn, start=1)
    ]
    _require_same(jobs, job.dataset.fingerprint(("train", "validate")))
    results: dict[int, TrialResult] = {}
    left = list(range(len(jobs)))
    for count, epochs in rungs_of(len(jobs), job.config.epoch):
        for index in left[count:]:
            outputs = Outputs(jobs[index].workspace, jobs[index].name)
            for path in (outputs.checkpoint, outputs.resume):
                path.unlink(missing_ok=True)
        left = sorted(left[:count])
        shown.stage(f"trials to epoch {epochs} of {job.config.epoch}", len(left), unit="trials")
        for index in left:
            shown.note(f"trial {index + 1}")
            results[index] = _result(index + 1, drawn[index], _train(jobs[index], epochs))
            shown.advance()
        left = [index for index in left if results[index].mean_iou is not None]
        left.sort(key=lambda index: -(results[index].mean_iou or 0))
    if not left:
        raise UsageError(f"{root}: every trial diverged; search over lower learning rates (--try lr=...)")
    return sorted(
        results.values(),
        key=lambda one: (one.mean_iou is None, -one.epochs, -(one.mean_iou or 0), one.trial),
    )


def _result(trial: int, changed: Mapping[str, Any], log: TrainingLog | None) -> TrialResult:
    score = None if log is None else log.kept.validate_
    return TrialResult(
        trial=trial,
        changes=changed,
        epochs=0 if log is None else len(log.epochs),
        mean_iou=None if score is None else score.mean_iou,
        accuracy=None if score is None else score.accuracy,
    )


def _train(job: TrainingJob, epochs: int) -> TrainingLog | None:
    """The first `epochs` epochs of a trial, trained now or before; None: it diverged."""
    outputs = Outputs(job.workspace, job.name)
    if outputs.log.exists():
        done = read_log(outputs.log).epochs
        if len(done) >= epochs:
            return TrainingLog(epochs=done[:epochs], checkpoint=job.config.checkpoint)
    begun = outputs.resume.exists()
    try:
        return run_training(
            replace(job, resume=begun, overwrite=not begun), DistributedContext(), Progress(), until=epochs
        )
    except DivergedError:
        return None
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("run the same command again to go on") from error


def _require_same(jobs: Sequence[TrainingJob], fingerprint: str) -> None:
    for job in jobs:
        log = Outputs(job.workspace, job.name).log
        record = read_record(log) if log.exists() else None
        if record is not None and (changed := changes(record.model_dump(mode="json"), job, fingerprint)):
            raise UsageError(
                f"{log}: an earlier search was another one ({'; '.join(changed)}); give the same options to go on with "
                "it, or --overwrite to search anew"
            )
