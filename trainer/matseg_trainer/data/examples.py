"""Labelled images in memory: read, checked and kept while there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.transform import Absent, NoDataOptions, fill_absent, zeroed
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import DatasetError
from matseg_shared.images.channels import ChannelChoice, is_grey, to_channels
from matseg_shared.images.read import PixelArray, read_image
from matseg_trainer.data.folder import Sample, load_array
from matseg_trainer.data.no_data import absent_of, told_bar

CACHE_BYTES = 4 << 30
"""Decoded images are kept in memory up to this much; beyond it each is read again when needed."""
IGNORED = UNLABELLED
"""Label of pixels that count neither in the loss nor in a metric: unlabelled ones, and padding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """An image, or a part of it, with its labels."""

    pixels: PixelArray
    """(C, H, W), any dtype."""
    labels: NDArray[np.uint8]
    """(H, W) class indices, or `IGNORED`."""
    absent: Absent | None = None
    """(H, W) where a whole image is no sample; None: nowhere, or it is a part of one."""

    @property
    def data(self) -> PixelArray:
        """(C, H, W) pixels, or (C, N) where some are no sample."""
        return self.pixels if self.absent is None else self.pixels[:, ~self.absent]

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Example:
        """Apply the same change to pixels and labels; it acts on the last two axes."""
        return Example(pixels=change(self.pixels), labels=change(self.labels))


class Examples(Sequence[Example]):
    """The images of one split with their labels, decoded on demand and kept while memory allows.

    All get as many channels as `channels` says, or else 1 for grey images, also such as are stored as RGB, and for
    others all they have. Pixels that are no sample have the label `IGNORED`, and become the training `mean`, once that
    is known.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        n_class: int,
        channels: int | None = None,
        choice: ChannelChoice = (),
        no_data: NoDataOptions | None = None,
        mean: Sequence[float] | None = None,
    ) -> None:
        self.samples = tuple(samples)
        self._n_class = n_class
        self._channels, self._choice = channels, choice
        self._no_data, self._mean = no_data or NoDataOptions(), mean
        self._cache: dict[int, Example] = {}
        self._room = CACHE_BYTES

    def is_told_of_bar(self, sample: Sample) -> bool:
        """True where the version, or the image's file, says how many rows are a bar of data."""
        return self._no_data.crop_bottom is not None or told_bar(sample.image) is not None

    def fill(self, mean: Sequence[float]) -> None:
        """Feed this mean of each channel from now on where images are no sample."""
        self._mean = mean
        for example in self._cache.values():
            if example.absent is not None:
                fill_absent(example.pixels, example.absent, mean)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if index in self._cache:
            return self._cache[index]
        example = self._read(self.samples[index])
        size = example.pixels.nbytes + example.labels.nbytes
        if size <= self._room:
            self._cache[index] = example
            self._room -= size
        return example

    def __getstate__(self) -> dict[str, Any]:
        """Leave the decoded images behind on the way to another process, which reads what it needs."""
        return {**self.__dict__, "_cache": {}, "_room": CACHE_BYTES}

    def _read(self, sample: Sample) -> Example:
        stored = read_image(sample.image, self._choice)
        absent = absent_of(sample.image, stored, self._no_data)
        if absent is not None:
            stored = zeroed(stored, absent)  # until the mean is known
        found = 1 if is_grey(stored) else stored.shape[-1]
        pixels = to_channels(stored, self._channels or found, sample.image)
        labels = load_array(sample.labels, self._n_class, unlabelled=sample.unlabelled)
        if pixels.shape[1:] != labels.shape:
            raise DatasetError(
                f"{sample.labels}: expected labels of {pixels.shape[1]} x {pixels.shape[2]} pixels as in "
                f"{sample.image.name}, found {labels.shape[0]} x {labels.shape[1]}; run matseg-prep labels again"
            )
        if absent is None:
            return Example(pixels=pixels, labels=labels)
        if self._mean is not None:
            fill_absent(pixels, absent, self._mean)
        labels = np.where(absent, np.uint8(IGNORED), labels)
        if (labels == IGNORED).all():
            raise DatasetError(
                f"{sample.image}: expected labels where the image is data, found none there; label some of it, or take "
                "the image out of the data set"
            )
        return Example(pixels=pixels, labels=labels, absent=absent)
