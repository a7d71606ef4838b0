"""Time that matseg-run takes to answer --help, and from its start to the first finished label image."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click
from _common import common_options, interleaved, median, reporting, scratch_folder, spread, timed, verdict
from _workload import (
    finish_matseg_run,
    fresh,
    matseg_run_command,
    model_file,
    model_options,
    start_matseg_run,
    synthetic_slices,
    write_folder,
)

from matseg_shared.console.command import debug_option

HELP_GOAL = 0.3
FIRST_SLICE_GOAL = 0.4
"""Seconds."""
_STEP = 0.002
"""Seconds between two looks at the output folder."""


@click.command()
@model_options
@click.option("--slices", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--size", type=click.IntRange(min=1), default=852, show_default=True, help="Edge of a slice in pixels."
)
@common_options
@debug_option
def main(
    model: Path | None,
    width: int,
    slices: int,
    size: int,
    repeats: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Time `matseg-run --help` and the first label image of a folder; Python's own start stands beside them."""
    with (
        reporting("Start-up", save) as report,
        scratch_folder(scratch) as folder,
    ):
        file = model_file(model, folder, width)
        scan = write_folder(folder / "scan", synthetic_slices(slices, size))
        times = interleaved(
            {
                "python -c pass": lambda: timed(lambda: _call(sys.executable, "-c", "pass")),
                "matseg-run --help": lambda: timed(lambda: _call(matseg_run_command(), "--help")),
                "start to first label image": lambda: first_slice(file, scan, fresh(folder / "labels")),
            },
            repeats,
        )
        goals = {"matseg-run --help": HELP_GOAL, "start to first label image": FIRST_SLICE_GOAL}
        report.say(f"{slices} slices of {size} x {size} pixels; median of {repeats} (smallest to largest).\n")
        report.table(
            ["what", "seconds", "goal"],
            [
                [name, spread(values), verdict(median(values), goals[name]) if name in goals else ""]
                for name, values in times.items()
            ],
        )


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def first_slice(model: Path, scan: Path, out: Path) -> float:
    """Seconds from the start of the command until the first label image has its final name."""
    started = time.perf_counter()
    process = start_matseg_run(model, scan, "-o", out, "--provider", "cpu")
    seconds = None
    while seconds is None and process.poll() is None:
        # unfinished files have hidden names
        if any(not path.name.startswith(".") for path in out.glob("*.png")):
            seconds = time.perf_counter() - started
        time.sleep(_STEP)
    times = finish_matseg_run(process, started)
    return times.command if seconds is None else seconds


if __name__ == "__main__":
    main()
