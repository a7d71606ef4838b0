"""Axes of a stored array: which are space, which are channels, and how slices are cut from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from matseg_runtime.source.base import SourceOptions
from matseg_shared.contract.metadata import MAX_CHANNELS
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import GREY, PixelArray, pick_channels

COLOURS = 3
_AXES = "tczyx"
_WORDS = {"time": "t", "channel": "c", "channels": "c", "depth": "z", "height": "y", "width": "x"}
"""Names of axes in some files."""
_FLAT, _FLAT_AT_ANY_RATE = 0.75, 0.25
"""Last axis over the shorter of the two before it, up to which it may be that of slices: of square ones, of others."""
_TINY = 16
"""Pixels along an edge, up to which nobody means an image."""
_MOST_CHUNKS = 1_000_000
"""Chunks of one read; more are a mistake in the metadata, or chunks so small that nobody could wait for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Use of the axes of an array.

    A stored array (T=1, C=3, Z, Y, X) has spatial = (2, 3, 4), channel = 1, and slices along Z with axis = 0.
    """

    ndim: int
    """Axes of the stored array."""
    spatial: tuple[int, ...]
    """Two or three stored axes, in stored order; every axis that is neither spatial nor of channels has length 1."""
    channel: int | None
    """The stored axis of channels, if there is one."""
    axis: int
    """Number of the spatial axis, of three, that is sliced along."""
    channels: int = 1
    """Channels that are read."""
    picked: tuple[int, ...] = ()
    """Channels that are taken, in this order; empty: all."""
    as_grey: bool = False
    """The mean of the channels is taken."""

    @property
    def slice_axis(self) -> int | None:
        """The stored axis that is sliced along; None for a single image."""
        return self.spatial[self.axis] if len(self.spatial) == 3 else None

    def index(self, start: int, stop: int) -> tuple[slice | int, ...]:
        """The index of slices `start` to `stop` in the stored array."""
        index: list[slice | int] = [slice(None) if axis in self.spatial else 0 for axis in range(self.ndim)]
        if self.channel is not None:
            index[self.channel] = slice(*_span(self.picked)) if self.picked else slice(None)
        if self.slice_axis is not None:
            index[self.slice_axis] = slice(start, stop)
        return tuple(index)

    def images(self, block: PixelArray) -> list[PixelArray]:
        """Cut what `index` gave into (H, W) or (H, W, C) images."""
        planes = (axis for axis in self.spatial if axis != self.slice_axis)
        wanted = [axis for axis in (self.slice_axis, *planes, self.channel) if axis is not None]
        block = np.transpose(block, [sorted(wanted).index(axis) for axis in wanted])
        images = list(block) if self.slice_axis is not None else [block]
        if self.as_grey:
            return [pick_channels(image, GREY, "") for image in images]
        if not self.picked or self.channel is None:
            return images
        chosen = tuple(number - min(self.picked) for number in self.picked)
        return [pick_channels(image, chosen, "") for image in images]


def layout_of(
    where: str, shape: Sequence[int], options: SourceOptions, names: Sequence[str] | None = None
) -> Layout:
    """Decide by what the user says, else by the axes' names where a file has them, else by their lengths.

    Args:
        where: the array, named in errors.
        shape: of the stored array.
        options: `axis`, `axes`, `channels` and `taken` of them.
        names: `t`, `c`, `z`, `y`, `x` per axis, as OME-Zarr has them.

    Raises:
        UsageError: an empty array, or axes that cannot be told apart.
    """
    if 0 in shape:
        raise UsageError(f"{where}: holds nothing to segment: its shape is {tuple(shape)}")
    names = _told(where, shape, options.axes) or names
    picked = () if options.channels == GREY else options.channels
    if names is not None:
        spatial, channel = _named(where, shape, names, options)
    elif (picked or (options.taken or 1) not in (1, COLOURS)) and sum(length != 1 for length in shape) > 2:
        spatial, channel = _counted(where, shape, options)
    else:
        if options.axis is None:
            _refuse_colours_for_slices(where, shape, options)
        spatial, channel = _by_length(shape, options)
    extra = [number for number in range(len(shape)) if number not in (*spatial, channel)]
    if len(spatial) not in (2, 3) or any(shape[number] != 1 for number in extra):
        listed = "" if names is None else f" with the axes {','.join(names)}"
        raise UsageError(
            f"{where}: expected an image or a volume, grey or with {_wanted(options)}, found an array of shape "
            f"{tuple(shape)}{listed}{_one_of_several(shape, names)}"
        )
    named = [] if names is None else [names[number] for number in spatial]
    if named != sorted(named, reverse=True):
        raise UsageError(
            f"{where}: expected its axes in the order z, y, x, found {', '.join(named)}: its slices would be mirrored "
            f"along the diagonal; transpose it first, or use --axes {_in_order(names or ())} if its names are wrong"
        )
    axis = options.axis
    if axis is not None and axis >= len(spatial):
        raise UsageError(
            f"{where}: has {len(spatial)} spatial axes, so --axis must be below {len(spatial)}, not {axis}"
        )
    if axis is not None and len(spatial) == 2:
        raise UsageError(f"{where}: is a single image, which --axis cannot slice")
    found = 1 if channel is None else shape[channel]
    if picked and max(picked) >= found:
        raise UsageError(
            f"{where}: expected the channels {','.join(map(str, picked))}, found {found} in an array of shape "
            f"{tuple(shape)}; say which axis holds them with --axes, as in --axes cyx"
        )
    start, stop = _span(picked) if picked else (0, found)
    return Layout(
        ndim=len(shape),
        spatial=spatial,
        channel=channel,
        axis=axis or 0,
        channels=stop - start,
        picked=picked,
        as_grey=options.channels == GREY,
    )


def parse_axes(text: str) -> str:
    """Read `zcyx`, or raise a UsageError."""
    if set("yx") <= set(text) <= set(_AXES) and len(set(text)) == len(text):
        return text
    raise UsageError(
        f"--axes {text}: expected one of the letters t, c, z, y, x per axis, y and x among them, as in zcyx or yxc"
    )


def known_axes(names: Sequence[object], ndim: int) -> tuple[str, ...] | None:
    """The axes' names in a file as `layout_of` takes them; None where some are missing or mean something else."""
    axes = tuple(_WORDS.get(word := str(name).lower(), word) for name in names)
    if "z" not in axes:
        axes = tuple("z" if name == "t" else name for name in axes)  # images one after the other
    return axes if {"y", "x"} <= set(axes) <= set(_AXES) and len(set(axes)) == len(axes) == ndim else None


