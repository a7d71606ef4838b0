"""Pictures of chosen slices: taken by the run, or read once more, with what is missing or has changed said in their
place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.measure.phase_fractions import binned, class_counts
from matseg_runtime.page.choose import Choice
from matseg_runtime.page.measures import doubt_uri
from matseg_runtime.page.record import RunRecord
from matseg_runtime.run.thumbnails import Thumbnails, edges_for, picture_of
from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.open import open_source
from matseg_runtime.source.transform import Absent, Transform, Window, not_numbers
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import ImageError, MatsegError
from matseg_shared.images.palette import Colour, full_palette
from matseg_shared.images.read import PixelArray, read_stored
from matseg_shared.pages.pictures import GreyWindow, distinct, jpeg_uri, label_uri, shrink, shrink_labels
from matseg_shared.system.machine import available_cpus

BUDGET = 9_000_000
"""Characters of all pictures together; a page of them, the charts and their library stays below 15 MB."""
_TRIED = 2
"""Pictures, or some more, by which a size is judged before all are made in it."""
_FAR = 1.05
"""Share of the budget from which on such a size is left out."""
_LARGE_SLICE = 64 << 20
"""Pixels from which on slices are read one at a time, for the memory's sake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSlice:
    """One slice as the page shows it."""

    index: int
    """Position in the input, from 0."""
    name: str
    shape: tuple[int, int]
    """(H, W) in pixels."""
    reasons: tuple[str, ...]
    fractions: tuple[float, ...]
    drift: float
    no_data: float
    """Share of its pixels that are no sample; hatched."""
    image: str
    """Data URI, or "" when it cannot be shown."""
    labels: str
    """Data URI, or "" when they cannot be shown."""
    doubt: str
    """Data URI of a low-confidence map, or "" where there is none."""
    problems: tuple[str, ...]
    """Notes on what is missing or has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """All chosen slices."""

    slices: tuple[ShownSlice, ...]
    window: GreyWindow | None
    """Intensities shown as black and white; None when there is no picture."""
    histogram: tuple[float, ...] | None
    """Share of their pixels in each bin of the training histogram; None when none could be read."""
    outside: float
    """Share of their pixels beyond the training histogram."""
    edge: int
    """Longer edge of the pictures in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loaded:
    """A slice at the largest size that a page may show."""

    choice: Choice
    image: PixelArray | None
    labels: NDArray[np.uint8] | None
    bins: NDArray[np.float64] | None
    pixels: int
    problems: tuple[str, ...]

    def shrunk(self, edge: int) -> _Loaded:
        image = None if self.image is None else shrink(self.image, edge)
        labels = None if self.labels is None else shrink_labels(self.labels, edge)
        return replace(self, image=image, labels=labels)


