"""Choice of a run's slices to show: evenly spread ones, and those that stand out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from matseg_runtime.measure.phase_fractions import disagreement_share
from matseg_runtime.records import SliceRecord
from matseg_runtime.run.thumbnails import MOST, SPREAD, evenly_spread

_CLASSES = 4
"""The classes whose extremes are shown; with many classes the most common ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One slice to show."""

    record: SliceRecord
    reasons: tuple[str, ...]
    """Reasons; empty for an evenly spread one."""


def choose_slices(
    records: Sequence[SliceRecord], names: Sequence[str], proposed: Collection[str] = ()
) -> tuple[Choice, ...]:
    """At most `MOST` slices, by position.

    Args:
        records: of all labelled slices, by position.
        names: of the classes.
        proposed: names of slices that were proposed for labelling.
    """
    reasons: dict[int, list[str]] = {}
    labels = [(at, "worth a label") for at, record in enumerate(records) if record.name in proposed]
    for position, reason in [*_outstanding(records, names), *labels]:
        if position in reasons or len(reasons) < MOST - SPREAD:
            reasons.setdefault(position, []).append(reason)
    for position in evenly_spread(len(records)):
        reasons.setdefault(position, [])
    return tuple(
        Choice(record=records[position], reasons=tuple(reasons[position])) for position in sorted(reasons)
    )


def fraction(record: SliceRecord, index: int) -> float:
    """Share of a class in a slice."""
    return record.counts[index] / max(1, sum(record.counts))


def _outstanding(records: Sequence[SliceRecord], names: Sequence[str]) -> list[tuple[int, str]]:
    """(position, reason) of extremes; a stack in which all slices are equal has none."""
    totals = [sum(record.counts[index] for record in records) for index in range(len(names))]
    common = sorted(range(len(names)), key=lambda index: -totals[index])[:_CLASSES]
    measures: list[tuple[Callable[[SliceRecord], float], str, str]] = [
        (doubtful_share, "most doubtful pixels", ""),
        (disagreement_share, "most pixels where axes disagree", ""),
        (lambda record: record.drift, "intensities least like the training set's", ""),
        *(
            (partial(fraction, index=index), f"most {names[index]}", f"least {names[index]}")
            for index in common
        ),
    ]
    found = []
    for measure, most, least in measures:
        values = [measure(record) for record in records]
        if values and max(values) > min(values):
            found.append((values.index(max(values)), most))
            if least:
                found.append((values.index(min(values)), least))
    return found


def doubtful_share(record: SliceRecord) -> float:
    """Share of pixels in doubtful places; 0 where the run did not measure it."""
    if record.uncertainty is None:
        return 0.0
    return record.uncertainty.doubtful / max(1, sum(record.counts))
