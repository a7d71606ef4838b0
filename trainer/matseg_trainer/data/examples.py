"""Labelled images: read, checked, and kept in memory while there is room, beyond that in files that are mapped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.transform import Absent, NoDataOptions, fill_absent, zeroed
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import DatasetError
from matseg_shared.images.channels import ChannelChoice, is_grey, to_channels
from matseg_shared.images.context import join_slices
from matseg_shared.images.read import PixelArray, read_image
from matseg_shared.images.tiff import stored_context
from matseg_shared.system.machine import available_memory
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.folder import Sample, load_array
from matseg_trainer.data.mapped import MappedArray, map_tiff, row_bands
from matseg_trainer.data.no_data import absent_of, told_bar

CACHE_BYTES = 4 << 30
"""The decoded images of a split are kept in memory up to this much, and up to a quarter of what is free."""
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

    def bands(self) -> Iterator[Example]:
        """The whole image in bands of rows, of which temporary copies are small."""
        for rows in row_bands(self.labels.shape):
            yield self.part((rows, slice(None)))

    def part(self, place: tuple[slice, slice]) -> Example:
        """Some of its rows and columns, as views."""
        absent = None if self.absent is None else self.absent[place]
        return Example(pixels=self.pixels[(slice(None), *place)], labels=self.labels[place], absent=absent)

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Example:
        """Apply the same change to pixels and labels; it acts on the last two axes."""
        return Example(pixels=change(self.pixels), labels=change(self.labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedExample:
    """An image with its labels in files."""

    pixels: MappedArray
    """(H, W) or (H, W, C)."""
    labels: MappedArray
    absent: MappedArray | None = None

    def open(self, mode: Literal["r", "r+"] = "r") -> Example:
        """The example, of which only what is looked at is read."""
        pixels, absent = self.pixels.open(mode), self.absent
        return Example(
            pixels=pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0),
            labels=self.labels.open(),
            absent=None if absent is None else absent.open(),
        )


class Examples(Sequence[Example]):
    """The images of one split with their labels, each decoded on demand and kept while memory allows.

    Beyond that each is decoded once into files of the folder `decoded`, which are mapped; or mapped where it lies, as
    label arrays and uncompressed TIFFs are. Without such a folder it is read again when it is needed.

    All get as many channels as `channels` says, or else 1 for grey images, also such as are stored as RGB, and for
    others all they have. Those of a slice with `context` neighbours on either side are all taken, and such images only.
    Pixels that are no sample have the label `IGNORED`, and become the training `mean`, once that
    is known.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        n_class: int,
        channels: int | None = None,
        choice: ChannelChoice = (),
        context: int = 0,
        no_data: NoDataOptions | None = None,
        mean: Sequence[float] | None = None,
        decoded: Path | None = None,
        in_memory: bool = True,
    ) -> None:
        """See above; with `in_memory` false all are in files, which the processes that load images share."""
        self.samples = tuple(samples)
        self._n_class = n_class
        self._channels, self._choice, self.context = channels, choice, context
        self._no_data, self._mean = no_data or NoDataOptions(), mean
        self._decoded = decoded
        self._cache: dict[int, Example] = {}
        self._mapped: dict[int, MappedExample] = {}
        self._limit = self._room = min(CACHE_BYTES, available_memory() // 4) if in_memory else 0

    def is_told_of_bar(self, sample: Sample) -> bool:
        """True where the version, or the image's file, says how many rows are a bar of data."""
        return self._no_data.crop_bottom is not None or told_bar(sample.image) is not None

    def fill(self, mean: Sequence[float]) -> None:
        """Feed this mean of each channel from now on where images are no sample."""
        self._mean = mean
        in_our_files = (mapped.open("r+") for mapped in self._mapped.values() if mapped.absent is not None)
        for example in itertools.chain(self._cache.values(), in_our_files):
            if example.absent is not None:
                fill_absent(example.pixels, example.absent, mean)

    @property
    def decoded_sizes(self) -> tuple[int, ...]:
        """Bytes of each image that lies decoded in `decoded`."""
        return tuple(
            mapped.pixels.nbytes
            for mapped in self._mapped.values()
            if mapped.pixels.path.parent == self._decoded
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if index in self._cache:
            return self._cache[index]
        if index in self._mapped:
            return self._mapped[index].open()
        example = self._read(self.samples[index])
        size = example.pixels.nbytes + example.labels.nbytes
        if size <= self._room:
            example = replace(example, labels=np.array(example.labels))
            self._cache[index] = example
            self._room -= size
        elif self._decoded is not None:
            self._mapped[index] = self._put_into_files(index, example, self._decoded)
        return example

    def _put_into_files(self, index: int, example: Example, folder: Path) -> MappedExample:
        absent = example.absent
        pixels = example.pixels[0] if len(example.pixels) == 1 else np.moveaxis(example.pixels, 0, -1)
        in_place = map_tiff(self.samples[index].image, pixels) if absent is None else None
        return MappedExample(
            pixels=in_place or MappedArray.save(folder / f"{index}.npy", pixels),
            labels=MappedArray.of(example.labels)
            or MappedArray.save(folder / f"{index}.labels.npy", example.labels),
            absent=None if absent is None else MappedArray.save(folder / f"{index}.absent.npy", absent),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the decoded images behind on the way to another process, which reads what it needs."""
        return {**self.__dict__, "_cache": {}, "_room": self._limit}

    def _read(self, sample: Sample) -> Example:
        stored, absent = self._without_absent(sample.image, read_image(sample.image, self._choice))
        found = stored.shape[-1] if self.context or not is_grey(stored) else 1
        pixels = to_channels(stored, self._channels or found, sample.image)
        in_place = self._decoded is not None
        labels = load_array(sample.labels, self._n_class, unlabelled=sample.unlabelled, mapped=in_place)
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

    def _without_absent(self, image: Path, stored: PixelArray) -> tuple[PixelArray, Absent | None]:
        """Pixels with 0, until the mean is known, where the labelled slice is no sample; and (H, W) where that is.

        A neighbour has the labelled slice's own pixels where it is none itself, as in matseg-run.
        """
        if (found := stored_context(image) if stored.ndim == 3 else 0) != self.context:
            raise DatasetError(
                f"{image}: expected a slice with {self.context} neighbours on either side as channels (context), found "
                f"one with {found}; import its volume with `matseg-prep import --context {self.context}`, or take a "
                f"version or model of context {found}"
            )
        parts = np.split(stored, 2 * self.context + 1, axis=-1) if self.context else [stored]
        absent = [absent_of(image, part, self._no_data) for part in parts]
        if self.context and any(gone is not None for gone in absent):
            stored = np.moveaxis(join_slices([np.moveaxis(part, -1, 0) for part in parts], absent), 0, -1)
        own = absent[self.context]
        return (stored if own is None else zeroed(stored, own)), own


def context_of_set(samples: Sequence[Sample], config: VersionConfig) -> int:
    """Neighbours on either side that a version takes of each slice: as it says, else as many as the first image has.

    Raises:
        DatasetError: it chooses channels besides, which are those of the slices and their neighbours.
    """
    context = stored_context(samples[0].image) if config.context is None else config.context
    if context and config.channels is not None:
        raise DatasetError(
            f"{samples[0].image}: holds a slice with its neighbours as channels, among which `channels` of config.toml "
            "cannot choose; leave out the key, and choose channels with --channels of `matseg-prep import`"
        )
    return context
