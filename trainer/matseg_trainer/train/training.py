"""One training: data, network and optimiser, and an epoch of steps and validation."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from matseg_runtime.source.transform import NoDataOptions
from matseg_shared.contract.metadata import InitInfo, InputInfo, PretrainedInfo, TrainingInfo
from matseg_shared.errors import DatasetError, MatsegError, UsageError
from matseg_shared.images.read import PixelArray
from matseg_shared.images.tiff import channel_names
from matseg_shared.system import interruption
from matseg_trainer.config.load import AUTO_VERSION
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.dataset import BatchLoader, EpochSampler, Step, TrainingBatches
from matseg_trainer.data.examples import Example, Examples, context_of_set
from matseg_trainer.data.folder import Dataset
from matseg_trainer.data.pixel_size import common_pixel_size
from matseg_trainer.data.statistics import SplitStatistics, representative_crop, require_one_kind
from matseg_trainer.networks.base import normalise
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import Checkpoint, package_versions
from matseg_trainer.predict.exported import refit_norms
from matseg_trainer.predict.tiled import TorchPredictor
from matseg_trainer.train.class_shares import logit_shift
from matseg_trainer.train.console import Progress
from matseg_trainer.train.device import ComputeChoice
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.encoders import find_encoder, has_fresh_norms, load_encoder
from matseg_trainer.train.hooks import EpochHook
from matseg_trainer.train.log import EpochRecord
from matseg_trainer.train.losses import weighted_cross_entropy
from matseg_trainer.train.pretrained import PretrainedWeights
from matseg_trainer.train.schedule import LearningRate
from matseg_trainer.train.step import RunningScore, TrainStep
from matseg_trainer.workspace import Workspace

_SHARE_IMAGES = 16
"""Training images, evenly spread, in which class shares are estimated where labels are strokes."""
_WHOLE = 0.5
"""Labelled share of the validation images from which they tell how frequent classes are."""
_NORM_CROPS = 16
"""Training crops of which batch norms get their statistics, after weights of an exported model."""
_FETCH_SECONDS = 1.0
"""The loss that is shown while an epoch lasts is at least this new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """The options of `matseg-train`."""

    workspace: Workspace
    dataset: Dataset
    version: str
    config: VersionConfig
    compute: ComputeChoice
    seed: int
    weights: PretrainedWeights | None = None
    """Start from these instead of random ones."""
    save: bool = True
    resume: bool = False
    overwrite: bool = False
    on_epoch: Mapping[str, EpochHook] = field(default_factory=dict)
    """Functions that are called after each epoch, by the names that were asked for."""

    @property
    def name(self) -> str:
        """`<dataset>_<version>`."""
        return f"{self.dataset.name}_{self.version}"


class DivergedError(UsageError):
    """A loss is no number any more."""


