"""Train one version: epochs of steps, a validation after each, the best or the last epoch kept."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime

from matseg_shared.console.command import warn
from matseg_shared.errors import MatsegError
from matseg_shared.images.channels import described
from matseg_trainer.config.load import AUTO_VERSION
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.mapped import temporary_folder
from matseg_trainer.networks.base import count_parameters
from matseg_trainer.predict.checkpoint import package_versions, save_checkpoint
from matseg_trainer.train.console import Progress
from matseg_trainer.train.cost import expected_seconds, time_words
from matseg_trainer.train.curves import plot_training
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.log import TrainingLog, write_log
from matseg_trainer.train.outputs import Outputs
from matseg_trainer.train.record import SplitFacts, TrainingRecord, write_record
from matseg_trainer.train.resume import restore, save_resume_state
from matseg_trainer.train.training import Training, TrainingJob

_DRAWN_AGAIN = 10.0
"""Seconds after which the curves are drawn anew: that takes longer than a short epoch."""
_SHARES = (
    "how frequent each class is where nothing is labelled is estimated, and used where validation gains by it"
)


def run_training(
    job: TrainingJob, context: DistributedContext, progress: Progress, *, until: int | None = None
) -> TrainingLog:
    """Train a version to its last epoch, or to epoch `until`, from which it can go on with `resume`.

    Returns:
        The log of all epochs, those before an interruption included.

    Raises:
        UsageError: the data, the configuration, earlier results or another process stand in the way.
    """
    outputs = Outputs(job.workspace, job.name)
    with (
        temporary_folder() as decoded,
        _resumable(Training(job, context, decoded)) as training,
        outputs.locked() if context.is_main else nullcontext(),
    ):
        if context.is_main:
            outputs.require_free(resume=job.resume, overwrite=job.overwrite, save=job.save)
            outputs.require_writable(save=job.save)
        context.barrier()
        if job.resume:
            restore(outputs.resume, training)
        record = start_record(training)
        progress.start(job.name, job.config.epoch, record.facts)
        log = TrainingLog(epochs=training.records, checkpoint=job.config.checkpoint)
        last = min(until or job.config.epoch, job.config.epoch)
        drawn = time.monotonic()
        while len(training.records) < last and not log.is_done(job.config):
            training.run_epoch(progress)
            if context.is_main:
                save_epoch(training, outputs, log, record)
                if time.monotonic() - drawn > _DRAWN_AGAIN:
                    plot_training(outputs.plot, job.name, log, training.classes)
                    drawn = time.monotonic()
                _call_hooks(training, outputs)
            progress.epoch(training.records, log.best.epoch)
            context.barrier()
        if context.is_main:
            plot_training(outputs.plot, job.name, log, training.classes)
            if job.save and last == job.config.epoch:
                outputs.resume.unlink(missing_ok=True)
    return log


def save_epoch(training: Training, outputs: Outputs, log: TrainingLog, record: TrainingRecord) -> None:
    """Write checkpoint, log and resume state after an epoch, each whole or not at all.

    The checkpoint comes first: where a disk is full, an earlier one keeps its log.
    """
    if training.job.save and log.kept is log.epochs[-1]:
        save_checkpoint(outputs.checkpoint, training.checkpoint())
    write_record(outputs.log, record)
    write_log(outputs.log, log.epochs)
    if training.job.save:
        save_resume_state(outputs.resume, training)


def _call_hooks(training: Training, outputs: Outputs) -> None:
    """Hand the epochs to the job's hooks; a hook that fails is told, and loses no training."""
    epochs = [record.document() for record in training.records]
    for name, hook in training.job.on_epoch.items():
        try:
            hook(outputs.log, epochs)
        except Exception as error:  # whatever a user's own function raises
            warn(f"--on-epoch {name} failed after epoch {len(epochs)}, and the training goes on: {error!r}")


@contextmanager
def _resumable(training: Training) -> Iterator[Training]:
    """Say how to go on after an interruption, or after a process that loads images was lost."""
    try:
        yield training
    except KeyboardInterrupt as error:
        is_saved = training.job.save and training.records
        raise KeyboardInterrupt("go on with --resume" if is_saved else "nothing was saved yet") from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise MatsegError(
            f"a process that loads training images has ended ({str(error).rstrip('. ')}), as happens where memory, or "
            f"shared memory (/dev/shm), does not suffice; lower `workers` of {training.job.name} in config.toml (now "
            f"{training.job.config.workers}), and go on with --resume if an epoch was finished"
        ) from error


