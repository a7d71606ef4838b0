"""The command `matseg-run`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from matseg_runtime.cli.options import model_argument, with_source
from matseg_runtime.cli.run_options import (
    consensus_options,
    input_options,
    machine_options,
    measure_options,
    output_options,
    watch_options,
)
from matseg_shared.console.command import EXIT_DONE, debug_option, importing, json_option, print_json, show
from matseg_shared.console.help import Command
from matseg_shared.console.options import (
    applies_with,
    excludes,
    flag,
    gathered,
    page_option,
    show_option,
)
from matseg_shared.console.progress import Progress, shown_progress
from matseg_shared.system.interruption import heed_termination
from matseg_shared.system.names import printable

if TYPE_CHECKING:
    from matseg_runtime.ledger import Part
    from matseg_runtime.measure.measurer import MeasureOptions
    from matseg_runtime.measure.report import Report
    from matseg_runtime.records import Connectivity
    from matseg_runtime.run.finalize import Summary
    from matseg_runtime.run.options import Consensus, RunOptions
    from matseg_runtime.run.setup import Run
    from matseg_runtime.sink.target import OutputOptions
    from matseg_runtime.source.base import SourceOptions
    from matseg_runtime.source.watch import WatchOptions


_EXAMPLES = """
    matseg-run steel.onnx raw_slices/  # label a folder of images; the results appear beside it
    matseg-run steel.onnx scan.h5::/exchange/data -o labels.zarr --memory 2GB
        # label a volume in an HDF5 file into one zarr volume, within 2 GB of memory
    matseg-run steel.onnx scan.tif --dry-run  # see the plan first: tiles, memory, threads
    matseg-run steel.onnx recon.zarr --window -0.001,0.004
        # float32 slices for a model of 8-bit images: say what becomes black and white
    matseg-run steel.onnx raw_slices/ --quantify --voxel-size 0.65um --uncertain 10
        # measure regions on the way, and copy the ten most uncertain slices to be labelled next
    matseg-run steel.onnx scan.zarr -o labels.zarr --consensus --disagreement doubt.zarr
        # label along three axes; doubt.zarr shows where they disagree
    matseg-run steel.onnx incoming/ --watch --idle 600
        # label while the scan is being written, until ten minutes pass without a slice
    matseg-run steel.onnx scan.tif -o labels.zarr --part 3/16
        # the third of sixteen jobs, for instance of a SLURM array; the last of them completes the output
"""


@cloup.command(name="matseg-run", cls=Command, examples=_EXAMPLES)
@model_argument
@click.argument("input_", metavar="INPUT")
@input_options
@output_options
@consensus_options
@measure_options
@machine_options
@watch_options
@page_option
@show_option
@flag("--dry-run", "Print the plan and write nothing.")
@json_option
@excludes("watch", "dask", "part", "finish")
@excludes("dask", "part", "devices")
@excludes("overwrite", "finish")
@excludes("label", "path", "pyramid", "probabilities")
@excludes("consensus", "axis", "slices", "watch", "uncertain", "channel_files")
@applies_with("consensus", "disagreement")
@applies_with("watch", "until", "idle_seconds")
@applies_with("uncertain", "crop", "uncertain_spacing")
@applies_with("quantify", "connectivity")
@debug_option
@with_source
@gathered("no_data", "matseg_runtime.source.transform:NoDataOptions")
@gathered("output", "matseg_runtime.sink.target:OutputOptions")
@gathered("measure", "matseg_runtime.measure.measurer:MeasureOptions")
@gathered("ending", "matseg_runtime.source.watch:WatchOptions")
def run_main(
    model: Path,
    input_: str,
    *,
    source: SourceOptions,
    output: OutputOptions,
    quantify: bool,
    connectivity: Connectivity | None,
    voxel_size: str | None,
    measure: MeasureOptions,
    part: Part | None,
    consensus: Consensus | None,
    sha256: str | None,
    watch: bool,
    ending: WatchOptions,
    page: bool,
    shown: tuple[int, ...] | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Label every slice of INPUT with MODEL.

    MODEL is an ONNX file that matseg-export wrote, or zoo:NAME (matseg-inspect zoo: lists them).

    INPUT is a folder of images, a TIFF stack, a zarr or OME-Zarr volume, an HDF5 dataset (file.h5::/path), a .npy
    array, or a file of a lab CT or microscope (.mhd, .nrrd, .vgi, .raw, .mrc, .txm, .am, .czi, .nii, .dm4). Run
    again after an interruption, the same command goes on where it stopped.

    \b
    Exit codes:
      0  done
      2  wrong use, or an input that does not fit the model; nothing was written
      3  this machine or installation cannot do it
      4  done, but some inputs were excluded; each is named with the reason
      1  anything else, such as a full disk
    """
    with importing():
        from matseg_runtime.ledger import Part
        from matseg_runtime.measure.regions import DEFAULT_CONNECTIVITY
        from matseg_runtime.model.file import choose_model
        from matseg_runtime.run.finalize import Summary
        from matseg_runtime.run.options import RunOptions
        from matseg_runtime.run.run import label
        from matseg_runtime.units import parse_voxel_size

    path, trust = choose_model(model, sha256)
    # that slices, or those of the deciding run, are cut along
    axis = (source.axis or 0) if consensus is None else consensus.axes[0]
    asked = RunOptions(
        model=path,
        input=input_,
        trust=trust,
        source=source,
        output=output,
        part=part or Part(),
        watch=ending if watch else None,
        voxel=None if voxel_size is None else parse_voxel_size(voxel_size, axis),
        consensus=consensus,
        measure=replace(measure, regions=(connectivity or DEFAULT_CONNECTIVITY) if quantify else None),
        **options,  # the others are called as their fields are
    )
    if dry_run:
        with importing():
            from matseg_runtime.run.job import plan_job

        lines = plan_job(asked)
        show({"plan": lines}, lines, as_json=as_json)
        return EXIT_DONE
    heed_termination()  # finish what is in flight when a scheduler announces the end of the job
    with shown_progress() as progress, _opened(asked, progress) as run:
        if isinstance(run, Summary):
            summary = run
        else:
            for text in run.source.warnings() if consensus is None else ():
                _warn(text)  # in time to stop the run; the summary repeats it
            summary = _labelled_with_page(run, progress, shown or ()) if page else label(run, progress)
    if as_json:
        print_json(summary.report.model_dump(mode="json"))
    for line in summary_lines(summary):
        click.echo(printable(line), err=as_json)
    return summary.exit_code


