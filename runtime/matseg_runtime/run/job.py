"""A whole job of matseg-run for scripts, and the plan of one: one run, or passes along several axes and a decision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

from matseg_runtime.run.consensus import consensus_lines, deciding_run, open_consensus
from matseg_runtime.run.finalize import Summary
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.plan import seconds_per_pixel
from matseg_runtime.run.run import done_before, label
from matseg_runtime.run.setup import Run, open_run, refuse_combinations
from matseg_shared.console.progress import SILENT, Progress


def run_job(options: RunOptions, progress: Progress = SILENT) -> Summary:
    """Segment an input; goes on where an earlier run of the same job stopped.

    Raises:
        UsageError: the input, the output or an option does not fit; nothing was written.
        ModelError: the model file cannot be used.
        UnsupportedError: this machine cannot run it.
        OutputError: results cannot be written; the same command goes on once that is mended.
    """
    opened: AbstractContextManager[Run | Summary]
    opened = (open_run if options.consensus is None else open_consensus)(options, progress)
    with opened as found:
        return found if isinstance(found, Summary) else label(found, progress)


def plan_job(options: RunOptions) -> list[str]:
    """Say what `run_job` would do, or why it would not; writes nothing.

    Raises:
        MatsegError: as `run_job` does before it labels anything.
    """
    refuse_combinations(options)
    part = options.part
    if options.consensus is not None:
        options = deciding_run(options)
    with open_run(replace(options, watch=None), SILENT) as run:  # what is there now
        source, session = run.source, run.session
        done = 0 if options.output.overwrite else len(done_before(run))
        lines = [
            f"input: {source.location} ({source.identity.kind})",
            f"output: {run.target.path} ({run.target.format})",
            f"model: {run.key.model_name} on {session.place} ({session.reason}), "
            f"{session.threads} thread(s) per stream",
            *run.plan.lines(len(source.slices), seconds_per_pixel(session, run.plan.shape)),
            *(() if options.consensus is None else consensus_lines(run, part)),
            *([] if run.voxel is None else [f"voxels: {run.voxel} ({run.voxel.origin} says so)"]),
            *(f"warning: {text}" for text in (*run.warnings, *source.warnings())),
        ]
        return [*lines, f"done before: {done} of {len(source.slices)} slices"] if done else lines
