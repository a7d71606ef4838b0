"""Train one version: epochs of steps, a validation after each, the best or the last epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from matseg_shared.contract.metadata import InitInfo, InputInfo, TrainingInfo
from matseg_shared.errors import DatasetError, ModelError, UsageError
from matseg_shared.system import interruption
from matseg_shared.system.locks import FileLock
from matseg_trainer.config.versions import VersionConfig, config_differences
from matseg_trainer.data.dataset import (
    Batch,
    EpochSampler,
    LabelledImage,
    LabelledImages,
    TimedIterator,
    check_sizes,
    class_shares,
    detect_channels,
    input_statistics,
    load_batch,
    prefetched,
    representative_crop,
)
from matseg_trainer.data.folder import Dataset
from matseg_trainer.data.pixel_size import common_pixel_size
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import (
    Checkpoint,
    load_tensors,
    package_versions,
    save_checkpoint,
    save_tensors,
)
from matseg_trainer.predict.tiled import TorchPredictor
from matseg_trainer.train.device import ComputeChoice
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.log import EpochRecord, TrainingLog, write_log
from matseg_trainer.train.losses import weighted_cross_entropy
from matseg_trainer.train.pretrained import InitialWeights, origin_changes
from matseg_trainer.train.record import write_record
from matseg_trainer.train.schedule import LearningRate
from matseg_trainer.train.start import record_of
from matseg_trainer.train.step import RunningScore, TrainStep
from matseg_trainer.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where a training of one version leaves its results."""

    checkpoint: Path
    resume: Path
    """The state after the last finished epoch; removed when the training is complete."""
    log: Path
    plot: Path
    lock: Path
    """Held while a process trains this version."""

    @classmethod
    def of(cls, workspace: Workspace, name: str) -> Outputs:
        """The guide's folders, in a workspace."""
        return cls(
            checkpoint=workspace.saved / f"{name}.pth",
            resume=workspace.saved / f"{name}.resume.pth",
            log=workspace.log / f"{name}.jsonl",
            plot=workspace.plots / f"{name}.png",
            lock=workspace.log / f".{name}.lock",
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process trains this version, with its results going to the same files.

        Raises:
            UsageError: one does.
            OutputError: the lock cannot be written.
        """
        lock = FileLock(self.lock)
        if not lock.acquire():
            raise UsageError(
                f"{self.log}: another matseg-train works on this version at this moment; wait for it, or train under "
                "another name of config.toml"
            )
        try:
            yield
        finally:
            lock.release()

    def prepare(self, *, resume: bool, overwrite: bool, save: bool) -> None:
        """Refuse to lose an earlier result.

        Raises:
            UsageError: there is one and neither `resume` nor `overwrite` was given, or there is nothing to resume.
        """
        if resume and not self.resume.exists():
            finished = f"; {self.checkpoint} is complete" if self.checkpoint.exists() else ""
            raise UsageError(f"{self.resume}: there is no interrupted training to resume{finished}")
        if resume:
            return
        wanted = (self.checkpoint, self.resume, self.log) if save else (self.log,)
        existing = [path for path in wanted if path.exists()]
        if existing and not overwrite:
            hint = "--resume to go on with it, or --overwrite" if self.resume.exists() else "--overwrite"
            raise UsageError(
                f"{existing[0]}: an earlier result of this version exists; give {hint} to replace it"
            )
        for path in existing:
            path.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What `matseg-train` was asked for."""

    workspace: Workspace
    dataset: Dataset
    version: str
    config: VersionConfig
    compute: ComputeChoice
    seed: int
    init: InitialWeights | None = None
    """Start from these instead of random weights."""
    save: bool = True
    resume: bool = False
    overwrite: bool = False

    @property
    def name(self) -> str:
        """`<dataset>_<version>`."""
        return f"{self.dataset.name}_{self.version}"


class Progress:
    """What a training tells whoever watches; this one tells nobody."""

    def start(self, job: TrainingJob, facts: dict[str, str]) -> None:
        """Before the first epoch."""

    def step(self, epoch: int, step: int, steps: int, loss: float, waiting: float) -> None:
        """After each optimiser step; `waiting` is the share of the epoch's time that went by until images came."""

    def validation(self, epoch: int, image: int, images: int) -> None:
        """After each validation image."""

    def epoch(self, records: Sequence[EpochRecord], best: int) -> None:
        """After each epoch; `best` is the best epoch so far."""


@dataclass(slots=True, kw_only=True, eq=False)
class _State:
    """What changes from epoch to epoch besides weights."""

    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_iou: float = -1.0


def train(job: TrainingJob, world: DistributedContext, progress: Progress) -> list[EpochRecord]:
    """Train a version to its last epoch.

    Returns:
        One record per epoch.

    Raises:
        UsageError: the data, the configuration, earlier results or another process stand in the way.
    """
    outputs = Outputs.of(job.workspace, job.name)
    training = Training(job, world, outputs)
    with outputs.alone() if world.is_main else nullcontext():
        _run(training, progress)
    return training.state.records


def _run(training: Training, progress: Progress) -> None:
    job, world, outputs = training.job, training.world, training.outputs
    if world.is_main:
        outputs.prepare(resume=job.resume, overwrite=job.overwrite, save=job.save)
    world.barrier()
    if job.resume:
        training.restore()
    if world.is_main:
        facts = training.facts()
        write_record(outputs.log, record_of(training, facts))
        progress.start(job, facts)
    for epoch in range(len(training.state.records) + 1, job.config.epoch + 1):
        training.run_epoch(epoch, progress)
    if world.is_main and job.save:
        outputs.resume.unlink(missing_ok=True)


class Training:
    """The state of one training and the steps that change it."""

    def __init__(self, job: TrainingJob, world: DistributedContext, outputs: Outputs) -> None:
        self.job, self.world, self.outputs = job, world, outputs
        self.state = _State()
        self.classes = job.dataset.classes
        config = job.config
        if len(self.classes) != config.n_class:
            raise DatasetError(
                f"{job.dataset.root}: its label arrays have {len(self.classes)} classes, the version's n_class is "
                f"{config.n_class}; change config.toml, or run matseg-prep labels --classes {config.n_class} again"
            )
        samples = {split: job.dataset.samples(split) for split in ("train", "validate")}
        channels = detect_channels([*samples["train"], *samples["validate"]])
        self.train_images, self.validation_images = (
            LabelledImages(samples[split], channels=channels, n_class=config.n_class)
            for split in ("train", "validate")
        )
        check_sizes(samples["train"], self.train_images, config)
        self.input: InputInfo = input_statistics(self.train_images)
        self.pixel_size = common_pixel_size([sample.image for sample in samples["train"]])
        self.fingerprint = job.dataset.fingerprint(("train", "validate"))
        torch.manual_seed(job.seed)
        network = build_network(
            config.model, in_channels=channels, n_class=config.n_class, width=config.width
        )
        self.init: InitInfo | None = None
        self.start = "random weights"
        if job.init is not None:
            self.init = job.init.info
            self.start = job.init.copy_into(network, config.model, self.classes)
        weights = self._class_weights() if config.balance else None
        self.stepper = TrainStep(network, config, self.input, job.compute, world, weights)
        self.plan = EpochSampler(
            config=config, seed=job.seed, n_images=len(self.train_images), stride=network.stride
        )
        self.rate = LearningRate(self.stepper.optimizer, config, len(self.plan.steps()))
        self.predictor = TorchPredictor.of(self.stepper.network, self.input, job.compute.device)

    def _class_weights(self) -> torch.Tensor:
        """Reciprocal of each class's share, as the user guide balances; mean 1 over the classes that occur."""
        shares = class_shares(self.train_images, self.job.config.n_class)
        weights = np.divide(1.0, shares, out=np.zeros_like(shares), where=shares > 0)
        return torch.from_numpy((weights / weights[weights > 0].mean()).astype(np.float32))

    def facts(self) -> dict[str, str]:
        """What a person wants to see before the first epoch."""
        from matseg_trainer.networks.base import count_parameters

        compute, config = self.job.compute, self.job.config
        return {
            "network": f"{config.model}, {count_parameters(self.stepper.network) / 1e6:.2f} M parameters",
            "images": f"{len(self.train_images)} to train, {len(self.validation_images)} to validate, "
            f"{self.input.channels} channel(s), {self.input.dtype}",
            "device": f"{compute.device} ({compute.device_reason}), {self.world.size} process(es)",
            "precision": f"{compute.precision} ({compute.precision_reason})",
            "seed": str(self.job.seed),
            "start": self.start,
        }

    def run_epoch(self, epoch: int, progress: Progress) -> None:
        """One pass over the training samples, one validation, results written."""
        started = time.monotonic()
        trained = self._train_epoch(epoch, progress)
        validated = self._validate(epoch, progress)
        self._require_finite(epoch, trained, validated)
        record = EpochRecord(
            epoch=epoch,
            lr=self.rate.now,
            train=trained.summary(),
            validate=validated.summary(),
            seconds=time.monotonic() - started,
        )
        self.rate.after_epoch(validated.loss)
        self.state.records.append(record)
        better = record.validate_.mean_iou > self.state.best_iou
        if better:
            self.state.best_epoch, self.state.best_iou = epoch, record.validate_.mean_iou
        if self.world.is_main:
            self._write(kept=better or self.job.config.checkpoint == "last")
            progress.epoch(self.state.records, self.state.best_epoch)
        self.world.barrier()

    def _require_finite(self, epoch: int, trained: RunningScore, validated: RunningScore) -> None:
        """Stop before weights that are no numbers are kept: the last step of an epoch shows in the validation only."""
        if not validated.weight_sum:
            raise DatasetError(
                f"{self.job.dataset.root / 'validate'}: expected some pixels of the classes that the training images "
                "have, found none, and `balance` gives classes without training pixels no weight; label such images, "
                "or leave out `balance`"
            )
        for what, score in (("training", trained), ("validation", validated)):
            if not math.isfinite(score.loss):
                raise UsageError(
                    f"training diverged in epoch {epoch}: the {what} loss is {score.loss}; lower `lr` of "
                    f"{self.job.name} in config.toml (now {self.job.config.lr:g})"
                )

    def _train_epoch(self, epoch: int, progress: Progress) -> RunningScore:
        torch.manual_seed(hash_seed(self.job.seed, epoch, self.world.rank))
        self.stepper.network.train()
        score = RunningScore(n_class=self.job.config.n_class)
        steps = self.plan.steps()

        def load(step: int) -> Batch:
            mine = self.world.share(steps[step])
            # A process without a sample of its own still has to take part
            batch = load_batch(self.train_images, self.plan, epoch, mine or steps[step][:1])
            return batch if mine else batch.uncounted()

        batches = TimedIterator(prefetched(load, len(steps)))
        for step, batch in enumerate(batches):
            self.rate.before_step((epoch - 1) * len(steps) + step)
            self.stepper.step(batch, score)
            interruption.check()
            if self.world.is_main:
                progress.step(epoch, step + 1, len(steps), score.loss, batches.share)
        return score.gathered(self.world)

    def _validate(self, epoch: int, progress: Progress) -> RunningScore:
        self.stepper.network.eval()
        self.world.share_statistics(self.stepper.network)
        score = RunningScore(n_class=self.job.config.n_class)
        weights = None if self.stepper.weights is None else self.stepper.weights.cpu()
        mine = self.world.share(list(range(len(self.validation_images))))
        for count, index in enumerate(mine, start=1):
            image: LabelledImage = self.validation_images[index]
            logits = torch.from_numpy(self.predictor.logits(image.pixels)).unsqueeze(0)
            labels = torch.from_numpy(image.labels.astype(np.int64)).unsqueeze(0)
            loss, weight = weighted_cross_entropy(logits, labels, weights)
            score.add(logits, labels, float(loss), float(weight))
            if self.world.is_main:
                progress.validation(epoch, count, len(mine))
        return score.gathered(self.world)

    def checkpoint(self) -> Checkpoint:
        """The network as it is now, after its last epoch."""
        job, now = self.job, self.state.records[-1]
        return Checkpoint(
            weights={
                name: tensor.detach().cpu().contiguous().clone()
                for name, tensor in self.stepper.network.state_dict().items()
            },
            training=TrainingInfo(
                dataset=job.dataset.name,
                version=job.version,
                network=job.config.model,
                config=job.config.model_dump(mode="json"),
                epoch=now.epoch,
                metrics=now.validate_.model_dump(),
                fingerprint=self.fingerprint,
                seed=job.seed,
                packages=package_versions(),
                init=self.init,
            ),
            classes=self.classes,
            pixel_size=self.pixel_size,
            input=self.input,
            sample=representative_crop(self.train_images, self.plan.stride),
        )

    def _write(self, *, kept: bool) -> None:
        from matseg_trainer.train.curves import plot_training

        log = TrainingLog(epochs=self.state.records, checkpoint=self.job.config.checkpoint)
        write_log(self.outputs.log, log.epochs)
        if self.job.save:
            if kept:
                save_checkpoint(self.outputs.checkpoint, self.checkpoint())
            save_tensors(self.outputs.resume, self._resume_state())
        plot_training(self.outputs.plot, self.job.name, log, self.classes)

    def _resume_state(self) -> dict[str, Any]:
        return {
            "matseg_resume": 1,
            "config": self.job.config.model_dump(mode="json"),
            "seed": self.job.seed,
            "fingerprint": self.fingerprint,
            "init": None if self.init is None else self.init.model_dump(mode="json"),
            "processes": self.world.size,
            "network": self.stepper.network.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "rate": self.rate.state(),
            "records": [record.document() for record in self.state.records],
            "best_epoch": self.state.best_epoch,
            "best_iou": self.state.best_iou,
        }

    def restore(self) -> None:
        """Go on after the last finished epoch of an interrupted training.

        Raises:
            ModelError: the state is damaged, or hyperparameters, seed or data have changed since.
        """
        path = self.outputs.resume
        state = load_tensors(path)
        if state.get("matseg_resume") != 1:
            raise ModelError(f"{path}: expected the state of an interrupted training, found something else")
        changed = [str(item) for item in config_differences(state["config"], self.job.config)]
        if state["seed"] != self.job.seed:
            changed.append(f"seed: was {state['seed']}, now {self.job.seed}")
        if state["fingerprint"] != self.fingerprint:
            changed.append("data: the training or validation images or labels have changed")
        started = None if state.get("init") is None else InitInfo.model_validate(state["init"])
        changed += origin_changes(started, self.init)
        if state.get("teacher") is not None:
            changed.append(
                f"teacher: was {state['teacher']['name']}, which this version of matseg does not know"
            )
        if state["processes"] != self.world.size:
            changed.append(f"processes: was {state['processes']}, now {self.world.size}")
        if changed:
            raise ModelError(
                f"{path}: the interrupted training cannot go on, since these have changed: {'; '.join(changed)}; "
                "restore them, or start again with --overwrite"
            )
        self.init = started
        if started is not None:
            self.start = started.name
        self.stepper.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.rate.restore(state["rate"])
        self.state.records = [EpochRecord.model_validate(values) for values in state["records"]]
        self.state.best_epoch, self.state.best_iou = state["best_epoch"], state["best_iou"]


def hash_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
