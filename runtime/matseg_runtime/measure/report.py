"""Documents that a run leaves about itself: `report.json` beside its labels, and `origin.json` in its ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    field_serializer,
)

from matseg_runtime.inference.session import SelfTestResult
from matseg_runtime.measure.phase_fractions import PhaseFraction
from matseg_runtime.records import ExcludedSlice, JobKey
from matseg_runtime.source.base import RawShape, Skipped
from matseg_runtime.units import PIXEL, VoxelSize
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import OutputError
from matseg_shared.system.files import write_text
from matseg_shared.system.names import as_text

REPORT_NAME = "report.json"
MANIFEST_NAME = "origin.json"
QUANTITIES_NAME, SIZES_NAME, SUMMARY_NAME = "quantities.csv", "region_sizes.csv", "quantities.json"
"""Tables of the regions, where they were measured."""
REGIONS_3D_NAME, QUANTITIES_3D_NAME, SUMMARY_3D_NAME = (
    "regions_3d.csv",
    "quantities_3d.csv",
    "quantities_3d.json",
)
"""The same of regions in three dimensions."""

_OPEN = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
"""Fields that later versions add are left alone."""


class Provenance(JobKey):
    """The job and the versions that made an output; without the time, so that equal jobs give equal bytes."""

    model_config = _OPEN

    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that compute the labels."""

    def text(self) -> str:
        """Compact JSON, for the outputs themselves."""
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"))


class Stages(BaseModel):
    """Seconds of each stage."""

    model_config = _OPEN

    seconds: float
    busy_seconds: dict[str, float]
    """Summed over the threads of each stage."""
    threads: dict[str, int]
    bottleneck: str
    """The stage whose threads had the least time to wait."""


class Report(BaseModel):
    """One run; where it labelled nothing, the figures of the last one that did."""

    model_config = _OPEN

    model: str
    model_proofs: tuple[str, ...] = ()
    """Reason for which the model was trusted."""
    input: str
    output: str
    provenance: Provenance
    provider_reason: str = ""
    devices: tuple[str, ...] = ()
    """GPUs that shared the work, as in `cuda:0 NVIDIA A100`; empty: the CPU did it."""
    self_test: SelfTestResult | None = None
    threads: int
    started: str
    """UTC, ISO 8601."""
    finished: str
    platform: str = ""
    slices: int
    """Slices of the input."""
    part: str = ""
    labelled: NonNegativeInt
    """In the run."""
    labelled_before: NonNegativeInt
    """Or by others."""
    complete: bool = False
    """True when every slice is labelled and the output has its final form."""
    excluded: tuple[ExcludedSlice, ...] = Field(
        default=(), validation_alias=AliasChoices("excluded", "set_aside")
    )
    """Reports of earlier versions say `set_aside`."""
    skipped: tuple[Skipped, ...] = ()
    phase_fractions: tuple[PhaseFraction, ...] = Field(min_length=1)
    voxel_size: VoxelSize | None = None
    """None: not known, so lengths are in pixels."""
    unit: str = PIXEL
    uncertain: str | None = None
    """Folder of what is proposed for labelling."""
    proposals: int = 0
    pixels: int
    """Labelled in the run."""
    constant_pixels: int = 0
    """Pixels in constant regions, for which the network was not run again."""
    clipped_pixels: int = 0
    """Pixels beyond the window."""
    no_data_pixels: NonNegativeInt = 0
    """Pixels of all labelled slices that are no sample, have no label and are in no fraction."""
    rows_cut: NonNegativeInt = 0
    """Rows at the foot among them, in the slice that has most, such as a bar of data."""
    all_pixels: NonNegativeInt = 0
    """Pixels of all labelled slices; 0 in reports of earlier versions."""
    disagreeing_pixels: NonNegativeInt | None = None
    """Pixels of all labelled slices for which the axes of a consensus have not all one class; None: one axis."""
    megapixels_per_second: float = 0.0
    """Speed of the whole pipeline, start-up excluded."""
    stages: Stages | None = None
    """None when nothing was left to do."""
    warnings: tuple[str, ...] = ()
    page: str | None = None
    """The report for people, where one was made."""

    @property
    def place(self) -> str:
        """Provider and GPUs, for a person."""
        return ", ".join((self.provenance.provider, *self.devices))

    @field_serializer("skipped")
    def _skipped_as_text(self, skipped: tuple[Skipped, ...]) -> list[dict[str, str]]:
        return [{"path": as_text(item.path), "reason": item.reason} for item in skipped]

    def measured_by(self, earlier: Report) -> Report:
        """This report with the figures of an earlier run of the job, which labelled what this one found done."""
        measured = (
            "provenance", "provider_reason", "devices", "self_test", "threads", "started", "finished", "platform",
            "part", "pixels", "constant_pixels", "clipped_pixels", "megapixels_per_second", "stages",
        )  # fmt: skip
        done = self.labelled + self.labelled_before
        labelled = min(earlier.labelled, done)  # images may have been taken away since
        return self.model_copy(
            update={
                **{name: getattr(earlier, name) for name in measured},
                "labelled": labelled,
                "labelled_before": done - labelled,
            }
        )


def write_report(path: Path, report: Report) -> None:
    """Write the report as JSON.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, json.dumps(report.model_dump(mode="json"), indent=1) + "\n")


def read_report(path: Path) -> Report:
    """Read what a run left.

    Raises:
        OSError: it cannot be read.
        ValidationError: it is no report.
    """
    return Report.model_validate_json(path.read_bytes())


class Manifest(BaseModel):
    """Facts about a complete run that are nowhere else once its model is out of reach, for its page."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    origin_version: Literal[1] = 1
    input: str
    """Absolute path, or URL, of the input; `::/path` after it as the user gave it."""
    fill_missing_chunks: bool
    raw: RawShape | None = None
    """Layout of plain pixels, as the user gave it."""
    cores: int
    """That the last run could use."""
    machine: str
    """Host name of the last run."""
    model: ModelMetadata


def read_manifest(folder: Path) -> Manifest | None:
    """Read a ledger's manifest; None where an earlier version of matseg wrote it.

    Raises:
        OutputError: it is damaged, or of a later version.
    """
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        found = "something else" if isinstance(error, ValidationError) else f"that it cannot be read: {error}"
        raise OutputError(
            f"{path}: expected what matseg-run noted there about its model, found {found}"
        ) from error
