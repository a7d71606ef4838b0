"""Taking stock of a complete output: tables of quantities, and what to label next."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from matseg_runtime.measure.phase_fractions import CSV_NAME as FRACTIONS_NAME
from matseg_runtime.measure.phase_fractions import write_phase_fractions
from matseg_runtime.measure.tables import QUANTITIES_NAME, SIZES_NAME, SUMMARY_NAME, RegionTables, SliceRow
from matseg_runtime.records import Connectivity, SliceRecord, SliceRegions
from matseg_runtime.run.setup import Job
from matseg_runtime.run.summary import PAGE_NAME, REPORT_NAME, Summary
from matseg_runtime.sink.images import ImageSink
from matseg_runtime.suggest.table import CSV_NAME as SCORES_NAME
from matseg_shared.console.progress import Progress
from matseg_shared.system.files import output_errors

_TABLES = (QUANTITIES_NAME, SIZES_NAME, SUMMARY_NAME, SCORES_NAME)
"""Made of all labelled slices when that was asked for."""


def take_stock(
    job: Job,
    summary: Summary,
    records: Sequence[SliceRecord],
    progress: Progress,
    before: frozenset[str] = frozenset(),
) -> Summary:
    """Write the tables and proposals that were asked for.

    Args:
        job: whose output has its final form.
        summary: of the run that completed it.
        records: of all labelled slices, in order.
        progress: told of what takes long.
        before: tables that an earlier run had left when this one began.

    Returns:
        The summary with what was found out.

    Raises:
        OutputError: they cannot be written.
    """
    folder = job.sink.report_folder
    write_phase_fractions(folder / FRACTIONS_NAME, records, job.session.model.metadata, summary.voxel)
    connectivity = job.measurer.wanted.regions or _measured_by_all(records)
    if connectivity is not None:
        tables = _tables(job, summary, records, connectivity, progress)
        tables.write(folder)
        summary = dataclasses.replace(summary, quantities=tuple(tables.lines()))
    if job.measurer.wanted.uncertain is not None:
        summary = _propose(job, summary, records, job.measurer.wanted.uncertain, progress)
    removed = _removed_warning(before, folder)
    return summary if removed is None else _warned(summary, removed)


def remove_tables(folder: Path) -> None:
    """Delete what was measured on labels that are about to change or to get company.

    Raises:
        OutputError: it cannot be deleted.
    """
    with output_errors(folder):
        for name in _TABLES:
            (folder / name).unlink(missing_ok=True)


def remove_account(folder: Path) -> None:
    """Delete everything that an earlier job says of its labels, when they are replaced.

    Raises:
        OutputError: it cannot be deleted.
    """
    remove_tables(folder)
    with output_errors(folder):
        for name in (REPORT_NAME, PAGE_NAME, FRACTIONS_NAME):
            (folder / name).unlink(missing_ok=True)


def tables_in(folder: Path) -> frozenset[str]:
    """Names of the tables that lie there."""
    return frozenset(name for name in _TABLES if (folder / name).exists())


def _removed_warning(before: frozenset[str], folder: Path) -> str | None:
    missing = sorted(before - tables_in(folder))
    if not missing:
        return None
    options = [
        *(["--quantify"] if SUMMARY_NAME in missing else []),
        *(["--uncertain"] if SCORES_NAME in missing else []),
    ]
    return (
        f"{', '.join(missing)} told of fewer slices, or of other labels, than there are now, and were removed; run "
        f"again with {' and '.join(options) or '--quantify'} to have them of all slices"
    )


def _measured_by_all(records: Sequence[SliceRecord]) -> Connectivity | None:
    """How all slices were measured by earlier runs, or by other parts; None: not all were."""
    found = {None if record.regions is None else record.regions.connectivity for record in records}
    return next(iter(found)) if len(found) == 1 else None


def _tables(
    job: Job, summary: Summary, records: Sequence[SliceRecord], connectivity: Connectivity, progress: Progress
) -> RegionTables:
    missing = [
        record for record in records if record.regions is None or record.regions.connectivity != connectivity
    ]
    measured = _measure_again(job, missing, connectivity, progress)
    rows = [
        SliceRow(name=record.name, position=job.source.first + record.index, regions=regions)
        for record in records
        if (regions := measured.get(record.name) or record.regions) is not None
    ]
    return RegionTables(
        labels=str(job.sink.path),
        rows=rows,
        classes=list(enumerate(item.name for item in job.session.model.metadata.classes)),
        voxel=summary.voxel,
        connectivity=connectivity,
        unlabelled=len(summary.excluded) if job.place.is_volume else 0,
    )


def _measure_again(
    job: Job, records: Sequence[SliceRecord], connectivity: Connectivity, progress: Progress
) -> dict[str, SliceRegions]:
    """From the labels on the disk, for slices that were labelled without being measured."""
    if not records:
        return {}
    from matseg_runtime.measure.quantify import measure_images, measure_output

    progress.stage("measuring what was labelled before", len(records), unit="slices")
    axis = 0 if job.source.volume is None or job.place.format != "zarr" else job.source.volume.axis
    with job.measurer.costs.of("regions"):
        if isinstance(job.sink, ImageSink):
            files = {record.name: job.sink.file_of(record.name) for record in records}
            return measure_images(files, connectivity=connectivity)
        return measure_output(str(job.sink.path), records, axis=axis, connectivity=connectivity)


def _propose(
    job: Job, summary: Summary, records: Sequence[SliceRecord], count: int, progress: Progress
) -> Summary:
    from matseg_runtime.suggest.choose import choose, default_spacing
    from matseg_runtime.suggest.folder import propose
    from matseg_runtime.suggest.table import write_scores

    unknown = sum(not job.measurer.wanted.is_scored(record) for record in records)
    if unknown:
        return _warned(
            summary,
            f"{unknown} slices were labelled without --uncertain, by other parts or earlier; run the same command once "
            "more without --finish and --part to have them scored",
        )
    spacing = job.options.uncertain_spacing or default_spacing(len(job.source.slices), count)
    chosen = choose(records, count, job.measurer.wanted.crop, spacing)
    write_scores(job.sink.report_folder / SCORES_NAME, records, chosen, job.source.first)
    progress.stage("copying uncertain slices")
    with job.measurer.costs.of("uncertainty"):
        result = propose(job, chosen, spacing)
    summary = dataclasses.replace(summary, uncertain=result.folder, proposals=result.count)
    if result.warning is not None:
        return _warned(summary, result.warning)
    if result.count < count:
        return _warned(
            summary,
            f"{result.count} of {count} uncertain places were found that are {spacing} slices apart; "
            "--uncertain-spacing 1 takes near ones, too",
        )
    return summary


def _warned(summary: Summary, text: str) -> Summary:
    return dataclasses.replace(summary, warnings=(*summary.warnings, text))
