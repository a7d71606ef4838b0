"""How a job is cut up: units of slices, tiles, batches and threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matseg_runtime.ledger import Ledger, Part
from matseg_runtime.pipeline import Crew
from matseg_runtime.sink.base import Sink, Unit
from matseg_runtime.source.base import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is decided before the first slice is read."""

    tile: tuple[int, int] | None
    """(rows, columns) of the largest tile in pixels; None: whole slices."""
    batch: int
    """Tiles per call of the network."""
    unit: int
    """Slices that are read, written and recorded together."""
    crew: Crew


def pending_units(source: Source, sink: Sink, ledger: Ledger, unit: int, part: Part) -> Iterator[Unit]:
    """Units with something left to do, in order; only those of this process's part."""
    for number, start in enumerate(range(0, len(source.slices), unit)):
        if not part.owns(number):
            continue
        slices = source.slices[start : start + unit]
        missing = tuple(item for item in slices if item.name not in ledger.done)
        if missing:
            yield Unit(number=number, slices=slices if sink.whole_units else missing)