class Training:
    """The state of one training and what changes it."""

    def __init__(self, job: TrainingJob, context: DistributedContext, decoded: Path) -> None:
        """Read the data; images that are too many for the memory are decoded into the folder `decoded`."""
        self.job, self.context, self.decoded = job, context, decoded
        self.records: list[EpochRecord] = []
        self.classes = job.dataset.classes
        config = job.config
        starts_from_encoder = config.encoder is not None and job.weights is None and not job.resume
        if starts_from_encoder:
            find_encoder(config, job.workspace.root)  # before minutes of reading images
        self._read_data()
        torch.manual_seed(job.seed)
        network = build_network(
            config.model,
            in_channels=self.input.channels,
            n_class=config.n_class,
            **config.architecture,
        )
        self.shift = np.zeros((config.n_class, 1, 1), np.float32)
        """(K, 1, 1) that validation and the kept network add to the logits."""
        self.init: InitInfo | None = None
        self.pretrained: PretrainedInfo | None = None
        self.start = "random weights"
        if job.weights is not None:
            self.init, self.pretrained = job.weights.info, job.weights.checkpoint.training.pretrained
            self.start = job.weights.copy_into(network, config.model, self.classes)
        elif starts_from_encoder:  # of a resumed training the state has all weights
            self.pretrained = load_encoder(network, config, job.workspace.root)
            self.start = f"encoder of {self.pretrained}"
        batches = TrainingBatches(
            self.train_images,
            config,
            seed=job.seed,
            stride=network.stride,
            pixels_per_image=config.pixels_per_image if network.samples_pixels else 0,
            positions=self.train_statistics.positions,
        )
        if job.weights is not None and job.weights.is_exported:
            refit_norms(network, self._first_crops(batches))
        elif self.pretrained is not None and has_fresh_norms(network.encoder):
            refit_norms(network, self._first_crops(batches), network.encoder)
        class_weights = self._class_weights()
        self.step = TrainStep(network, config, self.input, job.compute, context, class_weights)
        sampler = EpochSampler(config, len(self.train_images), rank=context.rank, processes=context.size)
        self.batches = BatchLoader(
            batches, sampler, workers=config.workers, pin_memory=job.compute.device.type == "cuda"
        )
        self.steps = len(sampler)
        self.rate = LearningRate(self.step.optimizer, config, self.steps)
        self._predictor = TorchPredictor.of(self.step.kept, self.input, job.compute.device)

    def _read_data(self) -> None:
        """Look at every image and label once, and refuse what cannot be trained on."""
        job, config = self.job, self.job.config
        if len(self.classes) != config.n_class:
            remedy = f"change config.toml, or run matseg-prep labels --classes {config.n_class} again"
            if job.version == AUTO_VERSION:
                remedy = f"`matseg-prep config {shlex.quote(job.dataset.name)} --overwrite` makes it anew"
            raise DatasetError(
                f"{job.dataset.root}: its label arrays have {len(self.classes)} classes, the version's n_class is "
                f"{config.n_class}; {remedy}"
            )
        samples = {split: job.dataset.samples(split) for split in job.dataset.learned_splits}
        context = context_of_set(samples["train"], config)
        self.train_images, self.validation_images = (
            Examples(
                samples.get(split, ()),
                n_class=config.n_class,
                channels=config.channel_count,
                choice=config.channel_choice,
                context=context,
                no_data=NoDataOptions(no_data=config.no_data or (), crop_bottom=config.crop_bottom),
                decoded=self.decoded / split,
                in_memory=split != "train" or config.workers == 0,
            )
            for split in ("train", "validate")
        )
        self.train_statistics = SplitStatistics(self.train_images, config.n_class)
        self.validation_statistics = SplitStatistics(self.validation_images, config.n_class)
        require_one_kind(self.train_statistics, self.validation_statistics, job.dataset.root)
        for statistics in (self.train_statistics, self.validation_statistics):
            statistics.require_size(config.size)
        if config.size is None:
            self.train_statistics.require_batches(config)
        found = self.train_statistics.input_info()
        names = channel_names(samples["train"][0].image, found.channels, config.channel_choice)
        self.input: InputInfo = found.model_copy(
            update={
                "picked": config.channel_choice,
                "channel_names": names,
                "crop_bottom": config.crop_bottom or 0,
            }
        )
        for images in (self.train_images, self.validation_images):
            images.fill(self.input.mean)
        self.pixel_size = common_pixel_size([sample.image for sample in samples["train"]])
        self.fingerprint = job.dataset.fingerprint(job.dataset.learned_splits)

    def _first_crops(self, batches: TrainingBatches) -> Iterator[torch.Tensor]:
        """Some of the first epoch's crops, (1, C, H, W) normalised, the same in all processes."""
        crops = len(self.train_images) * self.job.config.crops_per_image
        for position in range(min(_NORM_CROPS, crops)):
            batch = batches[Step(1, [position])]
            if isinstance(batch, MatsegError):
                raise batch
            yield normalise(batch.images, self.input.mean, self.input.std)

    def _class_weights(self) -> torch.Tensor | None:
        """Those of the version, or the reciprocal of each class's share, as the user guide balances.

        Of these the mean is 1 over the classes that occur.
        """
        config = self.job.config
        if not config.balance:
            return None if config.class_weights is None else torch.tensor(config.class_weights)
        shares = self.train_statistics.class_shares
        weights = np.divide(1.0, shares, out=np.zeros_like(shares), where=shares > 0)
        return torch.from_numpy((weights / weights[weights > 0].mean()).astype(np.float32))

    def run_epoch(self, progress: Progress) -> None:
        """One pass over the training images, one validation."""
        started = time.monotonic()
        epoch = len(self.records) + 1
        trained = self.train_epoch(epoch, progress)
        rate = self.rate.now
        validated = self.validate(epoch, progress) if len(self.validation_images) else None
        self._require_finite(epoch, trained, validated)
        self.rate.after_epoch((validated or trained).loss)
        self.records.append(
            EpochRecord(
                epoch=epoch,
                lr=rate,
                train=trained.summary(),
                validate=None if validated is None else validated.summary(),
                seconds=time.monotonic() - started,
            )
        )

    def train_epoch(self, epoch: int, progress: Progress) -> RunningScore:
        """One pass over the training images."""
        seeds = np.random.SeedSequence((self.job.seed, epoch, self.context.rank))
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))  # 63 bits
        self.step.train()
        score = RunningScore(n_class=self.job.config.n_class, device=self.job.compute.device)
        fetched = -math.inf
        for number, batch in enumerate(self.batches.epoch(epoch), start=1):
            self.rate.before_step((epoch - 1) * self.steps + number - 1)
            self.step.step(batch, score, number=number - 1, batches=self.steps)
            interruption.check()
            if time.monotonic() > fetched + _FETCH_SECONDS:  # which waits for a GPU
                score.fetch()
                fetched = time.monotonic()
            progress.step(epoch, number, self.steps, score.loss, self.batches.waiting)
        return score.gathered(self.context)

    @property
    def estimates_shares(self) -> bool:
        """True where training labels do not tell how frequent the classes are, and those to validate with do.

        Not where the loss weights the classes.
        """
        config = self.job.config
        is_weighted = config.balance or config.class_weights is not None
        if is_weighted or self.train_statistics.labelled_share == 1 or not len(self.validation_images):
            return False
        return self.validation_statistics.labelled_share >= _WHOLE

    def _logit_shift(self) -> NDArray[np.float32]:
        """(K, 1, 1) to be added to the logits; see `class_shares`."""
        statistics = self.train_statistics
        count = min(_SHARE_IMAGES, len(self.train_images))
        chosen = np.linspace(0, len(self.train_images) - 1, count).round().astype(int).tolist()
        pixels = sum(math.prod(statistics.shapes[index]) for index in chosen)
        examples = (self.train_images[index] for index in chosen)
        predictions = (
            (logits, example.part(place))
            for example in examples
            for place, logits in self._predictor.tiles(example.pixels)
        )
        return logit_shift(predictions, statistics.class_shares, pixels)[:, np.newaxis, np.newaxis]

    def validate(self, epoch: int, progress: Progress) -> RunningScore:
        """Segment whole validation images in fp32; with the shift that they are better with, where there is one."""
        self.step.kept.eval()
        self.context.share_statistics(self.step.kept)
        shifts = [np.zeros((self.job.config.n_class, 1, 1), np.float32)]
        if self.estimates_shares:
            shifts.append(self._logit_shift())
        scores = [RunningScore(n_class=self.job.config.n_class) for _ in shifts]
        weights = None if self.step.weights is None else self.step.weights.cpu()
        mine = self.context.share(list(range(len(self.validation_images))))
        for count, index in enumerate(mine, start=1):
            image: Example = self.validation_images[index]
            for place, part in self._predictor.tiles(image.pixels):
                labels = torch.from_numpy(image.labels[place].astype(np.int64)).unsqueeze(0)
                for shift, score in zip(shifts, scores, strict=True):
                    logits = torch.from_numpy(np.ascontiguousarray(part) + shift).unsqueeze(0)
                    score.add(logits, labels, *weighted_cross_entropy(logits, labels, weights))
                interruption.check()
            progress.validation(epoch, count, len(mine))
        together = [score.gathered(self.context) for score in scores]
        best = min(range(len(shifts)), key=lambda number: together[number].loss)
        self.shift = shifts[best]
        return together[best]

    def _require_finite(self, epoch: int, trained: RunningScore, validated: RunningScore | None) -> None:
        """Stop before weights that are no numbers are kept: the last step of an epoch shows in the validation only."""
        if validated is not None and not validated.weight_sum:
            raise DatasetError(
                f"{self.job.dataset.root / 'validate'}: expected some pixels of the classes that the training images "
                "have, found none, and `balance` gives classes without training pixels no weight; label such images, "
                "or leave out `balance`"
            )
        for what, score in (("training", trained), ("validation", validated)):
            if score is not None and not math.isfinite(score.loss):
                raise DivergedError(
                    f"training diverged in epoch {epoch}: the {what} loss is {score.loss}; lower `lr` of "
                    f"{self.job.name} in config.toml (now {self.job.config.lr:g})"
                )

    def checkpoint(self) -> Checkpoint:
        """The network as it is now, after its last epoch."""
        job, now = self.job, self.records[-1]
        weights = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in self.step.kept.state_dict().items()
        }
        bias = weights[self.step.network.classifier_bias()]
        bias += torch.from_numpy(self.shift).flatten().repeat_interleave(len(bias) // len(self.shift))
        return Checkpoint(
            weights=weights,
            training=TrainingInfo(
                dataset=job.dataset.name,
                version=job.version,
                network=job.config.model,
                config=job.config.model_dump(mode="json"),
                epoch=now.epoch,
                metrics={} if now.validate_ is None else now.validate_.model_dump(),
                fingerprint=self.fingerprint,
                seed=job.seed,
                packages=package_versions(),
                init=self.init,
                pretrained=self.pretrained,
            ),
            classes=self.classes,
            pixel_size=self.pixel_size,
            input=self.input,
            sample=self._representative_crop,
        )

    @cached_property
    def _representative_crop(self) -> PixelArray:
        return representative_crop(self.train_images, self.train_statistics.shapes, self.step.network.stride)
