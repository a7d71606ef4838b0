"""What every sink of labels offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matseg_runtime.ledger import SliceRecord
from matseg_runtime.segment import Segmentation
from matseg_runtime.source.base import Slice

UNLABELLED = 255
"""In volumes: a pixel that no slice could give a label; no class has this index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Consecutive slices that are read, written and recorded together."""

    number: int
    """Position among the units of the whole input, from 0."""
    slices: tuple[Slice, ...]
    """Without those that are done, where a sink can write single slices."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One slice of a unit after inference."""

    slice: Slice
    identity: str
    """Of its input file, when it was read."""
    segmentation: Segmentation | None
    """None: it was set aside."""
    reason: str = ""
    """Why it was set aside."""
    counts: tuple[int, ...] = ()
    """Pixels per class."""
    drift: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A unit whose bytes are durable."""

    unit: Unit
    bytes: tuple[int, ...] = field(default=())
    """Size of each slice's own file, where it has one."""


class Sink(ABC):
    """Takes the results of whole units; may be called by several threads at a time, never twice for one unit."""

    path: Path
    """What the user will open."""
    ledger_folder: Path
    whole_units: bool
    """True: a unit is written with all its slices or not at all; False: single slices may be left out."""

    @abstractmethod
    def start(self) -> None:
        """Make the place for the results; harmless when an earlier run has done so.

        Raises:
            OutputError: it cannot be made.
        """

    @abstractmethod
    def holds(self, record: SliceRecord) -> bool:
        """Whether the output of a slice that was done earlier is still there."""

    @abstractmethod
    def write(self, unit: Unit, results: Sequence[Result]) -> Written:
        """Write a unit's results; they are durable on return.

        Raises:
            OutputError: they cannot be written.
        """

    @abstractmethod
    def finish(self) -> None:
        """Give the complete output its final name; harmless when that has happened already.

        Raises:
            OutputError: it cannot be done.
        """
