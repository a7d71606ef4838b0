"""What a run leaves behind about itself: provenance in the outputs, a report beside them, a summary on the screen."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matseg_runtime.inference.session import SelfTestResult
from matseg_runtime.ledger import Part
from matseg_runtime.measure.measurer import Costs
from matseg_runtime.measure.phase_fractions import PhaseFraction
from matseg_runtime.records import ExcludedSlice, JobKey, SliceRecord
from matseg_runtime.run.pipeline import StageTimes
from matseg_runtime.source.base import Skipped
from matseg_runtime.units import PIXEL, VoxelSize
from matseg_shared.console.command import EXIT_DONE, EXIT_EXCLUDED
from matseg_shared.system.files import write_text
from matseg_shared.system.names import as_text

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
"""For people; beside it."""
MUCH_CLIPPED = 0.5
"""Share of a slice's pixels beyond the window from which on a summary warns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run of matseg-run, finished."""

    key: JobKey
    model: Path
    proofs: tuple[str, ...]
    """Why the model was trusted."""
    input: str
    output: Path
    provider: str
    provider_reason: str
    self_test: SelfTestResult
    threads: int
    started: str
    """UTC, ISO 8601."""
    finished: str
    slices: int
    """Of the input."""
    labelled: int
    """In this run."""
    labelled_before: int
    pixels: int
    """Labelled in this run."""
    constant: int
    """Of these pixels, those in constant regions, for which the network was not asked again."""
    clipped: int
    """Of these pixels, those beyond the window."""
    excluded: tuple[ExcludedSlice, ...]
    skipped: tuple[Skipped, ...]
    fractions: tuple[PhaseFraction, ...]
    times: StageTimes | None
    """None when nothing was left to do."""
    is_final: bool
    """Whether every slice is labelled or excluded, by this process or others, and the output has its final form."""
    part: Part = field(default_factory=Part)
    warnings: tuple[str, ...] = ()
    voxel: VoxelSize | None = None
    """None: not known, so lengths are in pixels."""
    quantities: tuple[str, ...] = ()
    """Of the regions of each class, for a person; empty when they were not measured."""
    uncertain: Path | None = None
    """Folder of what is proposed for labelling."""
    proposals: int = 0
    costs: Costs | None = None
    """Of measuring; None when nothing was to be measured, or others have measured it."""
    page: Path | None = None
    """The report for people, where one was made."""
    no_page: str | None = None
    """Why none was made although it was wanted."""

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return EXIT_EXCLUDED if self.excluded else EXIT_DONE

    @property
    def megapixels_per_second(self) -> float:
        """Of the whole pipeline, start-up excluded."""
        return self.pixels / 1e6 / self.times.wall if self.times is not None and self.times.wall > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": as_text(self.model),
            "model_proofs": list(self.proofs),
            "input": self.input,
            "output": str(self.output),
            "provenance": provenance_dict(self.key),
            "provider_reason": self.provider_reason,
            "self_test": dataclasses.asdict(self.self_test),
            "threads": self.threads,
            "started": self.started,
            "finished": self.finished,
            "platform": platform.platform(),
            "slices": self.slices,
            "part": str(self.part),
            "labelled": self.labelled,
            "labelled_before": self.labelled_before,
            "complete": self.is_final and not self.excluded,
            "excluded": [record.model_dump(exclude={"index"}) for record in self.excluded],
            "skipped": [{"path": as_text(entry.path), "reason": entry.reason} for entry in self.skipped],
            "phase_fractions": [dataclasses.asdict(item) for item in self.fractions],
            "voxel_size": None if self.voxel is None else dataclasses.asdict(self.voxel),
            "unit": PIXEL if self.voxel is None else self.voxel.unit,
            "uncertain": None if self.uncertain is None else str(self.uncertain),
            "proposals": self.proposals,
            "measuring_seconds": None if self.costs is None else self.costs.as_dict(),
            "pixels": self.pixels,
            "constant_pixels": self.constant,
            "clipped_pixels": self.clipped,
            "megapixels_per_second": round(self.megapixels_per_second, 3),
            "stages": None if self.times is None else _stages(self.times),
            "warnings": list(self.warnings),
            "page": None if self.page is None else str(self.page),
        }


