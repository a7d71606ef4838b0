"""Training samples in memory: what the networks see, and the statistics that go into the model.

Every random choice comes from a generator seeded with (seed, epoch, position), so that an epoch is the same after
an interruption, on one process or on several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_shared.contract.tiling import padded_length
from matseg_shared.errors import DatasetError
from matseg_shared.images.read import PixelArray, is_grey, read_image, to_channels
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.augment import IGNORED, View, ViewOptions, random_view
from matseg_trainer.data.folder import Sample, load_array

CACHE_BYTES = 4 << 30
"""Decoded images are kept in memory up to this much; beyond it each is read again when needed."""
HISTOGRAM_BINS = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImage:
    """One decoded sample."""

    stem: str
    pixels: PixelArray
    """(C, H, W) in the data's own dtype."""
    labels: NDArray[np.uint8]
    """(H, W) class indices, `IGNORED` everywhere when nobody has labelled it."""

    def view(self) -> View:
        """The whole of it."""
        return View(pixels=self.pixels, labels=self.labels)


class LabelledImages(Sequence[LabelledImage]):
    """The samples of one split, decoded on demand and kept while memory allows."""

    def __init__(self, samples: Sequence[Sample], *, channels: Literal[1, 3], n_class: int) -> None:
        self._samples = tuple(samples)
        self._channels = channels
        self._n_class = n_class
        self._cache: dict[int, LabelledImage] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if index in self._cache:
            return self._cache[index]
        sample = self._samples[index]
        pixels = to_channels(read_image(sample.image), self._channels, sample.image)
        labels = load_array(sample.array, self._n_class)
        if pixels.shape[1:] != labels.shape:
            raise DatasetError(
                f"{sample.array}: expected labels of {pixels.shape[1]} x {pixels.shape[2]} pixels as in "
                f"{sample.image.name}, found {labels.shape[0]} x {labels.shape[1]}; run matseg-prep labels again"
            )
        image = LabelledImage(stem=sample.stem, pixels=pixels, labels=labels)
        size = pixels.nbytes + labels.nbytes
        if self._cached_bytes + size <= CACHE_BYTES:
            self._cache[index] = image
            self._cached_bytes += size
        return image


def detect_channels(samples: Sequence[Sample]) -> Literal[1, 3]:
    """1 when every image is grey (stored so, or with three equal channels), 3 when every image is colour.

    Raises:
        DatasetError: some are grey, some colour, or the dtypes differ; names one of each.
    """
    kinds: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        pixels = read_image(sample.image)
        kinds.setdefault(("grey" if is_grey(pixels) else "colour", pixels.dtype.name), sample)
    if len(kinds) != 1:
        examples = ", ".join(
            f"{sample.image.name}: {kind} {dtype}" for (kind, dtype), sample in kinds.items()
        )
        raise DatasetError(
            f"{samples[0].image.parent}: expected images of one kind, found several ({examples}); "
            "convert them to the same colour mode and dtype"
        )
    return 1 if next(iter(kinds))[0] == "grey" else 3


def check_sizes(samples: Sequence[Sample], images: LabelledImages, config: VersionConfig) -> None:
    """Refuse images whose size is not the version's `size`, or that cannot be batched.

    Raises:
        DatasetError: naming the images.
    """
    shapes = [images[index].labels.shape for index in range(len(images))]
    expected = config.size
    if expected is not None:
        wrong = [
            f"{s.image.name} ({h} x {w})"
            for s, (h, w) in zip(samples, shapes, strict=True)
            if (h, w) != expected
        ]
        if wrong:
            raise DatasetError(
                f"{samples[0].image.parent}: expected images of {expected[0]} x {expected[1]} pixels (`size` of this "
                f"version), found {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}; change `size` in "
                "config.toml, or leave it out to accept any"
            )
    elif config.crop is None and len(set(shapes)) > 1 and config.batch_size > 1:
        raise DatasetError(
            f"{samples[0].image.parent}: the images differ in size, so whole images cannot form a batch; set `crop` "
            "or `batch_size = 1` for this version in config.toml"
        )


def input_statistics(images: Sequence[LabelledImage]) -> InputInfo:
    """Mean, standard deviation and histogram of a training set, in the data's own units.

    One fixed normalisation for every image: with statistics per image a tile would differ from the whole.
    """
    first: PixelArray = images[0].pixels
    channels = first.shape[0]
    lowest, highest = np.full(channels, np.inf), np.full(channels, -np.inf)
    for image in images:
        values = image.pixels.reshape(channels, -1)
        lowest, highest = np.minimum(lowest, values.min(axis=1)), np.maximum(highest, values.max(axis=1))
    low, high = float(lowest.min()), float(highest.max())
    edges = (low, high) if high > low else (low, low + 1.0)
    total = np.zeros(channels)
    counts = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    pixels = 0
    for image in images:
        values = image.pixels.reshape(channels, -1).astype(np.float64)
        total += values.sum(axis=1)
        counts += np.histogram(values, bins=HISTOGRAM_BINS, range=edges)[0]
        pixels += values.shape[1]
    mean = total / pixels
    squares = np.zeros(channels)
    for image in images:
        squares += np.square(image.pixels.reshape(channels, -1) - mean[:, np.newaxis]).sum(axis=1)
    # what a constant channel differs from its mean is a rounding, and nothing to divide by
    std = np.where(highest > lowest, np.sqrt(squares / pixels), 1.0)
    return InputInfo(
        channels=1 if channels == 1 else 3,
        dtype=first.dtype.name,  # type: ignore[arg-type]  # read_image lets no other dtype pass
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        histogram=Histogram(low=edges[0], high=edges[1], counts=tuple(counts.tolist())),
    )


