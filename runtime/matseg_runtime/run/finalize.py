"""The end of a run: the output's final form, tables, what to label next, and the report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from matseg_runtime.ledger import Ledger
from matseg_runtime.measure.phase_fractions import CSV_NAME as FRACTIONS_NAME
from matseg_runtime.measure.phase_fractions import DRIFT_WARNING, phase_fractions, write_phase_fractions
from matseg_runtime.measure.report import (
    REPORT_NAME,
    MeasuringSeconds,
    Report,
    Stages,
    read_report,
    write_report,
)
from matseg_runtime.measure.tables import QUANTITIES_NAME, SIZES_NAME, SUMMARY_NAME, SliceRow, write_tables
from matseg_runtime.records import Connectivity, ExcludedSlice, SliceRecord, SliceRegions
from matseg_runtime.run.manifest import write_manifest
from matseg_runtime.run.setup import Run
from matseg_runtime.run.summary import (
    Summary,
    clipping_warning,
    difference_warning,
    drift_warning,
    now,
    provenance_of,
    size_warning,
)
from matseg_runtime.sink.images import ImageSink
from matseg_runtime.source.base import Source
from matseg_runtime.suggest.choose import SCORES_NAME, choose, default_spacing, write_scores
from matseg_runtime.units import PIXEL
from matseg_shared.console.progress import Progress
from matseg_shared.errors import ImageError, OutputError
from matseg_shared.system.files import output_errors
from matseg_shared.system.names import as_text

PAGE_NAME = "report.html"
"""The report for people, beside `report.json`."""
_TABLES = (QUANTITIES_NAME, SIZES_NAME, SUMMARY_NAME, SCORES_NAME)
"""Made of all labelled slices when that was asked for."""


def finalize(
    run: Run, ledger: Ledger, stages: Stages | None, tables: frozenset[str], progress: Progress
) -> Summary:
    """Give the output its final form if nothing is left to do and nobody works on it, and write the report.

    Two parts that end at the same time both come here; the lock lets one after the other look, and the later finds
    either the work or the finished output.

    Args:
        run: that has labelled what it had to.
        ledger: of the output; this process works on no part of it any more.
        stages: how long they took; None when nothing was left to do.
        tables: that an earlier run had left when this one began.
        progress: told of what takes long.

    Raises:
        OutputError: the output cannot be completed.
    """
    progress.stage("completing the output")
    ledger.reload()
    warnings = _warnings(run, ledger)
    with ledger.job_lock():
        ledger.reload()
        records = labelled_slices(run.source, ledger)
        if lost := run.sink.lost(records):  # a result is not whole from which somebody has taken something
            raise OutputError(
                f"{run.sink.path}: {len(lost)} of {len(records)} labelled slices are no longer there, {lost[0]} first; "
                "something else deletes or changes files there: stop it, then run the same command again"
            )
        busy = ledger.others_at_work()
        excluded = [ledger.excluded[item.name] for item in run.source.slices if item.name in ledger.excluded]
        left = len(run.source.slices) - len(records) - len(excluded)
        is_final = not busy and not left
        path = ledger.folder / f"report-{ledger.part}.json"
        found = _Findings(warnings=warnings)
        if is_final:
            path = run.sink.report_folder / REPORT_NAME
            run.sink.finish()
            _write_tables(run, records, len(excluded), found, progress)
            _warn_of_removed_tables(tables, run.sink.report_folder, found)
        own = _report(run, ledger, records, excluded, stages, found, is_complete=is_final and not excluded)
        report = _with_earlier_figures(own, path)
        write_report(path, report)
        if is_final:
            write_manifest(run)
    if run.options.finish and not is_final:
        working = f" by {len(busy)} running parts" if busy else ""
        raise OutputError(
            f"{run.sink.path}: cannot be finished: {left} of {len(run.source.slices)} slices are not labelled "
            f"yet{working}; run the parts that are missing again"
        )
    return Summary(
        report=report,
        labelled=own.labelled,
        is_final=is_final,
        measured=own.measuring_seconds,
        quantities=found.quantities,
    )


def labelled_slices(source: Source, ledger: Ledger) -> list[SliceRecord]:
    """Records of all labelled slices, in order, with the place that each has now.

    Images that came to a folder since, or a folder that was moved, give other places than the ledger noted.
    """
    return [
        ledger.done[item.name].model_copy(update={"index": item.index, "where": item.where})
        for item in source.slices
        if item.name in ledger.done
    ]


def tables_in(folder: Path) -> frozenset[str]:
    """Names of the tables that lie there."""
    return frozenset(name for name in _TABLES if (folder / name).exists())


def remove_tables(folder: Path, *more: str) -> None:
    """Delete what was measured on labels that are about to change or to get company.

    Raises:
        OutputError: it cannot be deleted.
    """
    with output_errors(folder):
        for name in (*_TABLES, *more):
            (folder / name).unlink(missing_ok=True)


def remove_account(folder: Path) -> None:
    """Delete everything that an earlier job says of its labels, when they are replaced.

    Raises:
        OutputError: it cannot be deleted.
    """
    remove_tables(folder, REPORT_NAME, PAGE_NAME, FRACTIONS_NAME)


@dataclass(slots=True, kw_only=True)
class _Findings:
    """Results of completing an output, for the summary."""

    warnings: list[str]
    quantities: tuple[str, ...] = ()
    uncertain: Path | None = None
    proposals: int = 0


def _report(
    run: Run,
    ledger: Ledger,
    records: Sequence[SliceRecord],
    excluded: Sequence[ExcludedSlice],
    stages: Stages | None,
    found: _Findings,
    *,
    is_complete: bool,
) -> Report:
    new = [record for record in records if record.name in ledger.labelled]
    pixels = sum(record.shape[0] * record.shape[1] for record in new)
    spent = None
    if run.measurer is not None and run.options.dask is None:  # whose workers have measured
        spent = MeasuringSeconds(**{name: round(value, 3) for name, value in run.measurer.seconds.items()})
    return Report(
        model=as_text(run.options.model),
        model_proofs=run.session.model.proofs,
        input=run.options.input,
        output=str(run.sink.path),
        provenance=provenance_of(run.key),
        provider_reason=run.session.reason,
        self_test=run.self_test,
        threads=run.session.threads * run.plan.workers.inferrers,
        started=run.started,
        finished=now(),
        platform=platform.platform(),
        slices=len(run.source.slices),
        part=str(run.options.part),
        labelled=len(new),
        labelled_before=len(records) - len(new),
        complete=is_complete,
        excluded=tuple(excluded),
        skipped=run.source.skipped,
        phase_fractions=phase_fractions(records, run.metadata),
        voxel_size=run.voxel,
        unit=PIXEL if run.voxel is None else run.voxel.unit,
        uncertain=None if found.uncertain is None else str(found.uncertain),
        proposals=found.proposals,
        measuring_seconds=spent,
        pixels=pixels,
        constant_pixels=sum(record.constant for record in new),
        clipped_pixels=sum(record.clipped for record in new),
        megapixels_per_second=0.0
        if not (stages and stages.seconds)
        else round(pixels / 1e6 / stages.seconds, 3),
        stages=stages,
        warnings=tuple(found.warnings),
    )


def _with_earlier_figures(report: Report, path: Path) -> Report:
    """A run that labels nothing keeps what was measured by the one that did."""
    if report.labelled:
        return report
    try:
        earlier = read_report(path)
    except (OSError, ValidationError):
        return report
    same = earlier.labelled and earlier.provenance.is_of(report.provenance)
    return report.measured_by(earlier) if same else report


def _warnings(run: Run, ledger: Ledger) -> list[str]:
    records = labelled_slices(run.source, ledger)
    found = (
        *run.warnings,
        clipping_warning(records),
        *run.source.warnings(),
        run.metadata.precision_warning(run.session.provider),
        difference_warning(run.self_test),
        drift_warning(records, DRIFT_WARNING),
        size_warning(records),
        _lock_warning(ledger),
        _idle_parts_warning(run),
        _new_files_warning(run.source),
        _changed_warning(run.source, ledger),
    )
    return [text for text in found if text is not None]


def _lock_warning(ledger: Ledger) -> str | None:
    if ledger.locks_supported:
        return None
    return (
        f"{ledger.folder}: this disk knows no file locks; see to it yourself that no two runs share an output"
    )


def _idle_parts_warning(run: Run) -> str | None:
    """A warning where parts have nothing to do because there are more of them than blocks."""
    slices, depth, part = len(run.source.slices), run.plan.depth, run.options.part
    blocks = -(-slices // depth)
    if part.total <= max(blocks, 1):
        return None
    has = "part has" if blocks == 1 else "parts have"
    at_a_time = f"{slices} slices are written {depth} at a time to {run.target.path}"
    return f"only {blocks} of the {part.total} {has} work: {at_a_time}"


def _new_files_warning(source: Source) -> str | None:
    found = source.new_files()
    if not found:
        return None
    return (
        f"{len(found)} images, {found[0].name} first, have come since the start; run again to label them, too"
    )


def _changed_warning(source: Source, ledger: Ledger) -> str | None:
    """A warning where files were written again after they were read, and before the run was over."""
    changed = []
    for item in source.slices:
        if (record := ledger.done.get(item.name)) is not None:
            with suppress(ImageError):  # gone: there is nothing that its label could disagree with
                if source.current_identity(item.index) != record.identity:
                    changed.append(item.where)
    if not changed:
        return None
    return (
        f"{len(changed)} images, {changed[0]} first, have changed since they were labelled; their labels are those of "
        "the earlier content"
    )


def _write_tables(
    run: Run, records: Sequence[SliceRecord], excluded: int, found: _Findings, progress: Progress
) -> None:
    """Write the tables and proposals that were asked for."""
    folder, asked = run.sink.report_folder, run.options.measure
    write_phase_fractions(folder / FRACTIONS_NAME, records, run.metadata, run.voxel)
    measured = {None if record.regions is None else record.regions.connectivity for record in records}
    by_all = next(iter(measured)) if len(measured) == 1 else None  # by earlier runs, or by other parts
    connectivity = asked.regions or by_all
    if connectivity is not None:
        again = _measure_again(run, records, connectivity, progress)
        summary = write_tables(
            folder,
            [
                SliceRow(name=record.name, position=run.source.first + record.index, regions=regions)
                for record in records
                if (regions := again.get(record.name) or record.regions) is not None
            ],
            list(enumerate(item.name for item in run.metadata.classes)),
            labels=str(run.sink.path),
            voxel=run.voxel,
            connectivity=connectivity,
            unlabelled=excluded if run.target.is_volume else 0,
        )
        found.quantities = tuple(summary.lines())
    if asked.uncertain is not None:
        _propose(run, records, asked.uncertain, found, progress)


def _measure_again(
    run: Run, records: Sequence[SliceRecord], connectivity: Connectivity, progress: Progress
) -> dict[str, SliceRegions]:
    """From the labels on the disk, for slices that were labelled without being measured."""
    missing = [
        record for record in records if record.regions is None or record.regions.connectivity != connectivity
    ]
    if not missing:
        return {}
    from matseg_runtime.measure.quantify import measure_images, measure_output

    progress.stage("measuring what was labelled before", len(missing), unit="slices")
    axis = 0 if run.source.volume is None or run.target.format != "zarr" else run.source.volume.axis
    assert run.measurer is not None, "there is a table because one was asked for"
    with run.measurer.timed("regions"):
        if isinstance(run.sink, ImageSink):
            files = {record.name: run.sink.file_of(record.name) for record in missing}
            return measure_images(files, connectivity=connectivity)
        return measure_output(str(run.sink.path), missing, axis=axis, connectivity=connectivity)


def _propose(
    run: Run, records: Sequence[SliceRecord], count: int, found: _Findings, progress: Progress
) -> None:
    """Copy what is to be labelled next."""
    from matseg_runtime.suggest.folder import Proposer
    from matseg_runtime.suggest.index import folder_beside

    if unknown := sum(not run.options.measure.is_scored(record) for record in records):
        found.warnings.append(
            f"{unknown} slices were labelled without --uncertain, by other parts or earlier; run the same command once "
            "more without --finish and --part to have them scored"
        )
        return
    crop, target = run.options.measure.crop, run.target
    spacing = run.options.uncertain_spacing or default_spacing(len(run.source.slices), count)
    chosen = choose(records, count, crop, spacing)
    write_scores(run.sink.report_folder / SCORES_NAME, records, chosen, run.source.first)
    progress.stage("copying uncertain slices")
    proposer = Proposer(
        folder=folder_beside(target.ledger_folder, target.path, is_volume=target.is_volume),
        source=run.source,
        session=run.session,
        window=run.options.window,
        tile=run.plan.largest_tile,
        batch=run.plan.batch,
        output=target.path,
        asked=count,
        crop=crop,
        spacing=spacing,
    )
    assert run.measurer is not None, "proposals are measurements"
    with run.measurer.timed("uncertainty"):
        result = proposer.propose(chosen)
    found.uncertain, found.proposals = result.folder, result.count
    if result.warning is not None:
        found.warnings.append(result.warning)
    elif result.count < count:
        found.warnings.append(
            f"{result.count} of {count} uncertain places were found that are {spacing} slices apart; "
            "--uncertain-spacing 1 takes near ones, too"
        )


def _warn_of_removed_tables(before: frozenset[str], folder: Path, found: _Findings) -> None:
    if not (missing := sorted(before - tables_in(folder))):
        return
    options = [
        *(["--quantify"] if SUMMARY_NAME in missing else []),
        *(["--uncertain"] if SCORES_NAME in missing else []),
    ]
    found.warnings.append(
        f"{', '.join(missing)} told of fewer slices, or of other labels, than there are now, and were removed; run "
        f"again with {' and '.join(options) or '--quantify'} to have them of all slices"
    )