def _opened(options: RunOptions, progress: Progress) -> AbstractContextManager[Run | Summary]:
    """The run, or the summary of a part whose share of a consensus is done."""
    if options.consensus is None:
        from matseg_runtime.run.setup import open_run

        return open_run(options, progress)
    with importing():
        from matseg_runtime.run.consensus import open_consensus

    return open_consensus(options, progress, _warn)


def _labelled_with_page(run: Run, progress: Progress, shown: Sequence[int]) -> Summary:
    """Label, and make the page: what of it can be made meanwhile, unless a limit of memory leaves no room for that."""
    with importing():
        from matseg_runtime.run.run import label
        from matseg_runtime.run.thumbnails import Thumbnails

    if run.options.memory is None:
        run = replace(run, thumbnails=Thumbnails(run, shown))
        with ThreadPoolExecutor(1) as beside:  # what fails there fails again below, and is told there
            summary = label(run, progress, all_read=lambda: beside.submit(_prepare_page))
    else:
        summary = label(run, progress)
    if not summary.is_final:
        return summary
    from matseg_runtime.page.build import leave_page

    if run.options.memory is not None:
        run.session.release_memory()  # the page is made in its place
    progress.stage("making the report")
    return leave_page(run, summary, shown)


def _prepare_page() -> None:
    from matseg_runtime.page.build import prepare

    prepare()


def _warn(text: str) -> None:
    click.echo(printable(f"warning: {text}"), err=True)


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
    if summary.waits is not None:  # what is known of the last pass is nothing of the labels
        return [*lines[1:], f"part {report.part} of the passes is done; {summary.waits}"]
    if labelled:
        lines += _speed_lines(report)
    if report.no_data_pixels:
        share = f"{report.no_data_pixels / report.all_pixels:.2%} of the pixels ({report.no_data_pixels})"
        rows = f", the lowest {report.rows_cut} rows (a data bar) among them" if report.rows_cut else ""
        lines.append(f"{share} are no data{rows}: label 255, in no fraction")
    if report.disagreeing_pixels is not None:
        part = report.disagreeing_pixels / max(1, report.all_pixels - report.no_data_pixels)
        lines.append(f"the axes disagree in {part:.2%} of the voxels")
    # what is said of the regions begins with the fraction
    lines += summary.quantities or [f"{item.name}: {item.fraction:.4%}" for item in report.phase_fractions]
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
            f"{report.place} ({report.provider_reason}); the slowest stage was {report.stages.bottleneck}"
        )
    for count, text in (
        (report.constant_pixels, "needed no network: constant regions"),
        (report.clipped_pixels, "lie beyond --window and were clipped"),
    ):
        lines += [f"{count / report.pixels:.1%} of the pixels {text}"] if count else []
    return lines