def _span(picked: Sequence[int]) -> tuple[int, int]:
    """The channels to read at once, which some stores cannot do one by one."""
    return min(picked), max(picked) + 1


def _told(where: str, shape: Sequence[int], axes: str | None) -> tuple[str, ...] | None:
    """The names of `--axes` per axis; those of length 1 may be left out."""
    if axes is None:
        return None
    long = [number for number, length in enumerate(shape) if length != 1]
    if len(axes) == len(shape):
        return tuple(axes)
    if len(axes) != len(long):
        raise UsageError(
            f"{where}: --axes {axes} names {len(axes)} axes, found {len(shape)} in an array of shape {tuple(shape)}"
        )
    return tuple(axes[long.index(number)] if number in long else "t" for number in range(len(shape)))


def _wanted(options: SourceOptions) -> str:
    if options.channels and options.channels != GREY:
        return f"the channels {','.join(map(str, options.channels))}"
    taken = options.taken or 1
    return f"{COLOURS} colours" if taken in (1, COLOURS) else f"{taken} channels"


def _in_order(names: Sequence[str]) -> str:
    """The same axes, those of space as z, y, x."""
    space = iter(sorted((name for name in names if name in "zyx"), reverse=True))
    return "".join(next(space) if name in "zyx" else name for name in names)


def _one_of_several(shape: Sequence[int], names: Sequence[str] | None) -> str:
    """Advice on an array of several volumes or times and nothing else that there are several of."""
    long = "".join(name for name, length in zip(names or (), shape, strict=False) if length != 1)
    if "t" not in long or "c" in long:
        return ""
    count, axes = shape[list(names or ()).index("t")], long.replace("t", "c")
    return f": {count} times or volumes; label one at a time, the first with --axes {axes} --channels 0"


def _refuse_colours_for_slices(where: str, shape: Sequence[int], options: SourceOptions) -> None:
    """Refuse an image with alpha or with its colours first, which looks like a volume of tiny or of few slices."""
    real = [length for length in shape if length != 1]
    if len(real) != 3:
        return
    if real[-1] in (2, 4) and min(real[:2]) > _TINY:
        raise UsageError(
            f"{where}: of the shape {tuple(shape)}, is an image with an alpha channel or a volume of slices "
            f"{real[-1]} pixels wide; save it without alpha, choose of its channels with --channels, or say that it "
            "is a volume with --axis 0"
        )
    if real[0] == COLOURS and min(real[1:]) > _TINY and options.taken != COLOURS:
        raise UsageError(
            f"{where}: of the shape {tuple(shape)}, is an image with its {COLOURS} colours first or a volume of "
            f"{COLOURS} slices; save it with the colours last, or say that it is a volume with --axis 0"
        )