def class_shares(images: Sequence[LabelledImage], n_class: int) -> NDArray[np.float64]:
    """(K,) share of each class among all labelled pixels of a split."""
    counts = np.sum([np.bincount(image.labels.ravel(), minlength=n_class) for image in images], axis=0)
    shares: NDArray[np.float64] = counts / np.sum(counts)
    return shares


def representative_crop(
    images: LabelledImages, stride: int, *, edge: int = 128, tries: int = 64
) -> PixelArray:
    """A small real input in which the classes are as evenly present as in any of `tries` random crops.

    Returns:
        (1, C, h, w) in the data's own dtype; h and w are multiples of `stride`, about `edge`.
    """
    rng = np.random.default_rng(0)
    length = padded_length(edge, stride)
    best: tuple[float, PixelArray] | None = None
    for _ in range(tries):
        image: LabelledImage = images[int(rng.integers(len(images)))]
        view = random_view(image.view(), rng, ViewOptions(crop=length))
        pixels, labels = view.pixels, view.labels
        shares = np.bincount(labels.ravel()) / labels.size
        entropy = -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
        if best is None or entropy > best[0]:
            best = (entropy, pixels)
    assert best is not None
    below, right = (padded_length(size, stride) - size for size in best[1].shape[1:])
    return np.pad(best[1], ((0, 0), (0, below), (0, right)), mode="reflect")[np.newaxis]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What one optimiser step sees of one process."""

    images: Tensor
    """(N, C, H, W) in the data's own dtype; float32 where some of them were interpolated."""
    labels: Tensor
    """(N, H, W) int64, `IGNORED` where padded or unlabelled."""
    pixels: Tensor
    """(N, P) int64 flat indices of sampled pixels, none of them without a label where there are labels."""

    def uncounted(self) -> Batch:
        """The same images without anything that is known of them."""
        return Batch(
            images=self.images,
            labels=torch.full_like(self.labels, IGNORED),
            pixels=self.pixels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSampler:
    """Which image each step of each epoch sees, and how."""

    config: VersionConfig
    seed: int
    n_images: int
    stride: int

    def steps(self) -> list[list[int]]:
        """Batches of positions in one epoch; position p shows image `order[p % n_images]`."""
        positions = list(range(self.n_images * self.config.crops_per_image))
        return [
            positions[start : start + self.config.batch_size]
            for start in range(0, len(positions), self.config.batch_size)
        ]

    def image_of(self, epoch: int, position: int) -> int:
        """The image at a position: natural order, or a new random order each pass with `shuffle`."""
        visit, index = divmod(position, self.n_images)
        if not self.config.shuffle:
            return index
        order = np.random.default_rng([self.seed, epoch, visit]).permutation(self.n_images)
        return int(order[index])


def load_batch(
    images: Sequence[LabelledImage], plan: EpochSampler, epoch: int, positions: Sequence[int]
) -> Batch:
    """Cut, augment and pad the samples of one step."""
    config = plan.config
    options = ViewOptions(
        crop=config.crop,
        turn=config.aug is not False,
        warp=config.aug is True,
        focus=config.oversample_classes,
    )
    views, pixels = [], []
    for position in positions:
        rng = np.random.default_rng([plan.seed, epoch, position, 1])
        view = _pad(random_view(images[plan.image_of(epoch, position)].view(), rng, options), plan)
        views.append(view)
        pixels.append(_sample_pixels(view.labels, config.pixels_per_image, rng))
    return Batch(
        images=torch.from_numpy(_stacked([view.pixels for view in views])),
        labels=torch.from_numpy(np.stack([view.labels for view in views]).astype(np.int64)),
        pixels=torch.from_numpy(np.stack(pixels)),
    )


def _stacked(pixels: Sequence[PixelArray]) -> PixelArray:
    """(N, C, H, W); where only some were changed, all become float32."""
    dtype = np.result_type(*{array.dtype for array in pixels})
    return np.stack(pixels).astype(dtype, copy=False)


def _pad(view: View, plan: EpochSampler) -> View:
    """Reflect to multiples of the stride, and up to the crop where the image is smaller; padding is not learned."""
    shape = view.labels.shape
    height, width = (padded_length(max(length, plan.config.crop or 0), plan.stride) for length in shape)
    below, right = height - shape[0], width - shape[1]
    if below == right == 0:
        return view
    corner = ((0, below), (0, right))
    return View(
        pixels=np.pad(view.pixels, ((0, 0), *corner), mode="reflect"),
        labels=np.pad(view.labels, corner, constant_values=IGNORED),
    )


def _sample_pixels(labels: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    known = np.flatnonzero(labels != IGNORED)
    if not len(known):
        return rng.integers(0, labels.size, size=count)
    return rng.choice(known, size=count, replace=len(known) < count).astype(np.int64)


def prefetched(load: Callable[[int], Batch], steps: int, *, depth: int = 2) -> Iterator[Batch]:
    """`load(0)`, `load(1)`, ... in order, a few ahead in a thread of their own."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="matseg-data") as pool:
        waiting = [pool.submit(load, step) for step in range(min(depth, steps))]
        for step in range(steps):
            batch = waiting.pop(0).result()
            if step + depth < steps:
                waiting.append(pool.submit(load, step + depth))
            yield batch


class TimedIterator(Iterator[Batch]):
    """Batches, and the share of the time that went by in waiting for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._begun = time.perf_counter()
        self._waited = 0.0

    @property
    def share(self) -> float:
        """From 0, when every batch was there before it was needed, to 1."""
        return self._waited / max(time.perf_counter() - self._begun, 1e-9)

    def __next__(self) -> Batch:
        asked = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._waited += time.perf_counter() - asked
