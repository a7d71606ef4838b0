"""Cross-validation: a version is trained once per fold and seed, and each image predicted by who has not seen it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import ModelError, UsageError
from matseg_trainer.config.versions import fold_version
from matseg_trainer.data.folder import Sample, load_array
from matseg_trainer.evaluate.document import FOLDS, CrossValidation, EvaluationDocument, FoldTraining
from matseg_trainer.evaluate.figures import spread_of
from matseg_trainer.evaluate.run import EvaluationOutputs, EvaluationRequest, evaluate_parts, relative_path
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.predict.checkpoint_header import read_training
from matseg_trainer.predict.predictor import Predictor
from matseg_trainer.train.console import Progress
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.log import SplitScore, read_log
from matseg_trainer.train.loop import run_training
from matseg_trainer.train.outputs import Outputs
from matseg_trainer.train.resume import changes
from matseg_trainer.train.training import TrainingJob


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldsRequest:
    """The options of a cross-validation."""

    folds: int
    seeds: int = 1
    """Trainings of each fold, with seeds from the job's on; the folds are those of the first."""
    blocks: bool = False
    """Keep images that are neighbours in the order of their names in one fold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldsPlan:
    """Everything that a cross-validation is going to do."""

    job: TrainingJob
    """The version, on a data set whose labelled images all train."""
    folds: tuple[tuple[Sample, ...], ...]
    trainings: tuple[tuple[int, TrainingJob], ...]
    """Number of the fold, from 1, and its training; all folds with the first seed, then with the next."""
    notes: tuple[str, ...]
    """Sentences on folds whose trainings lack a class."""


def plan_folds(job: TrainingJob, request: FoldsRequest) -> FoldsPlan:
    """Share out the labelled images of train/ and validate/ to folds.

    Raises:
        UsageError: there are fewer images than folds.
        DatasetError: see `Dataset.samples`.
    """
    data = replace(job.dataset, validation_images=())
    samples = data.samples("train")
    if len(samples) < request.folds:
        raise UsageError(
            f"{data.root}: expected an image for each of {request.folds} folds, found {len(samples)} in train/ and "
            f"validate/; {f'give --folds {len(samples)}' if len(samples) > 1 else 'label more of them'}"
        )
    folds = tuple(
        tuple(samples[index] for index in part) for part in share_out(len(samples), request, job.seed)
    )
    trainings = []
    for seed in range(job.seed, job.seed + request.seeds):
        for number, fold in enumerate(folds, start=1):
            config = job.config.of_fold([sample.stem for sample in fold])
            one = replace(
                job,
                version=fold_version(job.version, number, seed),
                config=config,
                dataset=replace(data, validation_images=config.validation_images),
                seed=seed,
            )
            trainings.append((number, one))
    return FoldsPlan(
        job=replace(job, dataset=data),
        folds=folds,
        trainings=tuple(trainings),
        notes=tuple(_missing_classes(job, folds)),
    )


def share_out(count: int, request: FoldsRequest, seed: int) -> list[list[int]]:
    """Positions of each fold's images, in order; sizes differ by one at most."""
    if request.blocks:
        return [part.tolist() for part in np.array_split(np.arange(count), request.folds)]
    order = np.random.default_rng(seed).permutation(count)
    return [sorted(order[fold :: request.folds].tolist()) for fold in range(request.folds)]


def _missing_classes(job: TrainingJob, folds: Sequence[Sequence[Sample]]) -> Iterator[str]:
    names = [item.name for item in job.dataset.classes]
    holders: dict[int, set[int]] = {}
    for number, fold in enumerate(folds, start=1):
        for sample in fold:
            labels = load_array(sample.labels, job.config.n_class, unlabelled=sample.unlabelled)
            for index in np.unique(labels[labels != UNLABELLED]).tolist():
                holders.setdefault(index, set()).add(number)
    for index, found in sorted(holders.items()):
        if len(found) == 1 and index < len(names):
            yield (
                f"fold {found.pop()} is trained without {names[index]}, of which no other fold has a pixel, and cannot "
                "find it; label it in more images, or ask for fewer folds"
            )


