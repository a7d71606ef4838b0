"""The command `matseg-train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from matseg_shared.console.command import console, debug_option, json_option, print_json, warn
from matseg_shared.console.help import Command
from matseg_shared.console.options import COUNT, applies_with, excludes, flag, page_option
from matseg_shared.console.progress import shown_progress
from matseg_shared.errors import UsageError
from matseg_trainer.commands.completion import complete_version
from matseg_trainer.commands.options import (
    dataset_argument,
    device_option,
    gpu_option,
    require_train_extra,
    seed_option,
    version_config,
)
from matseg_trainer.workspace import Workspace, workspace_option

if TYPE_CHECKING:
    from matseg_trainer.config.versions import VersionConfig
    from matseg_trainer.data.folder import Dataset
    from matseg_trainer.train.distributed import DistributedContext
    from matseg_trainer.train.folds import FoldsRequest
    from matseg_trainer.train.log import TrainingLog
    from matseg_trainer.train.outputs import Outputs
    from matseg_trainer.train.training import TrainingJob


@cloup.command(
    name="matseg-train",
    cls=Command,
    examples="""
        matseg-train steel  # train a version that is made from the data
        matseg-train tomography v7 --gpu  # train, on a GPU should there be one
        matseg-train tomography v7 --resume  # go on after an interruption
        matseg-train tomography v7 --seed 1 --no-save
            # try the same version with another seed, and keep nothing
        matseg-train steel v1 --folds 5 --seeds 2
            # cross-validation: ten trainings, and each image predicted by those that have not seen it
    """,
    renamed={"--init": "--weights"},
)
@dataset_argument
@click.argument("version", required=False, shell_complete=complete_version)
@gpu_option
@device_option
@flag("--no-save", "Keep no checkpoint; log and plot are still written.")
@seed_option
@click.option(
    "--weights",
    metavar="NAME|FILE",
    help="Fine-tune: start from these weights: a name in saved/ (tomography_v8), a .pth file, a model in fp32 "
    "(zoo:uhcs or an .onnx file).",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    metavar="K",
    help="Cross-validation: train K times, each time on all labelled images but those of one fold.",
)
@click.option(
    "--seeds",
    type=COUNT,
    metavar="N",
    help="Trainings of each fold, with N seeds. Default: 1.",
)
@flag(
    "--blocks",
    "Keep neighbours by name in one fold, as slices of one scan are; else folds are drawn at random.",
)
@click.option(
    "--on-epoch",
    "hooks",
    multiple=True,
    metavar="csv|tensorboard|MODULE:FUNCTION",
    help="Besides our own log: a table in log/, events for TensorBoard in log/tensorboard/, or a function of yours. "
    "Repeatable.",
)
@flag("--resume", "Go on with an interrupted training, bit for bit.")
@flag("--overwrite", "Replace an earlier result of this version.")
@workspace_option
@page_option
@json_option
@excludes("resume", "overwrite", "no_save")
@excludes("folds", "no_save")
@excludes("device", "gpu")
@applies_with("folds", "seeds", "blocks")
@debug_option
def train_main(
    dataset: str,
    version: str | None,
    gpu: bool,
    device: str | None,
    no_save: bool,
    seed: int | None,
    weights: str | None,
    folds: int | None,
    seeds: int | None,
    blocks: bool,
    hooks: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    workspace: Path | None,
    page: bool,
    as_json: bool,
) -> None:
    """Train VERSION of DATASET, as config.toml describes it.

    Without VERSION it is the version `auto`, which is made from images and labels where config.toml has none yet, as
    `matseg-prep config` does.

    The best epoch by validation mean IoU (or the last, with `checkpoint = "last"`) is kept in saved/; metrics per
    epoch go to log/, curves to plots/.
    """
    place = Workspace.find(workspace)
    from matseg_trainer.config.load import AUTO_VERSION

    version = version or AUTO_VERSION
    found = None if version == AUTO_VERSION else _config_and_data(place, dataset, version, folds)
    require_train_extra("matseg-train")
    from matseg_trainer.pages.places import page_line
    from matseg_trainer.pages.training import write_training_page
    from matseg_trainer.prepare.labels import update_arrays
    from matseg_trainer.train.console import Progress, terminal_progress
    from matseg_trainer.train.device import choose_compute
    from matseg_trainer.train.distributed import join_processes
    from matseg_trainer.train.folds import FoldsRequest
    from matseg_trainer.train.hooks import epoch_hook
    from matseg_trainer.train.loop import run_training
    from matseg_trainer.train.outputs import Outputs
    from matseg_trainer.train.pretrained import PretrainedWeights
    from matseg_trainer.train.training import TrainingJob

    with join_processes(gpu=gpu) as context:
        if device is not None and context.size > 1:
            raise UsageError("--device: of several processes each takes a GPU of its own; give --gpu instead")
        with context.main_first():  # which makes what is missing; the others find it
            if found is None:
                _make_auto(place, dataset, as_json=as_json)
                found = _config_and_data(place, dataset, version, folds)
            config, data = found
            with shown_progress() as shown:
                notes = update_arrays(data, data.learned_splits, config.n_class, shown)
        for note in notes:
            click.echo(f"note: {note}", err=True)
        compute = choose_compute(gpu=gpu, amp=config.amp, local_rank=context.local_rank, device=device)
        if gpu and compute.device.type == "cpu" and context.is_main:
            warn(f"training on the CPU: {compute.device_reason}")
        job = TrainingJob(
            workspace=place,
            dataset=data,
            version=version,
            config=config,
            compute=compute,
            seed=config.seed if seed is None else seed,
            weights=None if weights is None else PretrainedWeights.load(place, weights),
            save=not no_save,
            resume=resume,
            overwrite=overwrite,
            on_epoch={name: epoch_hook(name) for name in hooks},
        )
        outputs = Outputs(place, job.name)
        try:
            if folds is not None:
                request = FoldsRequest(folds=folds, seeds=seeds or 1, blocks=blocks)
                _cross_validate(job, request, context, page=page, as_json=as_json)
            elif context.is_main:
                out = console(stderr=as_json)
                with terminal_progress(out) as progress:
                    log = run_training(job, context, progress)
                summary = _summary(job, log, outputs)
                if as_json:
                    print_json(summary)
                out.print("\n".join(_lines(summary)), markup=False)
                if page:
                    out.print(page_line(write_training_page, outputs.log), markup=False)
            else:
                run_training(job, context, Progress())
        except KeyboardInterrupt as error:
            if resume or folds is not None:
                raise KeyboardInterrupt("go on with --resume") from error
            raise KeyboardInterrupt(str(error) or "nothing was saved yet") from error


def _config_and_data(
    place: Workspace, dataset: str, version: str, folds: int | None
) -> tuple[VersionConfig, Dataset]:
    config = version_config(place, dataset, version)
    return config, place.dataset(dataset, config.validation_images if folds is None else ())


def _cross_validate(
    job: TrainingJob, request: FoldsRequest, context: DistributedContext, *, page: bool, as_json: bool
) -> None:
    from matseg_trainer.evaluate.console import NAME_WIDTH, print_evaluation
    from matseg_trainer.pages.evaluation import write_evaluation_page
    from matseg_trainer.pages.places import page_line
    from matseg_trainer.train.console import Progress, terminal_progress
    from matseg_trainer.train.folds import evaluate_folds, plan_folds, train_folds

    plan = plan_folds(job, request)
    if not context.is_main:
        train_folds(plan, context, Progress())
        return
    for note in plan.notes:
        warn(note)
    with terminal_progress(console(stderr=as_json)) as progress:
        train_folds(plan, context, progress)
    with shown_progress() as shown:
        shown.stage("predicting each image by those that have not seen it", unit="images")
        result, outputs = evaluate_folds(plan, shown.reach)
    if as_json:
        print_json(result)
    else:
        print_evaluation(result, outputs)
    if page:
        click.echo(page_line(write_evaluation_page, outputs.metrics, width=NAME_WIDTH), err=as_json)


def _make_auto(place: Workspace, dataset: str, *, as_json: bool) -> None:
    """Make the version `auto` where there is none, and print its choices with reasons."""
    from matseg_trainer.prepare.auto import has_auto, write_auto

    if has_auto(place, dataset):
        return
    with shown_progress() as shown:
        made = write_auto(place, dataset, progress=shown)
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    click.echo("\n".join(made.told), err=as_json)


def _summary(job: TrainingJob, log: TrainingLog, outputs: Outputs) -> dict[str, Any]:
    """The JSON document, as docs/commands.md has it."""
    kept = log.kept
    return {
        "dataset": job.dataset.name,
        "version": job.version,
        "network": job.config.model,
        "epochs": len(log.epochs),
        "kept_epoch": kept.epoch,
        "validation": kept.validate_,
        "seconds": round(sum(record.seconds for record in log.epochs), 3),
        "device": str(job.compute.device),
        "precision": job.compute.precision,
        "seed": job.seed,
        "checkpoint": outputs.checkpoint if job.save else None,
        "log": outputs.log,
        "curves": outputs.plot,
    }


def _lines(summary: dict[str, Any]) -> list[str]:
    score = summary["validation"]
    figures = "none: no image measures it"
    if score is not None:
        figures = f"mean IoU {score.mean_iou:.4f}, accuracy {score.accuracy:.4f}"
    files = [f"  {name:<10} {summary[name]}" for name in ("checkpoint", "log", "curves") if summary[name]]
    return [f"epoch {summary['kept_epoch']} is kept: validation {figures}", *files]
