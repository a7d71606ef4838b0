"""The training images as batches, for a torch `DataLoader`.

Every random choice comes from a generator seeded with (seed, epoch, position), so that an epoch is the same after
an interruption, on one process or on several, whatever number of workers loads it.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from matseg_shared.contract.tiling import padded_length
from matseg_shared.errors import MatsegError
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.augment import Augmentation, augment
from matseg_trainer.data.class_positions import ClassPositions
from matseg_trainer.data.examples import IGNORED, Example, Examples


class Batch(NamedTuple):
    """The images that one optimiser step of one process sees."""

    images: Tensor
    """(N, C, H, W) in the data's own dtype; float32 where some of them were interpolated."""
    labels: Tensor
    """(N, H, W) int64, `IGNORED` where padded or unlabelled."""
    pixels: Tensor
    """(N, P) int64 flat indices of sampled pixels, none of them without a label where there are labels."""


class Step(NamedTuple):
    """The positions in an epoch that one optimiser step of one process shows."""

    epoch: int
    positions: Sequence[int]
    is_counted: bool = True
    """False for a process that has no position of its own: it takes part with another's images without their labels."""


class EpochSampler(Sampler[Step]):
    """The steps of an epoch, of one process or of its share of several."""

    def __init__(self, config: VersionConfig, n_images: int, *, rank: int = 0, processes: int = 1) -> None:
        self.epoch = 1
        """The next one that is iterated over."""
        crops = config.steps and config.steps * config.batch_size
        self._positions = range(crops or n_images * config.crops_per_image)
        self._batch_size, self._rank, self._processes = config.batch_size, rank, processes

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / self._batch_size)

    def __iter__(self) -> Iterator[Step]:
        for start in range(0, len(self._positions), self._batch_size):
            everybody = self._positions[start : start + self._batch_size]
            mine = everybody[self._rank :: self._processes]
            yield Step(self.epoch, mine or everybody[:1], bool(mine))


class TrainingBatches(Dataset[Batch | MatsegError]):
    """Batches of augmented crops of the training images, padded to multiples of the network's stride."""

    def __init__(
        self,
        examples: Examples,
        config: VersionConfig,
        *,
        seed: int,
        stride: int,
        pixels_per_image: int = 0,
        positions: Sequence[ClassPositions] = (),
    ) -> None:
        """With the positions of the labels of each image where they are known."""
        self._examples, self._config, self._seed = examples, config, seed
        self._stride, self._pixels_per_image = stride, pixels_per_image
        self._options = Augmentation(
            crop=config.crop,
            turn=config.aug is not False,
            warp=config.aug is True,
            elastic=config.elastic,
            intensity=config.intensity,
            blur=config.blur,
            noise=config.noise,
            oversample_classes=config.oversample_classes,
        )
        self._positions = dict(enumerate(positions))

    def __getitem__(self, step: Step) -> Batch | MatsegError:
        """Cut, augment and pad the images of a step; an error is handed over whole from a worker's process."""
        try:
            drawn = [self._draw(step.epoch, position) for position in step.positions]
        except MatsegError as error:
            return error
        examples = [example for example, _ in drawn]
        labels = torch.from_numpy(np.stack([example.labels for example in examples]).astype(np.int64))
        return Batch(
            # float32 where only some were interpolated
            images=torch.from_numpy(np.stack([example.pixels for example in examples])),
            labels=labels if step.is_counted else torch.full_like(labels, IGNORED),
            pixels=torch.from_numpy(np.stack([pixels for _, pixels in drawn])),
        )

    def image_of(self, epoch: int, position: int) -> int:
        """The image at a position: natural order, or a new random order each pass with `shuffle`.

        With `steps`, which may be fewer than show all images, passes go on from epoch to epoch.
        """
        steps = self._config.steps
        if steps is not None:
            epoch, position = 0, position + (epoch - 1) * steps * self._config.batch_size
        visit, index = divmod(position, len(self._examples))
        if not self._config.shuffle:
            return index
        order = np.random.default_rng([self._seed, epoch, visit]).permutation(len(self._examples))
        return int(order[index])

    def _draw(self, epoch: int, position: int) -> tuple[Example, NDArray[np.int64]]:
        """One crop and the flat indices of its sampled pixels."""
        rng = np.random.default_rng([self._seed, epoch, position, 1])
        index = self.image_of(epoch, position)
        example: Example = self._examples[index]
        if index not in self._positions:
            self._positions[index] = ClassPositions(example.labels)
        cut = self._pad(augment(example, rng, self._options, self._positions[index]))
        return cut, _sample_pixels(cut.labels, self._pixels_per_image, rng)

    def _pad(self, example: Example) -> Example:
        """Reflect to multiples of the stride, and up to the crop where the image is smaller; padding is not learned."""
        shape, least = example.labels.shape, self._config.crop or 0
        height, width = (padded_length(max(length, least), self._stride) for length in shape)
        corner = ((0, height - shape[0]), (0, width - shape[1]))
        if shape == (height, width):
            return example
        return Example(
            pixels=np.pad(example.pixels, ((0, 0), *corner), mode="reflect"),
            labels=np.pad(example.labels, corner, constant_values=IGNORED),
        )


def _sample_pixels(labels: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    known = np.flatnonzero(labels != IGNORED) if count else np.empty(0, np.int64)
    if not len(known):
        return rng.integers(0, labels.size, size=count)
    return rng.choice(known, size=count, replace=len(known) < count).astype(np.int64)


class BatchLoader:
    """Batches of one epoch after the other, and the share of the time that goes by in waiting for them.

    `workers` spawned processes load ahead; with 0 of them this one loads each batch when it is needed.
    """

    def __init__(
        self, batches: TrainingBatches, sampler: EpochSampler, *, workers: int, pin_memory: bool
    ) -> None:
        self._sampler = sampler
        self._loader = DataLoader(
            batches,
            sampler=sampler,
            batch_size=None,  # each item is a batch already
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # or it would draw from the one that dropout draws from
        )
        self.waiting = 0.0
        """From 0, when every batch was there before it was needed, to 1."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch.

        Raises:
            MatsegError: an image cannot be read any more.
            RuntimeError: a worker has died; it is told here, whenever that was.
        """
        self._sampler.epoch = epoch
        begun, waited = time.perf_counter(), 0.0
        with _told_of_dead_workers():
            batches = iter(self._loader)
        for _ in range(len(self._sampler)):
            asked = time.perf_counter()
            with _told_of_dead_workers():
                batch = next(batches)
            now = time.perf_counter()
            waited += now - asked
            self.waiting = waited / max(now - begun, 1e-9)
            if isinstance(batch, MatsegError):
                raise batch
            yield batch


@contextmanager
def _told_of_dead_workers() -> Iterator[None]:
    """Raise RuntimeError for a worker that dies in the block, or has died before it, and for none outside.

    The `DataLoader` would raise it from its handler of SIGCHLD wherever the main thread happens to be: halfway through
    a checkpoint, or in a destructor, where it is printed and lost.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield  # there it has no such handler, and looks for them now and then while it waits
        return
    outside = signal.signal(signal.SIGCHLD, lambda _number, _frame: torch._C._error_if_any_worker_fails())
    try:
        torch._C._error_if_any_worker_fails()
        yield
    finally:
        signal.signal(signal.SIGCHLD, outside or signal.SIG_DFL)  # None: a library's own in C