def _named(
    where: str, shape: Sequence[int], names: Sequence[str], options: SourceOptions
) -> tuple[tuple[int, ...], int | None]:
    """The spatial axes and that of channels, by their names."""
    spatial = tuple(number for number, name in enumerate(names) if name in ("z", "y", "x"))
    channel = next((k for k, name in enumerate(names) if name == "c" and shape[k] > 1), None)
    if channel is None or options.channels:
        return spatial, channel
    found, taken = shape[channel], options.taken
    if found == taken or (found == COLOURS and taken in (None, 1)):
        return spatial, channel
    if taken is None:
        return spatial, None if options.as_labels or found > MAX_CHANNELS else channel
    raise UsageError(
        f"{where}: expected {taken} channel{'s' * (taken > 1)}, as the model takes, found {found} (the axis c of an "
        f"array of shape {tuple(shape)}); choose with --channels, as in --channels {','.join(map(str, range(taken)))}"
    )


def _counted(where: str, shape: Sequence[int], options: SourceOptions) -> tuple[tuple[int, ...], int | None]:
    """The spatial axes and that of channels, of which the model or the user says how many there are.

    Channels come last, or first, or behind the slices.
    """
    long = [number for number, length in enumerate(shape) if length != 1]
    ends = dict.fromkeys((long[0], *long[1 : len(long) - 2], long[-1]))
    if options.channels and options.channels != GREY:
        least = max(options.channels) + 1
        fitting = [number for number in ends if least <= shape[number] <= MAX_CHANNELS]
        shortest = sorted(fitting, key=lambda number: shape[number])[:2]
        if len(shortest) == 2 and 2 * shape[shortest[0]] <= shape[shortest[1]]:
            fitting = shortest[:1]  # pictures are wider than they have channels
    else:
        fitting = [number for number in ends if shape[number] == options.taken]
    if len(fitting) != 1:
        which = "none of which has that length" if not fitting else "more than one of which could be theirs"
        raise UsageError(
            f"{where}: expected an image or a volume with {_wanted(options)}, found an array of shape "
            f"{tuple(shape)}, with axes {which}; say what each is with --axes, as in --axes cyx or --axes zyxc, or "
            "choose channels with --channels"
        )
    return tuple(number for number in long if number != fitting[0]), fitting[0]


def _by_length(shape: Sequence[int], options: SourceOptions) -> tuple[tuple[int, ...], int | None]:
    """The spatial axes, and that of colours."""
    colour = None
    if len(shape) >= 3 and shape[-1] == COLOURS:
        colour = len(shape) - 1
    elif len(shape) == 4 and shape[1] == COLOURS and shape[0] != 1:
        colour = 1
    elif shape[0] == COLOURS and (len(shape) == 4 or (len(shape) == 3 and _is_one_image(options))):
        colour = 0
    axes = [number for number in range(len(shape)) if number != colour]
    if colour is None and len(axes) > 2 and shape[axes[-1]] == 1:
        axes.pop()  # grey as the only channel
    while len(axes) > 3 and shape[axes[0]] == 1:
        axes.pop(0)
    return tuple(axes), colour


def _is_one_image(options: SourceOptions) -> bool:
    """True where three planes cannot be slices: a model of colours would take none of them."""
    return options.taken == COLOURS and options.axis is None


def last_axis_doubt(where: str, shape: Sequence[int]) -> Iterator[str]:
    """The doubt about a volume whose last axis looks like that of its slices, as some programs write them."""
    if len(shape) != 3 or not 1 < shape[-1] <= _FLAT * min(shape[:2]):
        return
    first, rows, columns = shape
    if first == rows or columns <= _FLAT_AT_ANY_RATE * min(first, rows):
        yield (
            f"{where}: is cut into {first} slices of {rows} x {columns} pixels; if its last axis is that of slices, "
            f"{columns} of {first} x {rows}, use --axis 2"
        )


def chunk_ranges(
    index: Sequence[slice | int], shape: Sequence[int], chunk_shape: Sequence[int]
) -> list[range]:
    """Numbers of the chunks that an index touches, along each axis of the stored array."""
    ranges = []
    for part, length, chunk in zip(index, shape, chunk_shape, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    return ranges


def require_few_chunks(where: str, ranges: Sequence[range]) -> None:
    """Refuse with an ImageError a read of so many chunks that they could not even be listed."""
    if (count := math.prod(map(len, ranges))) > _MOST_CHUNKS:
        raise ImageError(where, f"one slice of it is cut into {count} chunks; store it in larger ones")
