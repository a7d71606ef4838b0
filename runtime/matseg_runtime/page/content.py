"""The words and numbers of a run's page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matseg_runtime.measure.phase_fractions import DRIFT_WARNING
from matseg_runtime.measure.report import Report
from matseg_runtime.page.choose import fraction
from matseg_runtime.page.measures import Measures, Proposals
from matseg_runtime.page.record import RunRecord
from matseg_runtime.page.slices import Pictures, ShownSlice
from matseg_runtime.records import ExcludedSlice, SliceRecord
from matseg_runtime.source.base import Skipped
from matseg_runtime.units import VoxelSize
from matseg_shared.images.palette import Colour
from matseg_shared.pages.page import count
from matseg_shared.pages.parts import Fact
from matseg_shared.pages.pictures import visible_colours

_MOST_LISTED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class over all slices."""

    name: str
    colour: Colour
    fraction: float
    amount: str
    """Pixels, area or volume, with its unit."""
    lowest: float | None
    middle: float | None
    highest: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage of the pipeline."""

    name: str
    threads: int
    busy: float
    """Seconds, of all its threads."""
    share: float
    """Of the time that its threads had."""
    is_bottleneck: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRow:
    """Another process that took part."""

    part: str
    labelled: int
    seconds: float | None
    speed: float
    bottleneck: str
    platform: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """What the template shows."""

    title: str
    lead: str
    warnings: tuple[str, ...]
    missing: tuple[str, ...]
    tiles: tuple[Fact, ...]
    shown: tuple[ShownSlice, ...]
    shown_text: str
    classes: tuple[ClassRow, ...]
    amount_title: str
    fractions_text: str
    fraction_charts: tuple[str, ...]
    intensity_charts: tuple[str, ...]
    intensity_missing: str
    drift_text: str
    drift_kind: str
    stages: tuple[StageRow, ...]
    stages_text: str
    parts: tuple[PartRow, ...]
    excluded: tuple[ExcludedSlice, ...]
    excluded_more: str
    skipped: tuple[Skipped, ...]
    provenance: tuple[Fact, ...]
    measures: Measures | None
    proposals: Proposals | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCharts:
    """Names of the charts, by section."""

    fractions: tuple[str, ...]
    intensities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What only some runs have."""

    measures: Measures | None
    proposals: Proposals | None


def run_content(
    record: RunRecord,
    pictures: Pictures,
    missing: Sequence[str],
    charts: PageCharts,
    extras: Extras,
) -> RunContent:
    """Put everything into words."""
    report = record.report
    drift_text, drift_kind = _drift(record)
    amount_title, rows = class_rows(record)
    return RunContent(
        title=f"{report.provenance.model_name} on {report.provenance.input_name}",
        lead=f"{report.input} → {report.output}, finished {_readable(report.finished)}",
        warnings=report.warnings,
        missing=tuple(missing),
        tiles=_tiles(record),
        shown=pictures.slices,
        shown_text=_shown_text(record, pictures),
        classes=rows,
        amount_title=amount_title,
        fractions_text=_voxel_text(_voxel(record)),
        fraction_charts=charts.fractions,
        intensity_charts=charts.intensities,
        measures=extras.measures,
        proposals=extras.proposals,
        intensity_missing="The training histogram is not known here: the run was made by an earlier version of "
        "MatSeg; label again with this one."
        if record.manifest is None
        else "No slice could be read again.",
        drift_text=drift_text,
        drift_kind=drift_kind,
        stages=_stages(report),
        stages_text=_stages_text(report),
        parts=tuple(_part(item) for item in record.parts),
        excluded=record.excluded[:_MOST_LISTED],
        excluded_more=_more(record),
        skipped=report.skipped[:_MOST_LISTED],
        provenance=_provenance(record),
    )


