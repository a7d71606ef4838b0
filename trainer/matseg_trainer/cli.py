"""The commands `matseg-train`, `matseg-evaluate` and `matseg-export`; torch is imported only when one works."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matseg_shared.command import EXIT_INTERRUPTED, console, debug_option
from matseg_shared.errors import MissingExtraError
from matseg_trainer.workspace import Workspace, workspace_option

if TYPE_CHECKING:
    from matseg_trainer.train import EpochRecord

_CONTEXT = {"help_option_names": ["-h", "--help"]}


def require_train_extra(command: str) -> None:
    """Say which extra is missing before anything imports it.

    Raises:
        MissingExtraError: torch, onnx or matplotlib is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "onnx", "onnxscript", "matplotlib")):
        raise MissingExtraError("train", command)


@click.command(context_settings=_CONTEXT)
@click.argument("dataset")
@click.argument("version")
@click.option("--gpu", is_flag=True, help="Use a GPU, should one be available.")
@click.option("--no-save", is_flag=True, help="Keep no checkpoint; log and plot are still written.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the version's own seed.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted training, bit for bit.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result of this version.")
@workspace_option
@debug_option
def train_main(
    dataset: str,
    version: str,
    gpu: bool,
    no_save: bool,
    seed: int | None,
    resume: bool,
    overwrite: bool,
    workspace: Path | None,
) -> int | None:
    """Train VERSION of DATASET, as config.toml describes it.

    \b
    Example: matseg-train tomography v7 --gpu

    The best epoch by validation mean IoU is kept in saved/; metrics per epoch go to log/, curves to plots/.
    """
    place = Workspace.find(workspace)
    config = place.config().version(dataset, version)
    data = place.dataset(dataset)
    require_train_extra("matseg-train")
    if resume and (overwrite or no_save):
        raise click.UsageError("--resume goes with neither --overwrite nor --no-save.")
    from matseg_trainer.device import choose_compute
    from matseg_trainer.distributed import join_world
    from matseg_trainer.progress import terminal_progress
    from matseg_trainer.train import Outputs, Progress, TrainingJob, train

    with join_world(gpu=gpu) as world:
        compute = choose_compute(gpu=gpu, precision=config.precision, local_rank=world.local_rank)
        if gpu and compute.device.type == "cpu" and world.is_main:
            click.secho(f"Warning: training on the CPU: {compute.device_reason}", fg="yellow", err=True)
        job = TrainingJob(
            workspace=place,
            dataset=data,
            version=version,
            config=config,
            compute=compute,
            seed=config.seed if seed is None else seed,
            save=not no_save,
            resume=resume,
            overwrite=overwrite,
        )
        outputs = Outputs.of(place, job.name)
        try:
            if world.is_main:
                with terminal_progress() as progress:
                    records = train(job, world, progress)
                _conclude(records, outputs, saved=job.save)
            else:
                train(job, world, Progress())
        except KeyboardInterrupt:
            hint = "go on with --resume" if outputs.resume.exists() else "nothing was saved yet"
            click.echo(f"Interrupted: {hint}", err=True)
            return EXIT_INTERRUPTED
    return None


def _conclude(records: list[EpochRecord], outputs: object, *, saved: bool) -> None:
    from matseg_trainer.train import Outputs

    assert isinstance(outputs, Outputs)
    best = max(records, key=lambda record: record.validate.mean_iou)
    out = console()
    out.print(
        f"best epoch {best.epoch}: validation mean IoU {best.validate.mean_iou:.4f}, "
        f"accuracy {best.validate.accuracy:.4f}"
    )
    if saved:
        out.print(f"  checkpoint {outputs.checkpoint}")
    out.print(f"  log        {outputs.log}\n  curves     {outputs.plot}")
