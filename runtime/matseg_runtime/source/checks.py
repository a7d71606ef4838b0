"""A sample of slices before a job: what most of them are like, and what no single slice tells.

Another scale of intensities, colours in the reverse order and contrast stretched slice by slice all give labels without
an error. What can be told from intensities alone is refused or told; the rest is for a person to see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.base import Slice, Source
from matseg_runtime.source.layout import COLOURS
from matseg_runtime.source.transform import Transform
from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.data_bar import data_bar_rows
from matseg_shared.system.machine import available_cpus

SLICES = 7
"""Size of the sample: evenly spread, the first and the last among them."""
_MOST_TRIED = 1000
"""Slices from the first on, and again as many of the others, that are tried to find one that can be read."""
_FAR_OUTSIDE = 0.5
"""Share of a slice's pixels beyond the training intensities from which on its range is called misfit."""
_ENOUGH = 5
"""Slices from which on a likeness between them is no accident."""
_NARROW = 0.1
"""Share of the training set's span of intensities below which the scale is another one."""
_CLIPPED = 0.99
"""Share of pixels beyond the window from which on nothing of a slice is left."""
_FEW_PIXELS = 3
_FEW = 1e-4
"""Share of a slice's pixels at its darkest and brightest, as a stretch from minimum to maximum leaves it."""
_ALIKE = 1.1
_TAIL = 0.05
"""Such shares as a stretch between percentiles leaves, alike in all slices and at most so large."""
_SMALL = 1 << 22
"""Pixels of a slice up to which several are looked at together; of larger ones memory may hold only one."""
_SAMPLED = 1 << 18
"""Pixels that percentiles are taken of."""
_REMEDY = "map them with --window LO,HI, the intensities that become the model's darkest and brightest"
_TOLD_APART = 0.2
"""Red and blue of the training set, in standard deviations, from which on their order can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCheck:
    """Features that most slices of an input share."""

    dtype: str
    """As they are stored."""
    shape: tuple[int, int]
    """(H, W) in pixels."""
    warnings: tuple[str, ...]
    """For a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceStats:
    """One slice in a few numbers; intensities in the model's units, after a window."""

    low: float
    """First percentile."""
    high: float
    """99th percentile."""
    ends: tuple[float, float]
    """Darkest and brightest."""
    at_ends: tuple[int, int]
    """Pixels that have them."""
    pixels: int
    means: tuple[float, ...]
    """One for each colour; empty where there are none."""
    clipped: float
    """Share of the pixels beyond the window."""
    bar: int
    """Rows at its foot that look like a bar of data of which nobody told."""
    far_outside: float
    """Share of the pixels farther from the training set's intensities than these are wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """One slice of the sample."""

    where: str
    dtype: str
    shape: tuple[int, ...]
    """(H, W) or (H, W, 3), as it is stored."""
    stats: SliceStats | None = None
    """None: it does not fit the model, or holds no data."""
    problem: str = ""
    """Reason for which it does not fit."""


def check_input(source: Source, transform: Transform, *, accept: bool) -> InputCheck:
    """Find out by a sample what most slices are like, and whether those fit the model; the others are excluded later.

    Args:
        source: whose slices are to be labelled.
        transform: as they will be converted; its `stored_dtype` goes before that of most slices where any has it.
        accept: go on where the intensities are of another scale, and say so.

    Raises:
        UsageError: no slice can be read, most do not fit the model, their intensities are of another scale, or the
            window leaves nothing of them.
    """
    sample = _sample(source, transform)
    first = _most_common(sample, transform.stored_dtype)
    if first.problem:
        raise UsageError(first.problem)
    info = transform.info
    if first.stats is not None and first.stats.far_outside >= _FAR_OUTSIDE and not accept:
        darkest, brightest = first.stats.ends
        raise ImageError(
            first.where,
            f"expected intensities like those of the training set ({info.histogram.low:g} to {info.histogram.high:g}), "
            f"found {darkest:g} to {brightest:g}; {_REMEDY}, or go on regardless with --accept-intensities",
        )
    stats = [item.stats for item in sample if item.stats is not None and item.dtype == first.dtype]
    telling = [item for item in stats if item.low < item.high]  # the others are empty but for specks
    scale = _another_scale(telling, info.histogram) or _nothing_left(stats, transform)
    if scale is not None and not accept:
        raise UsageError(f"{source.location}: {scale}; or go on regardless with --accept-intensities")
    found = (
        None if scale is None else f"{scale}; accepted with --accept-intensities",
        _reversed_colours(telling, info),
        _stretched(telling),
        _data_bars(sample),
    )
    warnings = tuple(text for text in found if text is not None)
    return InputCheck(dtype=first.dtype, shape=(first.shape[0], first.shape[1]), warnings=warnings)


def _sample(source: Source, transform: Transform) -> list[_Sampled]:
    """Evenly spread slices that can be read; besides, where none has the wanted dtype, the first one that does."""
    last, wanted = len(source.slices) - 1, transform.stored_dtype
    places = sorted({round(last * step / (SLICES - 1)) for step in range(SLICES)})

    def look(index: int) -> _Sampled | None:
        try:
            return _sampled(source, source.slices[index], transform)
        except ImageError:
            return None  # it is excluded in its turn

    looked: list[_Sampled | None]
    if source.volume is not None:
        # several threads decode its chunks already; those of its first slices, which come next, are kept
        looked = [look(place) for place in reversed(places)][::-1]
    else:
        first = look(places[0])
        together = first is not None and first.shape[0] * first.shape[1] <= _SMALL
        with ThreadPoolExecutor(available_cpus() if together else 1) as pool:
            looked = [first, *pool.map(look, places[1:])]
    sample = [found for found in looked if found is not None]
    if not any(wanted in (None, item.dtype) for item in sample):
        sample.insert(0, _first_readable(source, transform))
    return sample


def _first_readable(source: Source, transform: Transform) -> _Sampled:
    """The first slice that can be read, if possible of the wanted dtype.

    Of those after the first thousand only some are tried: a hundred thousand that are not there take minutes.
    """
    broken: list[str] = []
    other: _Sampled | None = None
    count, first = len(source.slices), source.slices[:_MOST_TRIED]
    for item in (*first, *source.slices[_MOST_TRIED :: max(1, count // _MOST_TRIED)]):
        try:
            found = _sampled(source, item, transform)
        except ImageError as error:
            broken.append(str(error))  # not the error, which would hold on to what it was raised over
            continue
        if transform.stored_dtype in (None, found.dtype):
            return found
        other = other or found
    if other is not None:
        return other
    reasons = "\n".join(f"  - {error}" for error in broken[:5])
    which = f"of the {len(broken)} tried of its {count}" if len(broken) < count else f"of its {count}"
    raise UsageError(f"{source.location}: none {which} slices can be read:\n{reasons}")


def _most_common(sample: Sequence[_Sampled], wanted: str | None) -> _Sampled:
    """The first slice of the dtype, the number of channels and the size that most have."""
    group = [item for item in sample if item.dtype == wanted]
    if not group:
        kinds = Counter((item.dtype, len(item.shape)) for item in sample)
        kind = kinds.most_common(1)[0][0]
        group = [item for item in sample if (item.dtype, len(item.shape)) == kind]
    shape = Counter(item.shape for item in group).most_common(1)[0][0]
    alike = [item for item in group if item.shape == shape]
    return next((item for item in alike if item.stats is not None), alike[0])


def _sampled(source: Source, item: Slice, transform: Transform) -> _Sampled:
    """Read one slice, or raise its ImageError."""
    stored = source.look(item.index)
    found = _Sampled(where=item.where, dtype=stored.dtype.name, shape=stored.shape)
    try:
        absent = transform.absent(stored, item)
        image = replace(transform, stored_dtype=None).convert(stored, item.where, absent)
    except ImageError as error:
        return replace(found, problem=str(error))
    step = max(1, round((image[0].size / _SAMPLED) ** 0.5))
    sampled = image[:, ::step, ::step]
    if absent is not None:
        image, sampled = image[:, ~absent], sampled[:, ~absent[::step, ::step]]
        if not sampled.size:
            return found
    low, high = np.percentile(sampled, [1, 99])
    ends = image.min(), image.max()
    histogram = transform.info.histogram
    # as far again on either side is another exposure, farther is another scale
    reach, outside = histogram.high - histogram.low, 0
    if ends[0] < histogram.low - reach or ends[1] > histogram.high + reach:
        beyond = (image < histogram.low - reach) | (image > histogram.high + reach)
        outside = int(np.count_nonzero(beyond))
    is_told = transform.no_data is not None and transform.no_data.is_told_of_bar(item)
    stats = SliceStats(
        low=float(low),
        high=float(high),
        ends=(float(ends[0]), float(ends[1])),
        at_ends=(int(np.count_nonzero(image == ends[0])), int(np.count_nonzero(image == ends[1]))),
        pixels=image.size,
        means=() if len(image) != COLOURS else tuple(float(plane.mean(dtype=np.float64)) for plane in image),
        clipped=transform.clipped(stored, absent) / image[0].size,
        bar=0 if is_told else data_bar_rows(stored),
        far_outside=outside / image.size,
    )
    return replace(found, stats=stats)


def _another_scale(stats: Sequence[SliceStats], histogram: Histogram) -> str | None:
    """The complaint where every slice spans a small part of the training set's intensities, or lies beside them."""
    counts: NDArray[Any] = np.cumsum(histogram.counts)
    if not stats or counts[-1] == 0:
        return None
    edges = np.linspace(histogram.low, histogram.high, len(counts) + 1)
    first, last = np.searchsorted(counts, [0.01 * counts[-1], 0.99 * counts[-1]])
    low, high = float(edges[first]), float(edges[last + 1])  # first and 99th percentile, to within a bin
    width = high - low
    if width <= 0:
        return None
    narrow = all(item.high - item.low < _NARROW * width for item in stats)
    beside = all(item.high < low - width or item.low > high + width for item in stats)
    if not (narrow or beside):
        return None
    least, most = min(item.low for item in stats), max(item.high for item in stats)
    return (
        f"expected intensities like the training set's (98% of them from {low:g} to {high:g}), found {least:g} "
        f"to {most:g} in {len(stats)} slices: another bit depth or unit; {_REMEDY}"
    )


