"""Statistics of a split, gathered in one pass over its images before the first epoch."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import Histogram, InputInfo, own_channels
from matseg_shared.contract.tiling import padded_length
from matseg_shared.errors import DatasetError
from matseg_shared.images.channels import kind_of
from matseg_shared.images.data_bar import data_bar_rows
from matseg_shared.images.read import PixelArray
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.class_positions import ClassPositions
from matseg_trainer.data.examples import IGNORED, Example, Examples

HISTOGRAM_BINS = 256
_AS_GREY = ", or set `channels = 1` for this version in config.toml, which takes a coloured scale bar or mark as grey"


class SplitStatistics:
    """Kind, sizes, classes and intensities of the images of one split."""

    shapes: list[tuple[int, int]]
    """(H, W) of each image in pixels."""
    class_counts: NDArray[np.int64]
    """(K,) labelled pixels per class."""
    unlabelled: int
    """Pixels without a label."""
    no_data: int
    """Pixels among them that are no sample."""
    bars: list[tuple[str, int]]
    """Name of each image that seems to end in a data bar of which nothing tells, and its rows."""
    positions: list[ClassPositions]
    """Labelled pixels of each image."""
    kinds: dict[tuple[int, str], str]
    """(channels, dtype) -> name of the first image of that kind."""

    def __init__(self, examples: Examples, n_class: int) -> None:
        self._examples = examples
        self.shapes, self.kinds, self.class_counts = [], {}, np.zeros(n_class, np.int64)
        self.unlabelled = self.no_data = 0
        self.bars, self.positions = [], []
        for sample, example in zip(examples.samples, examples, strict=True):
            height, width = example.labels.shape
            self.shapes.append((height, width))
            self.positions.append(ClassPositions(example.labels))
            counts = self.positions[-1].counts
            self.class_counts += counts[:n_class]
            self.unlabelled += int(counts[IGNORED])
            if example.absent is not None:
                self.no_data += int(np.count_nonzero(example.absent))
            elif (rows := data_bar_rows(example.pixels[0])) and not examples.is_told_of_bar(sample):
                self.bars.append((sample.image.name, rows))
            kind = (example.pixels.shape[0], example.pixels.dtype.name)
            if not self.kinds:
                self._intensities = _Intensities(kind[0], example.pixels.dtype)
            if self.kinds.setdefault(kind, sample.image.name) == next(iter(self.kinds.values())):
                for band in example.bands():
                    self._intensities.add(band.data)

    @property
    def class_shares(self) -> NDArray[np.float64]:
        """(K,) share of each class among the labelled pixels."""
        shares: NDArray[np.float64] = self.class_counts / self.class_counts.sum()
        return shares

    @property
    def labelled_share(self) -> float:
        """Labelled pixels, of all that are sample."""
        labelled = int(self.class_counts.sum())
        return labelled / (labelled + self.unlabelled - self.no_data)

    def require_size(self, size: tuple[int, int] | None) -> None:
        """Refuse images of another size than a version's `size`.

        Raises:
            DatasetError: naming the images.
        """
        samples = self._examples.samples
        wrong = [
            f"{sample.image.name} ({shape[0]} x {shape[1]})"
            for sample, shape in zip(samples, self.shapes, strict=True)
            if shape != size
        ]
        if size is not None and wrong:
            raise DatasetError(
                f"{samples[0].image.parent}: expected images of {size[0]} x {size[1]} pixels (`size` of this "
                f"version), found {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}; change `size` in "
                "config.toml, or leave it out to accept any"
            )

    def require_batches(self, config: VersionConfig) -> None:
        """Refuse whole images of several sizes where several are to form a batch.

        Raises:
            DatasetError: saying what to set.
        """
        if config.crop is None and config.batch_size > 1 and len(set(self.shapes)) > 1:
            raise DatasetError(
                f"{self._examples.samples[0].image.parent}: the images differ in size, so whole images cannot form a "
                "batch; set `crop` or `batch_size = 1` for this version in config.toml"
            )

    def input_info(self) -> InputInfo:
        """Mean, standard deviation and histogram, in the data's own units; neighbours have those of the labelled slice.

        One fixed normalisation for every image: with statistics per image a tile would differ from the whole. Float
        images are looked at again for the histogram, whose bins need their whole range.
        """
        channels, dtype = next(iter(self.kinds))
        found = self._intensities
        low, high = float(found.lowest.min()), float(found.highest.max())
        if low == high:
            raise DatasetError(
                f"{self._examples.samples[0].image.parent}: expected images that show something, found one and the "
                "same value in all their pixels; save them again from where they came from"
            )
        edges = (low, high)
        # what a constant channel differs from its mean is a rounding, and nothing to divide by
        std = np.where(found.highest > found.lowest, np.sqrt(found.squares / found.pixels), 1.0)
        context = self._examples.context
        own, slices = own_channels(channels, context), 2 * context + 1
        if found.counts is None:
            bands = (band for example in self._examples for band in example.bands())
            counts = sum(_histogram(channel, edges) for band in bands for channel in band.data)
        else:
            counts = _histogram(np.arange(len(found.counts)), edges, found.counts)
        return InputInfo(
            channels=channels,
            dtype=dtype,  # type: ignore[arg-type]  # read_image lets no other dtype pass
            context=context,
            mean=tuple((found.total / found.pixels)[own].tolist()) * slices,
            std=tuple(std[own].tolist()) * slices,
            histogram=Histogram(low=edges[0], high=edges[1], counts=tuple(np.asarray(counts).tolist())),
        )


class _Intensities:
    """Moments of each channel, and how often each value of 8 or 16 bits occurs."""

    def __init__(self, channels: int, dtype: np.dtype[np.generic]) -> None:
        self.lowest, self.highest = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.total, self.squares, self.pixels = np.zeros(channels), np.zeros(channels), 0
        self.counts = None if dtype.kind == "f" else np.zeros(np.iinfo(dtype).max + 1, np.int64)  # type: ignore[type-var]

    def add(self, pixels: PixelArray) -> None:
        """Merge those of (C, H, W) pixels, or of (C, N) with data, as Chan, Golub and LeVeque 1983 do."""
        values = pixels.reshape(len(pixels), -1)
        if not values.size:
            return
        self.lowest = np.minimum(self.lowest, values.min(axis=1))
        self.highest = np.maximum(self.highest, values.max(axis=1))
        if self.counts is not None:
            self.counts += np.bincount(values.ravel(), minlength=len(self.counts))
        count = values.shape[1]
        # one channel at a time, for the memory
        total = np.array([channel.astype(np.float64).sum() for channel in values])
        mean = total / count
        self.squares += [
            np.square(channel.astype(np.float64) - middle).sum()
            for channel, middle in zip(values, mean, strict=True)
        ]
        if self.pixels:
            apart = np.square(mean - self.total / self.pixels)
            self.squares += apart * (self.pixels * count / (self.pixels + count))
        self.total += total
        self.pixels += count


def _histogram(
    values: PixelArray, edges: tuple[float, float], weights: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    return np.histogram(values.astype(np.float64), bins=HISTOGRAM_BINS, range=edges, weights=weights)[0]


def require_one_kind(train: SplitStatistics, validate: SplitStatistics, where: Path) -> None:
    """Refuse a data set of images with several numbers of channels, or of several dtypes.

    Raises:
        DatasetError: naming one image of each kind.
    """
    kinds = {**validate.kinds, **train.kinds}
    if len(kinds) > 1:
        examples = ", ".join(
            f"{name}: {kind_of(channels)} {dtype}" for (channels, dtype), name in kinds.items()
        )
        raise DatasetError(
            f"{where}: expected images of one kind, found several ({examples}); convert them to the same colour mode "
            f"and dtype{_AS_GREY if {channels for channels, _ in kinds} == {1, 3} else ''}"
        )


def representative_crop(
    examples: Examples, shapes: list[tuple[int, int]], stride: int, *, edge: int = 128, tries: int = 64
) -> PixelArray:
    """A small real input in which the classes are as evenly present as in any of `tries` random crops.

    Each of the training images, whose (H, W) are `shapes`, is read once at most.

    Returns:
        (1, C, h, w) in the data's own dtype; h and w are multiples of `stride`, about `edge`.
    """
    rng = np.random.default_rng(0)
    length = padded_length(edge, stride)
    places = []
    for number in range(tries):
        index = int(rng.integers(len(examples)))
        top, left = (int(rng.integers(0, full - min(full, length) + 1)) for full in shapes[index])
        places.append((index, number, top, left))
    best: tuple[float, int, PixelArray] = (-1.0, 0, np.empty(0))
    for index, crops in itertools.groupby(sorted(places), key=lambda place: place[0]):
        example: Example = examples[index]
        for _, number, top, left in crops:
            window = (..., slice(top, top + length), slice(left, left + length))
            counts = np.bincount(example.labels[window].ravel())[:IGNORED]
            shares = counts / max(counts.sum(), 1)
            entropy = -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
            if (entropy, -number) > best[:2]:
                best = (entropy, -number, example.pixels[window])
    below, right = (padded_length(size, stride) - size for size in best[2].shape[1:])
    return np.pad(best[2], ((0, 0), (0, below), (0, right)), mode="reflect")[np.newaxis]
