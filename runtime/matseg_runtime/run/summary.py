"""Provenance in the outputs, warnings, and a summary on the screen."""

from __future__ import annotations

import functools
import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from matseg_runtime.inference.providers import installed_runtimes
from matseg_runtime.inference.session import SelfTestResult
from matseg_runtime.measure.report import MeasuringSeconds, Provenance, Report
from matseg_runtime.records import JobKey, SliceRecord
from matseg_shared.console.command import EXIT_DONE, EXIT_EXCLUDED

MUCH_CLIPPED = 0.5
"""Share of a slice's pixels beyond the window from which on a summary warns."""
_MANY = 5
_MOSTLY = 0.8
"""Slices of one size, and their share of all, from which on another size means something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run of matseg-run, finished."""

    report: Report
    """The content of `report.json`."""
    labelled: int
    """Slices in this run; the report keeps what an earlier one labelled where this one found nothing to do."""
    is_final: bool
    """True when every slice is labelled or excluded, by this process or others, and the output has its final form."""
    measured: MeasuringSeconds | None = None
    """Seconds of measuring in this run."""
    quantities: tuple[str, ...] = ()
    """Lines on the regions of each class; empty when they were not measured."""
    no_page: str | None = None
    """Why the report for people was not made although it was wanted."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return EXIT_EXCLUDED if self.report.excluded else EXIT_DONE


def provenance_of(key: JobKey) -> Provenance:
    """The job and the versions of what computes its labels."""
    versions = {name: _version(name) for name in ("matseg", "numpy", *installed_runtimes())}
    return Provenance(**key.model_dump(), versions=versions)


def summary_lines(summary: Summary) -> list[str]:
    """The summary for a person, one fact a line."""
    report, labelled = summary.report, summary.labelled
    done = report.labelled + report.labelled_before
    others = "before" if report.part == "1-of-1" else "before or by others"
    lines = [
        f"{labelled} of {report.slices} slices labelled in this run"
        + (f", {done - labelled} {others}" if done > labelled else "")
    ]
    lines += [f"skipped {entry.path}: {entry.reason}" for entry in report.skipped]
    lines += [f"excluded {record.reason}" for record in report.excluded]
    lines += [f"warning: {text}" for text in report.warnings]
    if labelled:
        lines += _speed_lines(report)
    # what is said of the regions begins with the fraction
    lines += summary.quantities or [f"{item.name}: {item.fraction:.4%}" for item in report.phase_fractions]
    if summary.measured is not None:
        spent = ", ".join(f"{seconds:.1f} s ({name})" for name, seconds in summary.measured if seconds)
        lines += [f"measuring took {spent}"] if spent else []
    if report.uncertain is not None:
        proposals = "1 proposal" if report.proposals == 1 else f"{report.proposals} proposals"
        lines.append(f"{proposals} for labelling: {report.uncertain}; correct the labels in its train/labels")
    if not summary.is_final:
        left = report.slices - done - len(report.excluded)
        return [
            *lines,
            f"part {report.part} is done; {left} slices are left to others before {report.output} is whole",
        ]
    lines.append(f"labels: {report.output}")
    if report.page is not None:
        lines.append(f"report: {report.page}")
    return lines if summary.no_page is None else [*lines, f"no report: {summary.no_page}"]


def _speed_lines(report: Report) -> list[str]:
    lines = []
    if report.stages is not None:
        lines.append(
            f"{report.stages.seconds:.1f} s, {report.megapixels_per_second:.2f} Mpixel/s on "
            f"{report.provenance.provider} ({report.provider_reason}); the slowest stage was {report.stages.bottleneck}"
        )
    if report.constant_pixels:
        lines.append(
            f"{report.constant_pixels / report.pixels:.1%} of the pixels needed no network: constant regions"
        )
    if report.clipped_pixels:
        lines.append(
            f"{report.clipped_pixels / report.pixels:.1%} of the pixels lie beyond --window and were clipped"
        )
    return lines


def difference_warning(result: SelfTestResult) -> str | None:
    """A warning when a provider does not give the export's labels, and that was accepted."""
    if result.passed:
        return None
    return (
        f"provider {result.provider} gives {result.mismatches} of {result.pixels} pixels of the self-test another "
        "label than the export did; accepted with --accept-difference"
    )


def drift_warning(records: Sequence[SliceRecord], threshold: float) -> str | None:
    """A warning when slices look different from the training set: half of them, or some, which are then named."""
    if not records:
        return None
    middle = sorted(record.drift for record in records)[len(records) // 2]
    if middle >= threshold:
        return (
            f"the intensities differ from those of the training set (drift {middle:.2f} of 1 in the median slice): "
            "look at some labels before you trust them"
        )
    strange = sorted(
        (record for record in records if record.drift >= threshold), key=lambda item: -item.drift
    )
    if not strange:
        return None
    return (
        f"the intensities of {len(strange)} of {len(records)} slices differ from the training set's (drift "
        f"of {threshold:g} or more of 1): {_named(strange)}; look at their labels before you trust them"
    )


def clipping_warning(records: Sequence[SliceRecord]) -> str | None:
    """A warning when a window leaves out much of some slices."""
    much = [
        record for record in records if record.clipped >= MUCH_CLIPPED * record.shape[0] * record.shape[1]
    ]
    if not much:
        return None
    return (
        f"in {len(much)} of {len(records)} slices half of the pixels or more lie beyond --window and were clipped: "
        f"{_named(much)}; look at their labels before you trust them"
    )


def size_warning(records: Sequence[SliceRecord]) -> str | None:
    """A warning when a few of many slices have another size than the rest, as a picture that lies among them has."""
    shapes = Counter(record.shape for record in records)
    usual, count = shapes.most_common(1)[0] if shapes else ((0, 0), 0)
    others = [record for record in records if record.shape != usual]
    if not others or count < max(_MANY, _MOSTLY * len(records)):
        return None
    return (
        f"{len(others)} of {len(records)} slices have another size than the {usual[0]} x {usual[1]} pixels of the "
        f"others: {_named(others)}; do they belong to this scan?"
    )


def _named(records: Sequence[SliceRecord], limit: int = 3) -> str:
    names = ", ".join(record.name for record in records[:limit])
    return names if len(records) <= limit else f"{names} and {len(records) - limit} more"


@functools.cache  # a look through the installed packages, 3 ms each
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
