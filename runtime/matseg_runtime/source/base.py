"""What every source of slices offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

PixelArray = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One image to label."""

    index: int
    """Position in its source, from 0."""
    name: str
    """The stem of its outputs."""
    where: str
    """How messages name it: a path, or a path and a position."""
    identity: str
    """Changes when the file behind it does; "" in a volume, whose identity is that of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An entry of the input that is no image of it."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputIdentity:
    """What makes an input the same input as in an earlier run, apart from its slices' own identities."""

    kind: str
    """`folder`, `tiff`, `zarr`, `hdf5` or `npy`."""
    name: str
    """Its path without the folders above it, which differ between machines."""
    content: str
    """What changes when it does; "" for a folder, to which images may be added between runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What is known of a source whose slices all have one shape."""

    shape: tuple[int, int, int]
    """(slices, H, W)."""
    dtype: str
    axis: int
    """The axis of the stored array that is sliced along."""
    slices_per_chunk: int
    """Slices that are decoded together; reading whole multiples of it is cheapest."""


class Source(ABC):
    """Slices that can be read in any order, by several threads at a time."""

    location: str
    """The input as the user named it."""
    beside: Path
    """What default output names are made from: the input's path without suffixes."""
    identity: InputIdentity
    slices: tuple[Slice, ...]
    skipped: tuple[Skipped, ...] = ()
    volume: Volume | None = None
    """None for a folder, whose images may differ in shape and dtype."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Sequence[PixelArray]:
        """Slices `start` to `stop` (exclusive), each (H, W) or (H, W, 3), in the dtype they are stored in.

        Raises:
            ImageError: they cannot be read, or not without loss.
        """

    def current_identity(self, index: int) -> str:
        """The identity of a slice's file as it is now, to notice one that changes under our hands."""
        return self.slices[index].identity

    def close(self) -> None:  # noqa: B027 (a source without open files has nothing to do)
        """Release files."""
