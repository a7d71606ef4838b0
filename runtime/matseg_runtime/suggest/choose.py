"""Which slices or crops are worth a label: the most uncertain ones that are not nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matseg_runtime.records import SliceRecord
from matseg_runtime.suggest.uncertainty import FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A crop of a slice, in pixels."""

    y: int
    x: int
    height: int
    width: int

    def overlaps(self, other: Box) -> bool:
        """True where both have a pixel in common."""
        return (
            self.y < other.y + other.height
            and other.y < self.y + self.height
            and self.x < other.x + other.width
            and other.x < self.x + self.width
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A slice or crop that is worth a label."""

    record: SliceRecord
    box: Box | None
    """None: the whole slice."""
    score: float
    """Share of its pixels in doubtful places."""
    unsureness: float
    """Mean of one minus the confidence."""


def default_spacing(slices: int, count: int) -> int:
    """Half of what `count` slices would be apart if they were spread evenly: so there are always that many."""
    return max(1, slices // (2 * count))


def choose(records: Sequence[SliceRecord], count: int, edge: int | None, spacing: int) -> tuple[Chosen, ...]:
    """The most uncertain first; fewer than `count` where no more are far enough apart.

    Neighbouring slices of a stack look nearly the same, and so does the same place in them: whole slices are at least
    `spacing` apart along the stack; crops may be nearer where they do not overlap as seen along it.

    Args:
        records: of all slices, each with its uncertainty.
        count: how many to choose.
        edge: of the crops the records have; None: whole slices.
        spacing: in slices; 1: any may be chosen.
    """
    candidates = [
        item for record in records for item in (_whole(record) if edge is None else _crops(record, edge))
    ]
    candidates.sort(key=lambda item: (-item.score, -item.unsureness, item.record.index))
    chosen: list[Chosen] = []
    for item in candidates:
        if len(chosen) == count:
            break
        if not any(_alike(item, other, spacing) for other in chosen):
            chosen.append(item)
    return tuple(chosen)


def _alike(one: Chosen, other: Chosen, spacing: int) -> bool:
    near = abs(one.record.index - other.record.index) < spacing
    return near and (one.box is None or other.box is None or one.box.overlaps(other.box))


def _whole(record: SliceRecord) -> list[Chosen]:
    found = record.uncertainty
    assert found is not None, "every slice is measured before any is chosen"
    return [_chosen(record, None, found.doubtful, found.unsureness, record.shape[0] * record.shape[1])]


def _crops(record: SliceRecord, edge: int) -> list[Chosen]:
    found = record.uncertainty
    assert found is not None, "every slice is measured before any is chosen"
    height, width = min(edge, record.shape[0]), min(edge, record.shape[1])
    return [
        _chosen(
            record,
            Box(y=crop.y, x=crop.x, height=height, width=width),
            crop.doubtful,
            crop.unsureness,
            height * width,
        )
        for crop in found.crops
    ]


def _chosen(record: SliceRecord, box: Box | None, doubtful: int, unsure: int, pixels: int) -> Chosen:
    return Chosen(record=record, box=box, score=doubtful / pixels, unsureness=unsure / FULL / pixels)
