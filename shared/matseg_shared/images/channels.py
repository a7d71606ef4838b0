"""Channels of a picture that a model takes: all of them, some, or their mean as one grey channel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import MAX_CHANNELS, InputInfo
from matseg_shared.errors import ImageError, UsageError

PixelArray = NDArray[Any]
ChannelChoice = tuple[int, ...] | Literal["grey"]
"""Numbers from 0, in the order in which the model takes them; `grey`: the mean of all; empty: all as they are."""
GREY: Literal["grey"] = "grey"


def parse_channels(text: str) -> ChannelChoice:
    """Read `0,2,5` or `grey`, or raise a UsageError."""
    if text == GREY:
        return GREY
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(found) > MAX_CHANNELS or min(found) < 0 or len(set(found)) < len(found):
        raise UsageError(
            f"--channels {text}: expected different channels by their numbers from 0, such as 0,2,5, or the word grey "
            f"for the mean of all; at most {MAX_CHANNELS}"
        )
    return found


def shown_choice(choice: ChannelChoice) -> str:
    """As `parse_channels` reads it."""
    return choice if choice == GREY else ",".join(map(str, choice))


def require_count(choice: ChannelChoice, info: InputInfo) -> None:
    """Refuse with a UsageError a choice of another number of channels than a model takes."""
    found = 1 if choice == GREY else len(choice)
    if choice and found != info.channels:
        raise UsageError(
            f"--channels {shown_choice(choice)}: expected {described(info)}, which this model takes, found {found}"
        )


def pick_channels(pixels: PixelArray, choice: ChannelChoice, path: Path | str) -> PixelArray:
    """The chosen channels of one picture.

    Args:
        pixels: (H, W) or (H, W, C).
        choice: of them.
        path: named in errors.

    Returns:
        (H, W) for one channel, else (H, W, C); dtype unchanged.

    Raises:
        ImageError: it has no such channel.
    """
    if choice == GREY:
        if pixels.ndim == 2:
            return pixels
        if is_grey(pixels):
            return pixels[..., 0]
        mean: PixelArray = pixels.mean(axis=-1, dtype=np.float64)
        return (mean if pixels.dtype.kind == "f" else np.rint(mean)).astype(pixels.dtype)
    if not choice:
        return pixels
    found = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if max(choice) >= found:
        there = "0 alone" if found == 1 else f"0 to {found - 1}"
        raise ImageError(
            path, f"expected the channels {shown_choice(choice)}, found {found} of them, {there}"
        )
    if pixels.ndim == 2:
        return pixels
    return pixels[..., choice[0]] if len(choice) == 1 else pixels[..., list(choice)]


def is_grey(pixels: PixelArray) -> bool:
    """True when an image is grey: (H, W), or (H, W, 3) with three equal channels."""
    if pixels.ndim == 2 or pixels.strides[-1] == 0:
        return True  # one channel in memory, as `read_image` gives grey stored as RGB
    return pixels.shape[-1] == 3 and bool(
        np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])
    )


def to_channels(pixels: PixelArray, channels: int, path: Path | str) -> PixelArray:
    """The pixels as a model takes them, channels first.

    Args:
        pixels: (H, W) or (H, W, C).
        channels: that it takes; three equal channels count as one grey channel, grey never as colour.
        path: named in errors.

    Returns:
        (C, H, W), contiguous and writable, dtype unchanged.

    Raises:
        ImageError: the image has another number of channels.
    """
    if channels == 1 and is_grey(pixels):
        grey = pixels if pixels.ndim == 2 else pixels[..., 0]
        return np.require(grey[np.newaxis], requirements=("C", "W"))
    found = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if found != channels:
        raise ImageError(path, _misfit(found, channels))
    return np.require(np.moveaxis(pixels, -1, 0), requirements=("C", "W"))


def _misfit(found: int, channels: int) -> str:
    if (found, channels) == (3, 1):
        return (
            "is a colour image; this model was trained on grey images (one channel); if only a scale bar or a mark is "
            "coloured, take it as grey with --channels grey, in training with `channels = 1`"
        )
    if (found, channels) == (1, 3):
        return "is a grey image; this model was trained on colour images (three channels)"
    several = f"{found} channels, or {found} slices" if found > 1 else "1 channel"
    remedy = (
        "; choose them with --channels, or run slices as a stack by themselves" if found > channels else ""
    )
    return f"has {several}; this model takes {channels} channel{'s' * (channels > 1)}{remedy}"


def kind_of(channels: int) -> str:
    """Grey, colour, or a number of channels, in words."""
    return {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")


def described(info: InputInfo) -> str:
    """The channels of a model's input, with their names where they have some."""
    names = f" ({', '.join(info.channel_names)})" if info.channel_names else ""
    return f"{info.channels} channel{'s' * (info.channels > 1)}{names}"


def parse_shown(text: str) -> tuple[int, ...]:
    """Read one channel or three, or raise a UsageError."""
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and len(part) < 3 for part in parts):
        raise UsageError(f"--show {text}: expected one channel, or three as red, green, blue, such as 0,2,5")
    return tuple(int(part) for part in parts)


def to_shown(pixels: PixelArray, show: Sequence[int] = ()) -> PixelArray:
    """View of (H, W) or (H, W, C) pixels: channels that are asked for, else colours, else the first.

    Returns:
        (H, W), or (H, W, 3) of three channels that differ.

    Raises:
        UsageError: the pictures have no such channel.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if show and max(show) >= channels:
        there = "channel 0 alone" if channels == 1 else f"channels from 0 to {channels - 1}"
        raise UsageError(f"--show {','.join(map(str, show))}: expected {there}, which the pictures have")
    if pixels.ndim == 2:
        return pixels
    chosen = tuple(show) or ((0, 1, 2) if channels == 3 else (0,))
    if len(chosen) == 1:
        return pixels[..., chosen[0]]
    colours = pixels if chosen == tuple(range(channels)) else pixels[..., list(chosen)]
    return colours[..., 0] if is_grey(colours) else colours