def _nothing_left(stats: Sequence[SliceStats], transform: Transform) -> str | None:
    if not stats or not all(item.clipped >= _CLIPPED for item in stats):
        return None
    return (
        f"--window {transform.window} leaves nothing of {len(stats)} slices that were looked at: nearly all of their "
        "pixels lie beyond it; give the intensities that are the darkest and brightest of these slices"
    )


def _reversed_colours(stats: Sequence[SliceStats], info: InputInfo) -> str | None:
    """Files cannot tell RGB from BGR; a training set with more red than blue, or less, can."""
    if info.channels != COLOURS or info.channel_names or not stats:
        return None
    means = np.mean([item.means for item in stats], axis=0)
    trained, found = info.mean[0] - info.mean[2], float(means[0] - means[2])
    if abs(trained) < _TOLD_APART * float(np.mean(info.std)):
        return None
    if found * np.sign(trained) > -0.5 * abs(trained):
        return None
    return (
        f"red less blue is {found:.3g} on average, {trained:.3g} in the training set: if these images were written "
        "with their channels in the order BGR, as OpenCV keeps them, the labels are wrong; write them as RGB"
    )


def _data_bars(sample: Sequence[_Sampled]) -> str | None:
    found = [(item.where, item.stats.bar) for item in sample if item.stats is not None and item.stats.bar]
    if not found:
        return None
    where, rows = found[0]
    return (
        f"{len(found)} of the {len(sample)} slices that were looked at seem to end in a data bar, such as the lowest "
        f"{rows} rows of {where}: it is labelled as if it were sample; leave it out with --crop-bottom {rows}"
    )


def _stretched(stats: Sequence[SliceStats]) -> str | None:
    """Slices on one scale do not all reach the same two ends with next to nothing, or with equal shares."""
    if len(stats) < _ENOUGH or len({item.ends for item in stats}) != 1:
        return None
    counts, pixels = np.array([item.at_ends for item in stats]), np.array([[item.pixels] for item in stats])
    shares = counts / pixels
    few = (counts <= np.maximum(_FEW_PIXELS, _FEW * pixels)).all(axis=0)
    least, most = shares.min(axis=0), shares.max(axis=0)
    smallest = shares.argmin(axis=0)
    chance = 4 * counts[smallest, (0, 1)] ** 0.5 / pixels[smallest, 0]  # what it adds to small counts
    alike = (most <= _TAIL) & (most <= _ALIKE * least + chance)
    if not (few | alike).all():
        return None
    low, high = stats[0].ends
    return (
        f"each of {len(stats)} slices that were looked at reaches from {low:g} to {high:g} exactly, as when contrast "
        "is stretched slice by slice: one material then has another grey in each slice; scale the whole volume alike"
    )