def class_rows(record: RunRecord) -> tuple[str, tuple[ClassRow, ...]]:
    """The title of the column of amounts, and a row per class."""
    voxel = _voxel(record)
    if voxel is None:
        title, scale, unit = "pixels", None, ""
    elif voxel.step is None:
        title, scale, unit = f"area ({voxel.unit}²)", voxel.row * voxel.column, f"{voxel.unit}²"
    else:
        title, scale, unit = (
            f"volume ({voxel.unit}³)",
            voxel.row * voxel.column * voxel.step,
            f"{voxel.unit}³",
        )
    rows = []
    colours = visible_colours([item.colour for item in record.classes])
    for item, colour, total in zip(record.classes, colours, record.report.phase_fractions, strict=True):
        shares = [fraction(entry, item.index) for entry in record.slices]
        rows.append(
            ClassRow(
                name=item.name,
                colour=colour,
                fraction=total.fraction,
                amount=count(total.pixels) if scale is None else f"{total.pixels * scale:.5g} {unit}",
                lowest=min(shares, default=None),
                middle=statistics.median(shares) if shares else None,
                highest=max(shares, default=None),
            )
        )
    return title, tuple(rows)


def _voxel(record: RunRecord) -> VoxelSize | None:
    """As the run found it; else as the model knows it from its training images."""
    if record.report.voxel_size is not None:
        return record.report.voxel_size
    size = None if record.manifest is None else record.manifest.model.pixel_size
    if size is None:
        return None
    return VoxelSize(step=None, row=size.value, column=size.value, unit=size.unit, origin="the model")


def _voxel_text(voxel: VoxelSize | None) -> str:
    if voxel is None:
        return "No voxel size is known, so amounts are in pixels."
    step = "" if voxel.step is None else f", slices {voxel.step:g} {voxel.unit} apart"
    origin = f" ({voxel.origin} says so)" if voxel.origin else ""
    return f"Pixels of {voxel.row:g} × {voxel.column:g} {voxel.unit}{step}{origin}."


def _tiles(record: RunRecord) -> tuple[Fact, ...]:
    report = record.report
    labelled = report.labelled + report.labelled_before
    before = f"{count(report.labelled_before)} of them before the last run" if report.labelled_before else ""
    tiles = [Fact(name="slices labelled", value=f"{count(labelled)} of {count(report.slices)}", note=before)]
    tiles.append(
        Fact(
            name="excluded",
            value=count(len(record.excluded)),
            note="each named below" if record.excluded else "every input could be read",
        )
    )
    rarest = sorted(report.phase_fractions, key=lambda item: item.fraction)[
        : 3 if len(report.phase_fractions) > 2 else 1
    ]
    tiles += [Fact(name=item.name, value=f"{item.fraction:.2%}", note="of all pixels") for item in rarest]
    if report.stages is not None:
        tiles.append(
            Fact(
                name="Mpixel/s",
                value=f"{report.megapixels_per_second:.2f}",
                note=f"{report.stages.seconds:.1f} s; {report.stages.bottleneck} was the slowest stage",
            )
        )
    if record.slices:
        middle = statistics.median(item.drift for item in record.slices)
        tiles.append(
            Fact(name="drift", value=f"{middle:.2f}", note="0 as the training set, 1 nothing in common")
        )
    return tuple(tiles)


def _shown_text(record: RunRecord, pictures: Pictures) -> str:
    text = f"{len(pictures.slices)} of {count(len(record.slices))} slices"
    if len(pictures.slices) < len(record.slices):
        text += ", evenly spread, with those that stand out"
    text += f"; shown at up to {pictures.edge} pixels, labels by the class that covers most of a pixel."
    if pictures.window is not None:
        text += f" Intensities {pictures.window} run from black to white in all of them."
    return text


