"""The slices or crops that are worth a label: the most uncertain ones that are not nearly the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matseg_runtime.records import CropScore, SliceRecord, SliceUncertainty
from matseg_runtime.suggest.uncertainty import FULL
from matseg_shared.contract.tiling import Box
from matseg_shared.system.files import write_csv

SCORES_NAME = "uncertainty.csv"


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
    `spacing` apart along the stack; crops (of an `edge` in pixels, where it is given) may be nearer where they do not
    overlap as seen along it.
    """
    candidates = [item for record in records for item in _candidates(record, edge)]
    candidates.sort(key=lambda item: (-item.score, -item.unsureness, item.record.index))
    chosen: list[Chosen] = []
    for item in candidates:
        if len(chosen) == count:
            break
        near = [other for other in chosen if abs(item.record.index - other.record.index) < spacing]
        if not any(item.box is None or other.box is None or item.box.common(other.box) for other in near):
            chosen.append(item)
    return tuple(chosen)


def write_scores(
    path: Path, records: Sequence[SliceRecord], chosen: Sequence[Chosen], first: int = 0
) -> None:
    """Write a CSV: a row per slice; `first` is the position of the first one in the input.

    Columns: slice; position in the input, from 0; score, the share of pixels in doubtful places; unsureness, the mean
    of one minus the probability of the best class; and how often the slice was chosen, whole or for crops.

    Raises:
        OutputError: it cannot be written.
    """
    times = Counter(item.record.name for item in chosen)
    rows: list[tuple[object, ...]] = [("slice", "position", "score", "unsureness", "chosen")]
    for record in records:
        (whole,) = _candidates(record, None)
        scores = (f"{whole.score:.6g}", f"{whole.unsureness:.6g}")
        rows.append((record.name, first + record.index, *scores, times[record.name]))
    write_csv(path, rows)


def _candidates(record: SliceRecord, edge: int | None) -> Iterator[Chosen]:
    """The whole slice, or its crops."""
    found = record.uncertainty
    assert found is not None, "every slice is measured before any is chosen"
    height, width = record.shape
    scored: list[tuple[Box | None, SliceUncertainty | CropScore]] = [(None, found)]
    if edge is not None:
        height, width = min(edge, height), min(edge, width)
        scored = [(Box(crop.y, crop.x, crop.y + height, crop.x + width), crop) for crop in found.crops]
    for box, item in scored:
        pixels = height * width if box is not None else max(1, sum(record.counts))
        yield Chosen(
            record=record,
            box=box,
            score=item.doubtful / pixels,
            unsureness=item.unsureness / FULL / pixels,
        )
