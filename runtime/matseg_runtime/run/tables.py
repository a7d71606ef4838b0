"""Tables of regions, and proposals of what to label next, where they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matseg_runtime.measure.quantify import measure_images, measure_output
from matseg_runtime.measure.tables import SliceRow, write_tables
from matseg_runtime.records import Connectivity, SliceRecord, SliceRegions
from matseg_runtime.run.setup import Run
from matseg_runtime.sink.disagreement import DisagreementSink
from matseg_runtime.sink.images import ImageSink
from matseg_runtime.suggest.choose import SCORES_NAME, choose, default_spacing, write_scores
from matseg_runtime.suggest.folder import Proposals, Proposer
from matseg_runtime.suggest.index import folder_beside
from matseg_shared.console.progress import Progress


def write_region_tables(
    run: Run, records: Sequence[SliceRecord], connectivity: Connectivity, excluded: int, progress: Progress
) -> tuple[str, ...]:
    """Write the tables of all slices' regions; slices that were labelled without being measured are measured first.

    Returns:
        Lines on the regions of each class, for the summary.
    """
    missing = [
        record for record in records if record.regions is None or record.regions.connectivity != connectivity
    ]
    again = _measured_again(run, missing, connectivity, progress) if missing else {}
    summary = write_tables(
        run.sink.report_folder,
        [
            SliceRow(
                name=record.name,
                position=run.source.first + record.index,
                regions=regions,
                no_data=record.no_data,
            )
            for record in records
            if (regions := again.get(record.name) or record.regions) is not None and any(record.counts)
        ],
        list(enumerate(item.name for item in run.metadata.classes)),
        labels=str(run.sink.path),
        voxel=run.voxel,
        connectivity=connectivity,
        unlabelled=sum(not any(record.counts) for record in records)
        + (excluded if run.target.is_volume else 0),
    )
    return tuple(summary.lines())


def _measured_again(
    run: Run, missing: Sequence[SliceRecord], connectivity: Connectivity, progress: Progress
) -> dict[str, SliceRegions]:
    """By slice name, from the labels on the disk."""
    progress.stage("measuring what was labelled before", len(missing), unit="slices")
    axis = 0 if run.source.volume is None or run.target.format != "zarr" else run.source.volume.axis
    sink = run.sink.labels if isinstance(run.sink, DisagreementSink) else run.sink
    if isinstance(sink, ImageSink):
        files = {record.name: sink.file_of(record.name) for record in missing}
        return measure_images(files, connectivity=connectivity)
    return measure_output(str(run.sink.path), missing, axis=axis, connectivity=connectivity)


def propose(run: Run, records: Sequence[SliceRecord], count: int, progress: Progress) -> Proposals:
    """Copy the most uncertain `count` slices, or crops, to be labelled next."""
    if unknown := sum(not run.options.measure.is_scored(record) for record in records):
        return Proposals(
            folder=None,
            warning=f"{unknown} slices were labelled without --uncertain, by other parts or earlier; run the same "
            "command once more without --finish and --part to have them scored",
        )
    crop, target = run.options.measure.crop, run.target
    spacing = run.options.uncertain_spacing or default_spacing(len(run.source.slices), count)
    chosen = choose(records, count, crop, spacing)
    write_scores(run.sink.report_folder / SCORES_NAME, records, chosen, run.source.first)
    progress.stage("copying uncertain slices")
    found = Proposer(
        folder=folder_beside(target.ledger_folder, target.path),
        source=run.source,
        session=run.session,
        transform=run.transform,
        tile=run.plan.largest_tile,
        batch=run.plan.batch,
        output=target.path,
        asked=count,
        crop=crop,
        spacing=spacing,
    ).propose(chosen)
    if found.warning is not None or found.count == count:
        return found
    return replace(
        found,
        warning=f"{found.count} of {count} uncertain places were found that are {spacing} slices apart; "
        "--uncertain-spacing 1 takes near ones, too",
    )
