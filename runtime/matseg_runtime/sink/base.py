"""The interface of every sink of labels, and what it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.records import SliceRecord
from matseg_runtime.source.base import Slice, Spacing
from matseg_runtime.source.transform import Absent
from matseg_runtime.units import VoxelSize
from matseg_shared.contract.metadata import ModelMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Slices that are read, written and recorded together."""

    number: int
    """Position among the blocks of the whole input, from 0."""
    slices: tuple[Slice, ...]
    """Without those that are done, where a sink can write single slices."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One slice of a block after inference."""

    slice: Slice
    identity: str
    """Identity of its input file, when it was read."""
    segmentation: Segmentation | None
    """None: it was excluded."""
    reason: str = ""
    """Reason for which it was excluded."""
    counts: tuple[int, ...] = ()
    """Pixels per class."""
    disagreement: int | None = None
    """Pixels for which the axes of a consensus have not all one class; None: there is one axis."""
    drift: float = 0.0
    clipped: int = 0
    """Pixels beyond the window."""
    absent: Absent | None = None
    """Mask of pixels without data; None: all have data."""
    neighbours: str | None = None
    """See `SliceRecord.neighbours`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelVolume:
    """The shape of an output that holds all slices."""

    shape: tuple[int, int, int]
    """(Z, Y, X), axes as in the input."""
    axis: int
    """Number of the one that slices are cut along."""
    spacing: Spacing
    """Place of the labels, the start of a range taken into account."""

    @property
    def slice_shape(self) -> tuple[int, int]:
        """(H, W) of one slice."""
        rows, columns = (length for axis, length in enumerate(self.shape) if axis != self.axis)
        return rows, columns

    @property
    def depth(self) -> int:
        """Slices."""
        return self.shape[self.axis]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelInfo:
    """The information about labels that the files of an output carry."""

    metadata: ModelMetadata
    """The model's, for class names and colours."""
    provenance: str
    """JSON that each file carries."""
    voxel: VoxelSize | None = None
    """As slices show it; None where nobody knows. A zarr's is in its `LabelVolume`."""


class Sink(ABC):
    """Takes the results of whole blocks; may be called by several threads at a time, never twice for one block.

    All methods raise an OutputError where files cannot be written, deleted, or brought back to a sound state.
    """

    path: Path
    """The file or folder that the user will open."""
    ledger_folder: Path
    report_folder: Path
    """Folder of the report and the phase fractions."""
    whole_units: bool
    """True: a block is written with all its slices or not at all; False: single slices may be left out."""

    @abstractmethod
    def check_place(self, *, overwrite: bool) -> None:
        """Refuse to write where something stands that is not ours.

        Raises:
            UsageError: something does; says what to do.
        """

    @abstractmethod
    def remove_earlier(self, names: Sequence[str]) -> None:
        """Delete earlier results of ours, those of the slices `names` among them, but not their ledger."""

    @abstractmethod
    def clean(self, *, is_new: bool) -> None:
        """Delete what killed processes left unfinished; only while no other process works on the output.

        An unfinished output is worth nothing where it `is_new`: no block of the job is done.
        """

    @abstractmethod
    def start(self) -> None:
        """Make the place for the results; harmless when an earlier run, or another part, has done so."""

    @abstractmethod
    def lost(self, records: Iterable[SliceRecord]) -> tuple[str, ...]:
        """Names of those slices that were done and whose output is no longer there, or no longer whole.

        Noticed by the names and sizes of files, not by what is in them.
        """

    def withdraw(self, record: SliceRecord) -> None:  # noqa: ARG002 (where slices share a file, it is written over)
        """Delete what is left of a slice whose input has changed, if it has files of its own."""
        return

    @abstractmethod
    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:
        """Write a block's results; they are durable on return.

        Returns:
            For each result the bytes of the files that hold it, 0 where it has none.
        """

    @abstractmethod
    def finish(self) -> None:
        """Give the complete output its final name; harmless when that has happened already."""