def _drift(record: RunRecord) -> tuple[str, str]:
    if not record.slices:
        return "", "info"
    drifts = sorted(item.drift for item in record.slices)
    middle = drifts[len(drifts) // 2]
    far = sum(drift >= DRIFT_WARNING for drift in drifts)
    if middle >= DRIFT_WARNING:
        return (
            f"The intensities differ from those of the training set (drift {middle:.2f} of 1 in the median slice): "
            "look at some labels before you trust them."
        ), "warn"
    if far:
        return (
            f"{count(far)} of {count(len(drifts))} slices differ from the training set (drift {DRIFT_WARNING:g} or "
            "more): look at those before you trust them."
        ), "warn"
    return (
        f"The intensities are like those of the training set: drift {middle:.2f} in the median slice, "
        f"{drifts[-1]:.2f} at most, {DRIFT_WARNING:g} would be a warning."
    ), "info"


def _stages(report: Report) -> tuple[StageRow, ...]:
    if report.stages is None:
        return ()
    stages = report.stages
    return tuple(
        StageRow(
            name=name,
            threads=stages.threads.get(name, 1),
            busy=busy,
            share=busy / (stages.threads.get(name, 1) * stages.seconds) if stages.seconds else 0.0,
            is_bottleneck=name == stages.bottleneck,
        )
        for name, busy in stages.busy_seconds.items()
    )


def _stages_text(report: Report) -> str:
    if report.stages is None:
        return ""
    return (
        f"{count(report.labelled)} slices in {report.stages.seconds:.1f} s, start-up excluded; the stages work side by "
        f"side, and {report.stages.bottleneck} had the least time to wait."
    )


def _part(report: Report) -> PartRow:
    return PartRow(
        part=report.part,
        labelled=report.labelled,
        seconds=None if report.stages is None else report.stages.seconds,
        speed=report.megapixels_per_second,
        bottleneck="–" if report.stages is None else report.stages.bottleneck,
        platform=report.platform,
    )


def _more(record: RunRecord) -> str:
    left = max(0, len(record.excluded) - _MOST_LISTED), max(0, len(record.report.skipped) - _MOST_LISTED)
    if not any(left):
        return ""
    return (
        f"{left[0]} more slices excluded and {left[1]} more entries skipped: all are in "
        f"{record.places.report.name}."
    )


def _provenance(record: RunRecord) -> tuple[Fact, ...]:
    report, manifest = record.report, record.manifest
    key = report.provenance
    tile = "whole slices" if key.tile is None else f"{key.tile[0]} × {key.tile[1]} pixels"
    machine = "" if manifest is None else f"{manifest.machine}, {manifest.cores} cores"
    facts = [
        Fact(name="model", value=report.model, code=True),
        Fact(name="model SHA-256", value=key.model_sha256, code=True),
        Fact(name="input", value=report.input if manifest is None else manifest.input, code=True),
        Fact(name="input kind", value=key.input_kind),
        Fact(name="provider", value=key.provider, note=report.provider_reason),
        Fact(name="threads", value=str(report.threads)),
        Fact(name="tiles", value=tile, note=f"{key.unit} slice(s) written together"),
        Fact(name="started", value=_readable(report.started)),
        Fact(name="finished", value=_readable(report.finished)),
        Fact(name="machine", value=report.platform, note=machine),
    ]
    for name in ("window", "axis", "slices", "level", "layout"):
        if getattr(key, name) is not None:
            facts.append(Fact(name=name, value=str(getattr(key, name))))
    if key.input_content:
        facts.append(Fact(name="input identity", value=key.input_content[:200], code=True))
    facts += [Fact(name=f"{name} version", value=value) for name, value in key.versions.items()]
    if manifest is not None:
        training, export = manifest.model.training, manifest.model.export
        facts += [
            Fact(
                name="trained on",
                value=training.dataset,
                note=f"version {training.version}, epoch {training.epoch}",
            ),
            Fact(name="network", value=training.network, note=export.precision),
            Fact(name="training data SHA-256", value=training.fingerprint, code=True),
        ]
    return tuple(facts)


def _readable(moment: str) -> str:
    return moment.replace("T", " ").replace("+00:00", " UTC")


def stack_names(slices: Sequence[SliceRecord]) -> tuple[str, ...]:
    """How the charts call the slices."""
    return tuple(f"{item.index}: {item.name}" for item in slices)
