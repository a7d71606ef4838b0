"""The interface of every source of slices, the types it speaks in, and what all sources ask of files.

To read one more format, write a function as `open.Opener` describes it in a file of its own, and give it a row in
`open.FORMATS`. Most formats are one array: `array.ArraySource` makes the slices of a `StoredArray`.
"""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from matseg_runtime.units import VoxelSize, voxel_of_scale
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channel_files import ChannelFiles
from matseg_shared.images.channels import ChannelChoice, PixelArray
from matseg_shared.system.names import name_problem

_FRESH_SECONDS = 2.0
_SETTLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One image to label."""

    index: int
    """Position in its source, from 0."""
    name: str
    """The stem of its outputs."""
    where: str
    """Name of it in messages: a path, or a path and a position."""
    identity: str
    """Changes when the file behind it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An entry of the input that is no image of it."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputIdentity:
    """The features by which an input is the same as in an earlier run, apart from its slices' own identities."""

    kind: str
    """Name of its format, such as `folder`, `tiff`, `zarr`, `nrrd`."""
    name: str
    """Its path without the folders above it, which differ between machines."""
    content: str
    """Changes when its content does; "" for a folder, to which images may be added between runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spacing:
    """Place of a volume in space, as OME-Zarr says it; all in (z, y, x) order."""

    scale: tuple[float, ...]
    translation: tuple[float, ...]
    units: tuple[str | None, ...] = (None, None, None)
    """None: not known, as how far apart single images are."""
    directions: tuple[tuple[float, ...], ...] | None = None
    """Unit vectors along z, y, x, each in (z, y, x) order of ITK's space; None: the file does not tell."""

    @property
    def is_sound(self) -> bool:
        """True where its numbers can be those of a volume, and stay numbers when they are multiplied."""
        are_edges = all(1e-30 < edge < 1e30 for edge in self.scale)
        are_directions = all(-2 < part < 2 for direction in self.directions or () for part in direction)
        return are_edges and are_directions and all(-1e30 < place < 1e30 for place in self.translation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The properties of a source that is one array."""

    shape: tuple[int, ...]
    """Lengths of the stored array's spatial axes: (Z, Y, X), or (Y, X) for a single image."""
    axis: int
    """Number of the one that is sliced along; 0 for a single image."""
    start: int
    """Position of the first slice along it, when only a range is taken."""
    dtype: str
    channels: int
    """Values per pixel, as they are read."""
    slices_per_chunk: int
    """Slices that are decoded together; reading whole multiples of it is cheapest."""
    decoding_bytes: int = 0
    """Taken by the decoders of one read, besides the slices that are read."""
    kept_bytes: int = 0
    """Taken by the slices that are kept where fewer are read than lie in a chunk."""
    spacing: Spacing | None = None
    """None: the file does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawShape:
    """The meaning of the bytes of a file that has no header."""

    shape: tuple[int, ...]
    dtype: str
    """As numpy writes it, byte order included: `<u2`."""
    order: Literal["C", "F"]
    """Fastest axis: the last (C), or the first (F)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Options on how a volume is read; all None for a folder."""

    node: str | None = None
    """Path of an array within the file or group, as it stands behind `::`; None: the only one."""
    axis: int | None = None
    """Spatial axis to slice along; None: the first."""
    slices: tuple[int | None, int | None] | None = None
    """First slice and the one after the last; None: all."""
    level: int | None = None
    """Resolution level of an OME-Zarr image; None: 0, the finest."""
    fill_missing_chunks: bool = False
    """Take what a zarr array or HDF5 dataset lacks for its fill value, instead of refusing it."""
    follow_links: bool = False
    """Take pixels from other files that the input names wherever they are, not only from those beside or below."""
    raw: RawShape | None = None
    """Take a file for pixels and nothing else."""
    axes: str | None = None
    """One of `t`, `c`, `z`, `y`, `x` per axis of a volume; None: as the file says, or by their lengths."""
    channels: ChannelChoice = ()
    """Channels that are taken of each slice."""
    channel_files: ChannelFiles | None = None
    """In a folder: names of the files that hold one channel each; None: a file is a picture."""
    taken: int | None = None
    """Channels that the model takes, by which they are told from slices; None: there is no model."""
    as_labels: bool = False
    """Take a palette image's indices, not their colours, and leave out the probabilities that lie beside labels."""

    def named(self) -> str | None:
        """The first option that is set, as the user wrote it; for inputs to which none applies."""
        options = {
            "--axis": self.axis,
            "--axes": self.axes,
            "--range": self.slices,
            "--level": self.level,
            "--raw": self.raw,
        }
        return next((option for option, value in options.items() if value is not None), None)


class Source(ABC):
    """Slices that can be read in any order, by several threads at a time."""

    location: str
    """The input as the user named it."""
    beside: Path
    """The input's path without suffixes, from which default output names are made."""
    identity: InputIdentity
    slices: Sequence[Slice]
    skipped: tuple[Skipped, ...] = ()
    volume: Volume | None = None
    """None for a folder, whose images may differ in shape and dtype."""

    @property
    def first(self) -> int:
        """Place of the first slice in the input, which a range begins at."""
        return 0 if self.volume is None else self.volume.start

    @abstractmethod
    def read(self, start: int, stop: int) -> Sequence[PixelArray]:
        """Slices `start` to `stop` (exclusive), each (H, W) or (H, W, C) in its stored dtype, or an ImageError."""

    def look(self, index: int) -> PixelArray:
        """One slice of a sample, as `read` gives it; it may be kept for whoever reads it next."""
        return self.read(index, index + 1)[0]

    def read_unchanged(self, slices: Sequence[Slice]) -> list[tuple[PixelArray, str]]:
        """Consecutive slices as `read` gives them, with their files' identities; an ImageError where one changes."""
        start, stop = slices[0].index, slices[-1].index + 1
        before = [item.identity for item in slices]
        for _ in range(2):  # once more where a file changed after it was listed, and not while it was read
            arrays = self.read(start, stop)
            after = [self.current_identity(index) for index in range(start, stop)]
            if after == before:
                return list(zip(arrays, after, strict=True))
            before = after
        raise ImageError(slices[0].where, "changed while it was read; run again when it is complete")

    def current_identity(self, index: int) -> str:
        """The identity of a slice's file as it is now, to notice one that changes under our hands."""
        return self.slices[index].identity

    def require_neighbours(self) -> None:
        """Refuse with a UsageError what has no order of slices, or a single one."""
        if self.volume is None or len(self.volume.shape) < 3 or self.volume.shape[self.volume.axis] == 1:
            raise no_neighbours(self.location, "one image")

    @abstractmethod
    def neighbours(self, index: int, context: int) -> tuple[Slice, ...]:
        """A slice in the middle of those around it, (2 * context + 1) in their order, also beyond a range.

        At the ends, and at a gap in the numbers of images, the last slice before it stands again.
        """

    def data_bar(self, index: int) -> int | None:  # noqa: ARG002 (most formats hold no pictures of microscopes)
        """Rows at the foot of a slice that are a bar of data, as its file says; None: it does not say."""
        return None

    def new_files(self) -> tuple[Path, ...]:
        """Images that have come to the input since it was opened, and are not among its slices."""
        return ()

    def warnings(self) -> tuple[str, ...]:
        """Doubts about the input as a whole, each in words for a person."""
        return ()

    def voxel_size(self) -> VoxelSize | None:
        """The voxel size that the input itself states; None where it says nothing that can be relied on."""
        if self.volume is None or self.volume.spacing is None:
            return None
        spacing = self.volume.spacing
        return voxel_of_scale(spacing.scale, spacing.units, self.volume.axis, "the input")

    def keep_little(self) -> None:  # noqa: B027 (most sources keep nothing)
        """Let go of what a sample has left, and keep no more than `Volume.kept_bytes` from now on."""

    def close(self) -> None:  # noqa: B027 (a source without open files has nothing to do)
        """Release files."""


def no_neighbours(location: str, found: str) -> UsageError:
    """The refusal of slices that are to be seen with those above and below them."""
    return UsageError(
        f"{location}: expected a volume, or images with numbers that follow each other, because each is seen with its "
        f"neighbours (context), found {found}; name the whole scan, and nothing else in its folder"
    )


def neighbours_digest(slices: Sequence[Slice]) -> str:
    """Changes when images that a slice is seen with do, or are others."""
    return hashlib.sha256("\n".join(f"{item.name}: {item.identity}" for item in slices).encode()).hexdigest()


class FileState(NamedTuple):
    """Size in bytes and time of the last change in nanoseconds, and that time in seconds."""

    identity: str
    changed: float


def file_state(path: Path | os.DirEntry[str]) -> FileState:
    """Look at a file, or raise the ImageError of one that is gone."""
    try:
        status = path.stat()
    except OSError as error:
        raise ImageError(Path(path), f"cannot be read: {error.strerror or error}") from error
    return FileState(f"{status.st_size} bytes, changed {status.st_mtime_ns}", status.st_mtime)


def file_identity(path: Path) -> str:
    """As `file_state` has it."""
    return file_state(path).identity


def require_output_name(where: str, name: str) -> None:
    """Refuse with a UsageError an input whose name labels cannot have."""
    if (problem := name_problem(name)) is not None:
        raise UsageError(
            f"{where}: labels cannot have the name of this input, because {problem}; rename it, or make a folder of "
            "links to it under other names"
        )


def refuse_growing_file(path: Path, before: FileState) -> None:
    """Refuse with a UsageError a file that has just changed, and has again at a second look."""
    if time.time() - before.changed > _FRESH_SECONDS:
        return
    time.sleep(_SETTLE_SECONDS)
    if file_identity(path) != before.identity:
        raise UsageError(
            f"{path}: is still being written; run again when it is complete, or with --watch for a folder that fills up"
        )