def provenance_dict(key: JobKey) -> dict[str, Any]:
    """What made an output; without the time, so that equal jobs give equal bytes."""
    return {
        **key.model_dump(mode="json"),
        "versions": {name: _version(name) for name in ("matseg", "numpy", *_runtime_names())},
    }


def provenance_text(key: JobKey) -> str:
    """As compact JSON, for the outputs themselves."""
    return json.dumps(provenance_dict(key), separators=(",", ":"))


def write_report(path: Path, summary: Summary) -> None:
    """Write the summary as JSON."""
    write_text(path, json.dumps(summary.as_dict(), indent=1) + "\n")


def summary_lines(summary: Summary) -> list[str]:
    """The summary for a person, one fact a line."""
    before = "before" if summary.part.total == 1 else "before or by others"
    lines = [
        f"{summary.labelled} of {summary.slices} slices labelled in this run"
        + (f", {summary.labelled_before} {before}" if summary.labelled_before else "")
    ]
    lines += [f"skipped {entry.path}: {entry.reason}" for entry in summary.skipped]
    lines += [f"excluded {record.reason}" for record in summary.excluded]
    lines += [f"warning: {text}" for text in summary.warnings]
    if summary.times is not None and summary.labelled:
        lines.append(
            f"{summary.times.wall:.1f} s, {summary.megapixels_per_second:.2f} Mpixel/s on {summary.provider} "
            f"({summary.provider_reason}); the slowest stage was {summary.times.bottleneck}"
        )
    if summary.constant:
        lines.append(
            f"{summary.constant / summary.pixels:.1%} of the pixels needed no network: constant regions"
        )
    if summary.clipped:
        lines.append(
            f"{summary.clipped / summary.pixels:.1%} of the pixels lie beyond --window and were clipped"
        )
    # what is said of the regions begins with the fraction
    lines += summary.quantities or [f"{item.name}: {item.fraction:.4%}" for item in summary.fractions]
    if summary.costs is not None:
        costs = {"regions": summary.costs.regions, "uncertainty": summary.costs.uncertainty}
        spent = ", ".join(f"{seconds:.1f} s ({name})" for name, seconds in costs.items() if seconds)
        lines += [f"measuring took {spent}"] if spent else []
    if summary.uncertain is not None:
        proposals = "1 proposal" if summary.proposals == 1 else f"{summary.proposals} proposals"
        lines.append(
            f"{proposals} for labelling: {summary.uncertain}; correct the labels in its train/labels"
        )
    if summary.is_final:
        lines.append(f"labels: {summary.output}")
        return lines if summary.page is None and summary.no_page is None else [*lines, _page_line(summary)]
    left = summary.slices - summary.labelled - summary.labelled_before - len(summary.excluded)
    return [
        *lines,
        f"part {summary.part} is done; {left} slices are left to others before {summary.output} is whole",
    ]


def _page_line(summary: Summary) -> str:
    return f"report: {summary.page}" if summary.page is not None else f"no report: {summary.no_page}"


def difference_warning(result: SelfTestResult) -> str | None:
    """What was accepted of a provider that does not give the export's labels."""
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


def _named(records: Sequence[SliceRecord], limit: int = 3) -> str:
    names = ", ".join(record.name for record in records[:limit])
    return names if len(records) <= limit else f"{names} and {len(records) - limit} more"


def _runtime_names() -> tuple[str, ...]:
    from matseg_runtime.inference.providers import installed_runtimes

    return installed_runtimes()


@functools.cache  # a look through the installed packages, 3 ms each
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _stages(times: StageTimes) -> dict[str, Any]:
    return {
        "seconds": round(times.wall, 3),
        "busy_seconds": {
            "reading": round(times.read, 3),
            "inference": round(times.infer, 3),
            "writing": round(times.write, 3),
        },
        "threads": {
            "reading": times.workers.readers,
            "inference": times.workers.inferrers,
            "writing": times.workers.writers,
        },
        "bottleneck": times.bottleneck,
    }