def start_record(training: Training) -> TrainingRecord:
    """Everything that is known before the first epoch, for the page about the training."""
    job = training.job
    return TrainingRecord(
        name=job.name,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        config=job.config.model_dump(mode="json"),
        facts=_facts(training),
        classes=training.classes,
        input=training.input,
        train=SplitFacts.of(training.train_statistics),
        validate=SplitFacts.of(training.validation_statistics) if len(training.validation_images) else None,
        fingerprint=training.fingerprint,
        seed=job.seed,
        packages=package_versions(),
    )


def _facts(training: Training) -> dict[str, str]:
    """Network, data and machine, for a person, before the first epoch."""
    job, found = training.job, training.input
    compute, config = job.compute, job.config
    is_validated = len(training.validation_images) > 0
    splits = [training.train_statistics, training.validation_statistics][: 1 + is_validated]
    shares = [split.labelled_share for split in splits]
    no_data, bars = sum(split.no_data for split in splits), [bar for split in splits for bar in split.bars]
    apart = ", no data apart" if no_data else ""
    validate = f", {shares[-1]:.2%} of those to validate" if is_validated else ""
    labels = f"{shares[0]:.2%} of the pixels to train{validate}{apart}"
    facts = {
        "network": f"{config.model}, {count_parameters(training.step.network) / 1e6:.2f} M parameters",
        "images": f"{len(training.train_images)} to train, {len(training.validation_images)} to validate, "
        f"{described(found)}, {found.dtype}",
        **({"labels": labels} if min(shares) < 1 else {}),
        **({"shares": _SHARES} if training.estimates_shares else {}),
        "device": f"{compute.device} ({compute.device_reason}), {training.context.size} process(es)",
        "precision": f"{compute.precision} ({compute.precision_reason})",
        "seed": str(job.seed),
        "start": training.start,
    }
    decoded = [*training.train_images.decoded_sizes, *training.validation_images.decoded_sizes]
    if decoded:
        why = "for all workers" if config.workers else "as the memory that is free does not hold them"
        facts["decoded"] = (
            f"{len(decoded)} images lie decoded in {training.decoded} ({sum(decoded) / 1e6:.0f} MB), {why}; TMPDIR "
            "names another disk"
        )
    folders = {sample.image.parent.parent.name for sample in training.train_images.samples}
    if job.version == AUTO_VERSION and "validate" in folders:
        facts["plan"] = (
            "made before there was a validate/, whose images train now, as `validation_images` names those that "
            f"measure; `matseg-prep config {shlex.quote(job.dataset.name)} --overwrite` makes it anew"
        )
    if job.version == AUTO_VERSION and training.context.size == 1:
        device = "GPU" if compute.device.type == "cuda" else "CPU"
        facts["time"] = time_words(expected_seconds(training), device)
    if no_data:
        pixels = sum(height * width for split in splits for height, width in split.shapes)
        facts["no data"] = f"{no_data / pixels:.2%} of the pixels; their labels do not count"
    if not is_validated:
        facts["validation"] = "none: nothing measures what the network does on images that it has not learned"
    facts |= _unlearned(training)
    if bars:
        name, rows = bars[0]
        facts["warning"] = (
            f"{len(bars)} images seem to end in a data bar, such as the lowest {rows} rows of {name}, which is learned "
            f"as if it were sample; leave it out with `crop_bottom = {rows}` in config.toml"
        )
    return facts


def _unlearned(training: Training) -> dict[str, str]:
    """A word on classes without a pixel in the training images."""
    counts = training.train_statistics.class_counts, training.validation_statistics.class_counts
    names = [item.name for item in training.classes]
    absent = [name for name, count in zip(names, counts[0].tolist(), strict=True) if not count]
    if not absent:
        return {}
    alone = [name for name, count in zip(names, counts[1].tolist(), strict=True) if count and name in absent]
    where = f"; {shorten(alone)} occurs in the validation images alone" if alone else ""
    return {"not learned": f"{shorten(absent)}, of which the training images have no pixel{where}"}