def take_pictures(
    record: RunRecord,
    choices: Sequence[Choice],
    source: Source | None,
    colours: Sequence[Colour],
    maps: Mapping[str, Path],
    show: Sequence[int],
    thumbnails: Thumbnails | None,
) -> Pictures:
    """Read the chosen slices and their labels, and make pictures of them.

    Args:
        source: the input; None when it is out of reach.
        colours: RGB per class.
        maps: low-confidence maps of some slices, by the slice's name.
        show: see `to_shown`.
        thumbnails: that the run has taken; None: of another process, so that all is read.
    """
    with _labels_of(record) as labels:
        edges = edges_for(choice.record.shape for choice in choices)
        reader = _Reader(
            record=record,
            source=source,
            labels=labels,
            show=show,
            edge=edges[0],
            thumbnails=thumbnails,
        )
        large = any(choice.record.shape[0] * choice.record.shape[1] > _LARGE_SLICE for choice in choices)
        with ThreadPoolExecutor(1 if large else min(4, available_cpus())) as pool:
            shown = partial(_shown, colours=distinct(colours), maps=maps)
            step = max(1, len(choices) // _TRIED)
            # what the run has taken takes its memory already
            places = range(0, len(choices), step if thumbnails is None else 1)
            some = dict(zip(places, pool.map(reader.load, (choices[place] for place in places)), strict=True))
            window, tried = _window(some.values()), [some[place] for place in places if place % step == 0]
            most = _FAR * BUDGET * len(tried) / max(1, len(choices))
            while len(edges) > 1 and (
                _size(pool.map(partial(shown, window=window, edge=edges[0]), tried)) > most
            ):
                edges = edges[1:]

            def load(place: int) -> _Loaded:
                """No larger than it can be shown, for the memory's sake."""
                return (some.pop(place, None) or reader.load(choices[place])).shrunk(edges[0])

            loaded = list(pool.map(load, range(len(choices))))
            window = window if len(places) == len(loaded) else _window(loaded)
            for edge in edges:
                slices = tuple(pool.map(partial(shown, window=window, edge=edge), loaded))
                if _size(slices) <= BUDGET:
                    break
    histogram, outside = _pooled(loaded)
    return Pictures(slices=slices, window=window, histogram=histogram, outside=outside, edge=edge)


@contextlib.contextmanager
def _labels_of(record: RunRecord) -> Iterator[Source | MatsegError | None]:
    """The output volume, why it cannot be opened, or None for a folder of label images."""
    key = record.report.provenance
    if key.output_format in ("png", "tiff"):
        yield None
        return
    try:
        axis = None if key.output_format == "tiff-stack" else key.axis  # its pages are the slices
        options = SourceOptions(axis=axis, as_labels=True, fill_missing_chunks=True)
        source = open_source(str(record.places.labels), options)
    except MatsegError as error:
        yield error
        return
    with contextlib.closing(source):
        yield source


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Reader:
    """Reads one slice and its labels, whatever is left of them."""

    record: RunRecord
    source: Source | None
    labels: Source | MatsegError | None
    show: Sequence[int]
    edge: int
    """Longest of a picture in pixels."""
    thumbnails: Thumbnails | None

    def load(self, choice: Choice) -> _Loaded:
        taken = None if self.thumbnails is None else self.thumbnails.get(choice.record, self.edge)
        if taken is not None:
            return _Loaded(
                choice=choice,
                image=taken.image,
                labels=taken.labels,
                bins=taken.bins,
                pixels=taken.pixels,
                problems=(),
            )
        problems: list[str] = []
        image = bins = labels = absent = None
        pixels = 0
        try:
            whole = self._read_labels(choice)
            absent = whole == UNLABELLED if choice.record.no_data else None
            labels = shrink_labels(whole, self.edge)
            if class_counts(whole, len(choice.record.counts)) != choice.record.counts:
                problems.append("its labels have changed since the run counted them")
        except MatsegError as error:
            problems.append(f"its labels: {error}")
        try:
            stored = self._read_image(choice, problems)
            if stored is not None:
                absent = not_numbers(stored) if absent is None or absent.shape != stored.shape[:2] else absent
                image = picture_of(stored, absent, self.show, self.edge)
                bins, pixels = self._bins(stored, choice, absent)
        except ImageError as error:
            problems.append(f"its image: {error}")
        return _Loaded(
            choice=choice, image=image, labels=labels, bins=bins, pixels=pixels, problems=tuple(problems)
        )

    def _read_image(self, choice: Choice, problems: list[str]) -> PixelArray | None:
        if self.source is None:
            return None  # said once, above all slices
        index = choice.record.index
        slices = self.source.slices
        if index >= len(slices) or slices[index].name != choice.record.name:
            index = next((item.index for item in slices if item.name == choice.record.name), -1)
        if index < 0:
            problems.append(f"its image is no longer in {self.source.location}")
            return None
        if slices[index].identity != choice.record.identity:
            problems.append("its image has changed since it was labelled; what is shown is the image of now")
        return np.asarray(self.source.read(index, index + 1)[0])

    def _bins(
        self, stored: PixelArray, choice: Choice, absent: Absent | None
    ) -> tuple[NDArray[np.float64] | None, int]:
        """Pixels per bin of the training histogram, as the model sees them."""
        if self.record.manifest is None:
            return None, 0
        info, text = self.record.manifest.model.input.of_slice, self.record.report.provenance.window
        transform = Transform(info=info, window=None if text is None else Window.parse(text))
        image = transform.convert(stored, choice.record.where, absent)
        if absent is not None:
            image = image[:, ~absent]
        return binned(image, info.histogram), image.size

    def _read_labels(self, choice: Choice) -> NDArray[np.uint8]:
        if isinstance(self.labels, MatsegError):
            raise self.labels
        if self.labels is None:
            suffix = ".png" if self.record.report.provenance.output_format == "png" else ".tif"
            where = str(self.record.places.labels / f"{choice.record.name}{suffix}")
            labels = read_stored(Path(where)).pixels
        else:
            where = self.labels.location
            if choice.record.index >= len(self.labels.slices):
                raise ImageError(where, f"has only {len(self.labels.slices)} slices")
            labels = np.asarray(self.labels.read(choice.record.index, choice.record.index + 1)[0])
        known = labels < (n_class := len(self.record.classes))
        if choice.record.no_data:
            known |= labels == UNLABELLED
        if labels.dtype != np.uint8 or labels.ndim != 2 or not known.all():
            raise ImageError(
                where, f"expected class indices below {n_class}, found others; they have changed"
            )
        if labels.shape != choice.record.shape:
            raise ImageError(
                where, f"expected {choice.record.shape} pixels, found {labels.shape}; they have changed"
            )
        return labels


def _shown(
    item: _Loaded, window: GreyWindow | None, edge: int, colours: Sequence[Colour], maps: Mapping[str, Path]
) -> ShownSlice:
    record = item.choice.record
    doubt, problems = "", list(item.problems)
    if record.name in maps:
        try:
            doubt = doubt_uri(maps[record.name], edge)
        except ImageError as error:
            problems.append(f"its low-confidence map: {error}")
    total = max(1, sum(record.counts))
    image = ""
    if item.image is not None and window is not None:
        image = jpeg_uri(window.apply(shrink(item.image, edge)))
    return ShownSlice(
        index=record.index,
        name=record.name,
        shape=record.shape,
        reasons=item.choice.reasons,
        fractions=tuple(round(count / total, 6) for count in record.counts),
        drift=record.drift,
        image=image,
        labels=""
        if item.labels is None
        else label_uri(shrink_labels(item.labels, edge), full_palette(colours)),
        no_data=record.no_data / (record.shape[0] * record.shape[1]),
        doubt=doubt,
        problems=tuple(problems),
    )


def _window(loaded: Iterable[_Loaded]) -> GreyWindow | None:
    images = [item.image for item in loaded if item.image is not None]
    return GreyWindow.of(images) if images else None


def _size(slices: Iterable[ShownSlice]) -> int:
    """Characters of their pictures."""
    return sum(len(item.image) + len(item.labels) + len(item.doubt) for item in slices)


def _pooled(loaded: Sequence[_Loaded]) -> tuple[tuple[float, ...] | None, float]:
    bins, pixels = (
        [item.bins for item in loaded if item.bins is not None],
        sum(item.pixels for item in loaded),
    )
    if not pixels:
        return None, 0.0
    total = np.sum(bins, axis=0)
    return tuple((total / pixels).tolist()), float(1 - total.sum() / pixels)
