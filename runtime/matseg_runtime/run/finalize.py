"""The end of a run: the output's final form, tables, what to label next, and the report."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from matseg_runtime.ledger import Ledger
from matseg_runtime.measure.phase_fractions import CSV_NAME as FRACTIONS_NAME
from matseg_runtime.measure.phase_fractions import DRIFT_WARNING, phase_fractions, write_phase_fractions
from matseg_runtime.measure.report import (
    MANIFEST_NAME,
    QUANTITIES_3D_NAME,
    QUANTITIES_NAME,
    REGIONS_3D_NAME,
    REPORT_NAME,
    SIZES_NAME,
    SUMMARY_3D_NAME,
    SUMMARY_NAME,
    Manifest,
    Report,
    Stages,
    read_report,
    write_report,
)
from matseg_runtime.records import Connectivity, ExcludedSlice, SliceRecord
from matseg_runtime.run.setup import Run, now, provenance_of
from matseg_runtime.source.base import Slice, Source
from matseg_runtime.source.open import absolute_location
from matseg_runtime.suggest.choose import SCORES_NAME
from matseg_runtime.units import PIXEL
from matseg_shared.console.command import EXIT_DONE, EXIT_EXCLUDED
from matseg_shared.console.progress import Progress
from matseg_shared.errors import ImageError, OutputError
from matseg_shared.system.files import output_errors, write_text
from matseg_shared.system.machine import available_cpus
from matseg_shared.system.names import as_text

if TYPE_CHECKING:
    from matseg_runtime.suggest.folder import Proposals

PAGE_NAME = "report.html"
"""The report for people, beside `report.json`."""
_TABLES = (
    QUANTITIES_NAME,
    SIZES_NAME,
    SUMMARY_NAME,
    REGIONS_3D_NAME,
    QUANTITIES_3D_NAME,
    SUMMARY_3D_NAME,
    SCORES_NAME,
)
"""Made of all labelled slices when that was asked for."""
MUCH_CLIPPED = 0.5
"""Share of a slice's pixels beyond the window from which on a summary warns."""
_MANY = 3
_MOSTLY = 0.7
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
    quantities: tuple[str, ...] = ()
    """Lines on the regions of each class; empty when they were not measured."""
    waits: str | None = None
    """The thing that the output waits for, where that is not slices of other parts."""
    no_page: str | None = None
    """Reason for which a page that was wanted was not made."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return EXIT_EXCLUDED if self.report.excluded else EXIT_DONE


def finalize(
    run: Run, ledger: Ledger, stages: Stages | None, tables: frozenset[str], progress: Progress
) -> Summary:
    """Give the output its final form if nothing is left to do and nobody works on it, and write the report.

    Two parts that end at the same time both come here; the lock lets one after the other look, and the later finds
    either the work or the finished output.

    Args:
        ledger: of the output; this process works on no part of it any more.
        stages: how long they took; None when nothing was left to do.
        tables: that an earlier run had left when this one began.

    Raises:
        OutputError: the output cannot be completed.
    """
    progress.stage("completing the output")
    ledger.reload()
    warnings = list(_warnings(run, ledger))
    quantities: tuple[str, ...] = ()
    proposals: Proposals | None = None
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
        if is_final:
            folder, asked = run.sink.report_folder, run.options.measure
            path = folder / REPORT_NAME
            run.sink.finish()
            write_phase_fractions(folder / FRACTIONS_NAME, records, run.metadata, run.voxel)
            if (connectivity := asked.regions or _measured_with(records)) is not None:
                from matseg_runtime.run.tables import write_region_tables

                quantities = write_region_tables(run, records, connectivity, len(excluded), progress)
            if asked.uncertain is not None:
                from matseg_runtime.run.tables import propose

                proposals = propose(run, records, asked.uncertain, progress)
                warnings.append(proposals.warning)
            warnings.append(_removed_tables_warning(tables, folder))
        own = _report(
            run, ledger, records, excluded, stages, proposals, is_complete=is_final and not excluded
        )
        own = own.model_copy(update={"warnings": tuple(text for text in warnings if text is not None)})
        report = _with_earlier_figures(own, path)
        write_report(path, report)
        if is_final:
            manifest = Manifest(
                input=absolute_location(run.options.input),
                fill_missing_chunks=run.options.source.fill_missing_chunks,
                raw=run.options.source.raw,
                cores=available_cpus(),
                machine=platform.node(),
                model=run.metadata,
            )
            write_text(ledger.folder / MANIFEST_NAME, manifest.model_dump_json(indent=1) + "\n")
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
        quantities=quantities,
    )


def done_slices(source: Source, ledger: Ledger) -> list[tuple[Slice, SliceRecord]]:
    """All slices that are labelled, in order, and what the ledger has noted of each."""
    return [(item, ledger.done[item.name]) for item in source.slices if item.name in ledger.done]


def labelled_slices(source: Source, ledger: Ledger) -> list[SliceRecord]:
    """Records of all labelled slices, in order, with the place that each has now.

    Images that came to a folder since, or a folder that was moved, give other places than the ledger noted.
    """
    return [
        record.model_copy(update={"index": item.index, "where": item.where})
        for item, record in done_slices(source, ledger)
    ]


def tables_in(folder: Path) -> frozenset[str]:
    """Names of the tables that lie there."""
    return frozenset(name for name in _TABLES if (folder / name).exists())


def remove_tables(folder: Path, *, with_report: bool = False) -> None:
    """Delete what was measured on labels that change or get company, with their report where they are replaced.

    Raises:
        OutputError: it cannot be deleted.
    """
    with output_errors(folder):
        for name in (*_TABLES, *((REPORT_NAME, PAGE_NAME, FRACTIONS_NAME) if with_report else ())):
            (folder / name).unlink(missing_ok=True)


def _report(
    run: Run,
    ledger: Ledger,
    records: Sequence[SliceRecord],
    excluded: Sequence[ExcludedSlice],
    stages: Stages | None,
    proposals: Proposals | None,
    *,
    is_complete: bool,
) -> Report:
    new = [record for record in records if record.name in ledger.labelled]
    pixels = sum(record.shape[0] * record.shape[1] for record in new)
    return Report(
        model=as_text(run.options.model),
        model_proofs=run.session.model.proofs,
        input=run.options.input,
        output=str(run.sink.path),
        provenance=provenance_of(run.key),
        provider_reason=run.session.reason,
        devices=run.session.devices,
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
        uncertain=None if proposals is None or proposals.folder is None else str(proposals.folder),
        proposals=0 if proposals is None else proposals.count,
        pixels=pixels,
        constant_pixels=sum(record.constant for record in new),
        clipped_pixels=sum(record.clipped for record in new),
        no_data_pixels=sum(record.no_data for record in records),
        rows_cut=max((record.rows_cut for record in records), default=0),
        all_pixels=sum(record.shape[0] * record.shape[1] for record in records),
        disagreeing_pixels=None
        if run.options.consensus is None
        else sum(record.disagreement or 0 for record in records),
        megapixels_per_second=0.0
        if not (stages and stages.seconds)
        else round(pixels / 1e6 / stages.seconds, 3),
        stages=stages,
    )


def _with_earlier_figures(report: Report, path: Path) -> Report:
    """A run that labels nothing keeps what was measured by the one that did."""
    if report.labelled:
        return report
    try:
        earlier = read_report(path)
    except (OSError, ValidationError):
        return report
    own = report.provenance  # of one job, whatever versions worked on it
    same = earlier.provenance.model_copy(update={"versions": own.versions}) == own
    return report.measured_by(earlier) if earlier.labelled and same else report


def _warnings(run: Run, ledger: Ledger) -> Iterator[str | None]:
    records = labelled_slices(run.source, ledger)
    yield from run.warnings
    if much := [item for item in records if item.clipped >= MUCH_CLIPPED * item.shape[0] * item.shape[1]]:
        yield (
            f"in {len(much)} of {len(records)} slices half of the pixels or more lie beyond --window and were clipped: "
            f"{_named(much)}; look at their labels before you trust them"
        )
    yield from run.source.warnings()
    yield run.metadata.precision_warning(run.session.provider)
    yield drift_warning(records, DRIFT_WARNING)
    shapes = Counter(record.shape for record in records)
    usual, count = shapes.most_common(1)[0] if shapes else ((0, 0), 0)
    others = [record for record in records if record.shape != usual]
    if others and count >= max(_MANY, _MOSTLY * len(records)):  # as a picture has that lies among slices
        yield (
            f"{len(others)} of {len(records)} slices have another size than the {usual[0]} x {usual[1]} pixels of the "
            f"others: {_named(others)}; do they belong to this scan?"
        )
    if empty := [record for record in records if not any(record.counts)]:
        yield f"{len(empty)} of {len(records)} slices hold no data at all and have no labels: {_named(empty)}"
    yield from _circumstances(run, ledger, records)


def _circumstances(run: Run, ledger: Ledger, records: Sequence[SliceRecord]) -> Iterator[str]:
    """Warnings of what lies in options, files and the disk, and not in the slices."""
    source, part = run.source, run.options.part
    rows = run.metadata.input.crop_bottom if run.options.no_data.crop_bottom is None else 0
    cut = [item for item in records if rows and item.rows_cut == rows and source.data_bar(item.index) is None]
    if cut:
        yield (
            f"the lowest {rows} rows of {len(cut)} slices were left out as those of the model's training pictures, "
            "without the files saying that they are a bar of data; --crop-bottom 0 keeps them"
        )
    slices, depth = len(source.slices), run.plan.depth
    blocks = -(-slices // depth)
    if part.total > max(blocks, 1):
        has = "part has" if blocks == 1 else "parts have"
        at_a_time = f"{slices} slices are written {depth} at a time to {run.target.path}"
        yield f"only {blocks} of the {part.total} {has} work: {at_a_time}"
    changed = []
    for item, record in done_slices(source, ledger):
        with suppress(ImageError):  # gone: there is nothing that its label could disagree with
            if source.current_identity(item.index) != record.identity:
                changed.append(item.where)
    if changed:
        yield (
            f"{len(changed)} images, {changed[0]} first, have changed since they were labelled; their labels are those "
            "of the earlier content"
        )
    if not ledger.locks_supported:
        yield f"{ledger.folder}: this disk knows no file locks; see to it yourself that no two runs share an output"
    if new := source.new_files():
        yield f"{len(new)} images, {new[0].name} first, have come since the start; run again to label them, too"


def drift_warning(records: Sequence[SliceRecord], threshold: float) -> str | None:
    """A warning when slices look different from the training set: half of them, or some, which are then named."""
    records = [record for record in records if any(record.counts)]  # of no data there is no drift
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


def _named(records: Sequence[SliceRecord], limit: int = 3) -> str:
    names = ", ".join(record.name for record in records[:limit])
    return names if len(records) <= limit else f"{names} and {len(records) - limit} more"


def _measured_with(records: Sequence[SliceRecord]) -> Connectivity | None:
    """The connectivity by which earlier runs, or other parts, have measured the regions of all slices."""
    found = {None if record.regions is None else record.regions.connectivity for record in records}
    return found.pop() if len(found) == 1 else None


def _removed_tables_warning(before: frozenset[str], folder: Path) -> str | None:
    missing = sorted(before - tables_in(folder))
    if not missing:
        return None
    asked = (("--quantify", SUMMARY_NAME), ("--uncertain", SCORES_NAME))
    options = [option for option, name in asked if name in missing]
    told = f"{', '.join(missing)} told of fewer slices, or of other labels, than there are now, and were removed; "
    if SUMMARY_3D_NAME in missing:
        return f"{told}measure again with matseg-quantify --regions 3d"
    return f"{told}run again with {' and '.join(options) or '--quantify'} to have them of all slices"
