"""The words and numbers of a run's page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matseg_runtime.measure.phase_fractions import DRIFT_WARNING
from matseg_runtime.page.choose import fraction
from matseg_runtime.page.measures import Measures, Proposals
from matseg_runtime.page.record import RunRecord
from matseg_runtime.page.slices import Pictures
from matseg_runtime.records import SliceRecord
from matseg_runtime.units import VoxelSize
from matseg_shared.images.palette import Colour
from matseg_shared.pages.charts import Chart
from matseg_shared.pages.page import Fact, count
from matseg_shared.pages.pictures import visible_colours


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
class RunContent:
    """Everything that the template shows besides the record itself."""

    record: RunRecord
    pictures: Pictures
    missing: tuple[str, ...]
    tiles: tuple[Fact, ...]
    shown_text: str
    classes: tuple[ClassRow, ...]
    amount_title: str
    fractions_text: str
    fraction_charts: tuple[str, ...]
    intensity_charts: tuple[str, ...]
    drift_text: str
    drift_kind: str
    provenance: tuple[Fact, ...]
    measures: Measures | None
    proposals: Proposals | None
    listed: int = 200
    """The most excluded slices, and entries skipped, that are listed."""


def run_content(
    record: RunRecord,
    pictures: Pictures,
    missing: Sequence[str],
    measures: Measures | None,
    proposals: Proposals | None,
    *,
    fraction_charts: Sequence[Chart],
    intensity_charts: Sequence[Chart],
) -> RunContent:
    """Put everything into words."""
    drift_text, drift_kind = _drift(record)
    amount_title, rows = class_rows(record)
    return RunContent(
        record=record,
        pictures=pictures,
        missing=tuple(missing),
        tiles=_tiles(record),
        shown_text=_shown_text(record, pictures),
        classes=rows,
        amount_title=amount_title,
        fractions_text=_voxel_text(_voxel(record)),
        fraction_charts=tuple(chart.id for chart in fraction_charts),
        intensity_charts=tuple(chart.id for chart in intensity_charts),
        measures=measures,
        proposals=proposals,
        drift_text=drift_text,
        drift_kind=drift_kind,
        provenance=_provenance(record),
    )


def class_rows(record: RunRecord) -> tuple[str, tuple[ClassRow, ...]]:
    """The title of the column of amounts, and a row per class."""
    voxel = _voxel(record)
    if voxel is None:
        title, scale, unit = "pixels", None, ""
    elif voxel.step is None:
        title, scale, unit = f"area ({voxel.unit}²)", voxel.area, f"{voxel.unit}²"
    else:
        title, scale, unit = f"volume ({voxel.unit}³)", voxel.area * voxel.step, f"{voxel.unit}³"
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
    named = "each named below" if record.excluded else "every input could be read"
    rarest = sorted(report.phase_fractions, key=lambda item: item.fraction)
    tiles = [
        Fact(name="slices labelled", value=f"{count(labelled)} of {count(report.slices)}", note=before),
        Fact(name="excluded", value=count(len(record.excluded)), note=named),
        *(
            Fact(name=item.name, value=f"{item.fraction:.2%}", note="of all pixels")
            for item in rarest[: 3 if len(rarest) > 2 else 1]
        ),
    ]
    if report.stages is not None:
        speed = f"{report.megapixels_per_second:.2f}"
        note = f"{report.stages.seconds:.1f} s; {report.stages.bottleneck} was the slowest stage"
        tiles.append(Fact(name="Mpixel/s", value=speed, note=note))
    if record.slices:
        middle = f"{statistics.median(item.drift for item in record.slices):.2f}"
        tiles.append(Fact(name="drift", value=middle, note="0 as the training set, 1 nothing in common"))
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
        Fact(name="started", value=readable(report.started)),
        Fact(name="finished", value=readable(report.finished)),
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


def readable(moment: str) -> str:
    return moment.replace("T", " ").replace("+00:00", " UTC")


def stack_names(slices: Sequence[SliceRecord]) -> tuple[str, ...]:
    """How the charts call the slices."""
    return tuple(f"{item.index}: {item.name}" for item in slices)