def train_folds(plan: FoldsPlan, context: DistributedContext, progress: Progress) -> None:
    """Train what is not trained yet; with `resume`, finished trainings are kept and an interrupted one goes on.

    Raises:
        UsageError: there are earlier results, and neither `resume` nor `overwrite` was given; or see `run_training`.
        ModelError: a finished training was of other hyperparameters, seed or data.
    """
    fingerprint = functools.cache(lambda data: data.fingerprint(("train", "validate")))
    if context.is_main and not (plan.job.resume or plan.job.overwrite):
        _refuse_earlier(plan)
    for _, job in plan.trainings:
        begun = Outputs(job.workspace, job.name).resume.exists()
        if job.resume and not begun and _is_finished(job, fingerprint(job.dataset)):
            continue
        one = replace(job, resume=job.resume and begun, overwrite=job.overwrite or job.resume)
        run_training(one, context, progress)


def _refuse_earlier(plan: FoldsPlan) -> None:
    for _, job in plan.trainings:
        outputs = Outputs(job.workspace, job.name)
        for path in (outputs.checkpoint, outputs.resume, outputs.log):
            if path.exists():
                raise UsageError(
                    f"{path}: an earlier training of these folds exists; give --resume to keep what is trained and do "
                    "the rest, or --overwrite to train all again"
                )


def _is_finished(job: TrainingJob, fingerprint: str) -> bool:
    outputs = Outputs(job.workspace, job.name)
    if not (outputs.checkpoint.exists() and outputs.log.exists()):
        return False
    training = read_training(outputs.checkpoint)
    if changed := changes(training.model_dump(mode="json"), job, fingerprint):
        raise ModelError(
            f"{outputs.checkpoint}: was trained before these changed: {'; '.join(changed)}; restore them, or train all "
            "folds again with --overwrite"
        )
    log = replace(read_log(outputs.log), checkpoint=job.config.checkpoint)
    return log.is_done(job.config) and log.kept.epoch == training.epoch


def evaluate_folds(
    plan: FoldsPlan, progress: Callable[[int, int], None]
) -> tuple[EvaluationDocument, EvaluationOutputs]:
    """Predict each image with the trainings that have not seen it, and sum up all trainings.

    Raises:
        ModelError: a checkpoint cannot be read.
        OutputError: results cannot be written.
    """
    place, name = plan.job.workspace, plan.job.name
    trainings = [_of_training(fold, job) for fold, job in plan.trainings]
    mean_iou, accuracy, *iou = (
        spread_of(values)
        for values in zip(*((one.mean_iou, one.accuracy, *one.iou) for one in trainings), strict=True)
    )
    assert mean_iou is not None, "there is a training"
    assert accuracy is not None, "there is a training"
    request = EvaluationRequest(
        name=name,
        split=FOLDS,
        model=place.saved / f"{fold_version(name, '*', '*')}.pth",
        folds=CrossValidation(
            images=tuple(tuple(sample.stem for sample in fold) for fold in plan.folds),
            trainings=tuple(trainings),
            mean_iou=mean_iou,
            accuracy=accuracy,
            iou=tuple(iou),
            notes=plan.notes,
        ),
    )
    outputs = EvaluationOutputs.of(
        place, plan.job.dataset, request, plan.job.config.model, exported=False, overlays=False
    )

    def mean_predictor(number: int) -> Predictor:
        jobs = (job for fold, job in plan.trainings if fold == number)
        checkpoints = (load_checkpoint(Outputs(place, job.name).checkpoint) for job in jobs)
        return Predictor.mean_of(
            [Predictor.of_checkpoint(one, plan.job.compute.device) for one in checkpoints]
        )

    parts = [
        (fold, functools.partial(mean_predictor, number)) for number, fold in enumerate(plan.folds, start=1)
    ]
    return evaluate_parts(plan.job.dataset, request, parts, outputs, progress), outputs


def _of_training(fold: int, job: TrainingJob) -> FoldTraining:
    outputs = Outputs(job.workspace, job.name)
    training = read_training(outputs.checkpoint)
    score = SplitScore.model_validate(training.metrics)
    return FoldTraining(
        fold=fold,
        seed=job.seed,
        checkpoint=relative_path(outputs.checkpoint, outputs.log.parent),
        epoch=training.epoch,
        seconds=round(sum(record.seconds for record in read_log(outputs.log).epochs), 3),
        accuracy=score.accuracy,
        mean_iou=score.mean_iou,
        iou=score.iou,
    )
