"""Slices of a volume with their neighbours as channels: slice by slice in its order, the labelled one in the middle.

A TIFF says so by the names of its channels: `z-1`, `z`, `z+1`, where slices have one channel, `z-1 0`, `z-1 1`,
`z 0`, ... where they have several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import own_channels
from matseg_shared.images.channels import PixelArray

_OWN = "z"


def context_names(channels: int, context: int) -> tuple[str, ...]:
    """Names of all channels of a slice that is stored with `context` neighbours on either side."""
    slices = [f"{_OWN}{step:+d}" if step else _OWN for step in range(-context, context + 1)]
    each = channels // len(slices)
    if each == 1:
        return tuple(slices)
    return tuple(f"{name} {number}" for name in slices for number in range(each))


def context_of(names: Sequence[str]) -> int:
    """Neighbours on either side that channels of these names hold; 0 where the names tell of none."""
    context = len({name.partition(" ")[0] for name in names}) // 2
    return context if tuple(names) == context_names(len(names), context) else 0


def of_slice(pixels: PixelArray, context: int) -> PixelArray:
    """(H, W) or (H, W, C) pixels of the labelled slice alone, of (H, W, C) with its neighbours."""
    if not context:
        return pixels
    own = pixels[..., own_channels(pixels.shape[-1], context)]
    return own[..., 0] if own.shape[-1] == 1 else own


def join_slices(images: Sequence[PixelArray], absent: Sequence[NDArray[np.bool_] | None]) -> PixelArray:
    """The channels of several slices, of which the middle one is labelled.

    Args:
        images: (C, H, W) each, in the order of the volume.
        absent: (H, W) where each is no sample, or None; of a neighbour the labelled slice's own pixels stand there, as
            it stands for slices beyond the ends of the volume.

    Returns:
        (all C, H, W).
    """
    own = images[len(images) // 2]
    if len(images) == 1:
        return own
    joined: PixelArray = np.concatenate(images)
    for place, gone in enumerate(absent):
        if gone is not None:
            part = joined[place * len(own) : (place + 1) * len(own)]
            np.copyto(part, own, where=gone)
    return joined
