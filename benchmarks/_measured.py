"""Measurements of networks as they are kept between runs, and the tables they are printed as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from _common import Report, median, paired_ratio, spread, verdict
from _turns import Outcome

from matseg_shared.errors import UsageError
from matseg_shared.system.files import write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to label a slice."""

    name: str
    milliseconds: list[float]
    """A slice, one entry per round; empty where it was left out."""
    left_out: str | None = None
    limit: str | None = None
    """`fp32` or `int8`: the rate of which products bounds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures measured side by side."""

    title: str
    date: str
    machine: list[str]
    size: int
    """Edge of the slices in pixels."""
    operations: float
    """Operations of our form of the network, per slice."""
    rows: list[Row]
    reference: str
    """The row that ratios are taken to."""
    notes: list[str] = field(default_factory=list)
    goals: dict[str, float] = field(default_factory=dict)
    """Per row: how many times faster than the reference it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that was measured, each part by its last run."""

    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per number of threads and precision: operations a second of the quickest products."""
    sections: dict[str, Section] = field(default_factory=dict)


def load(path: Path) -> Measured:
    """Read the figures of an earlier run, or nothing.

    Raises:
        UsageError: the file is not one of ours.
    """
    if not path.exists():
        return Measured()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        sections = {
            name: Section(**{**section, "rows": [Row(**row) for row in section["rows"]]})
            for name, section in document["sections"].items()
        }
        return Measured(rates=document["rates"], sections=sections)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: expected the measurements of benchmarks/networks.py, found something else ({error}); "
            "remove the file and measure again"
        ) from error


def save(path: Path, measured: Measured) -> None:
    """Write all measurements as JSON, whole or not at all."""
    write_text(path, json.dumps(asdict(measured), indent=1) + "\n")


def rows_of(outcomes: Mapping[str, Outcome], limits: Mapping[str, str]) -> list[Row]:
    """Outcomes as rows.

    Args:
        outcomes: of `take_turns`.
        limits: names of rows and the precision whose rate bounds them.
    """
    return [
        Row(
            name=name,
            milliseconds=outcome.milliseconds,
            left_out=outcome.left_out,
            limit=limits.get(name),
        )
        for name, outcome in outcomes.items()
    ]


def print_rates(report: Report, rates: Mapping[str, Mapping[str, float]]) -> None:
    """The machine's limit."""
    report.say("## The machine's matrix products\n")
    report.table(
        ["threads", "fp32, GOP/s", "int8, GOP/s"],
        [
            [threads, f"{rate['fp32'] / 1e9:.0f}", f"{rate['int8'] / 1e9:.0f}"]
            for threads, rate in sorted(rates.items())
        ],
    )


def print_section(report: Report, section: Section, rates: Mapping[str, float]) -> None:
    """One table: time, ratio to the reference, rate, and how far from the limit.

    Args:
        report: to print to.
        section: what was measured.
        rates: on as many threads as the rows have.
    """
    reference = next(row for row in section.rows if row.name == section.reference)
    limits = {kind: section.operations / rate * 1e3 for kind, rate in rates.items()}
    report.say(f"## {section.title}\n\nMeasured on {section.date}.")
    for line in section.machine:
        if line.startswith("WARNING"):
            report.say(line)
    if section.operations:
        bounds = ", ".join(f"{kind} {limit:.3g} ms" for kind, limit in sorted(limits.items()))
        report.say(
            f"{section.operations / 1e9:.1f} GOP a slice in our form; at the rate of the quickest products {bounds}."
        )
    for note in section.notes:
        report.say(note)
    report.say()
    header = ["what", "ms a slice", "Mpixel/s", "times faster", "goal", "x the limit"]
    report.table(header, [_cells(row, section, reference, limits) for row in section.rows])


def _cells(row: Row, section: Section, reference: Row, limits: Mapping[str, float]) -> list[str]:
    if not row.milliseconds:
        return [row.name, f"left out: {row.left_out}", "", "", "", ""]
    middle = median(row.milliseconds)
    faster = _times_faster(row, reference)
    goal = section.goals.get(row.name)
    limit = limits.get(row.limit or "")
    return [
        row.name,
        spread(row.milliseconds),
        f"{section.size**2 / middle / 1e3:.3g}",
        "" if faster is None else f"{faster:.3g}",
        "" if goal is None or faster is None else verdict(faster, goal, at_least=True),
        f"{middle / limit:.2f}" if limit and section.operations else "",
    ]


def _times_faster(row: Row, reference: Row) -> float | None:
    """Paired within rounds where both have as many."""
    if not reference.milliseconds:
        return None
    if len(reference.milliseconds) == len(row.milliseconds):
        return paired_ratio(reference.milliseconds, row.milliseconds)
    return median(reference.milliseconds) / median(row.milliseconds)
