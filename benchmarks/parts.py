"""Two processes with half of the work each (`--part 1/2`, `--part 2/2`) against one with all of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import click
from _common import common_options, interleaved, paired_ratio, reporting, scratch_folder, spread, verdict
from _workload import (
    CommandTimes,
    Slices,
    finish_matseg_run,
    fresh,
    matseg_run,
    model_file,
    model_options,
    read_labels,
    start_matseg_run,
    synthetic_slices,
    write_folder,
    write_zarr,
)

from matseg_shared.console.command import debug_option
from matseg_shared.system.machine import available_cpus

GOAL = 1.8
PARTS = 2
_LIMITS = ("--provider", "cpu", "--threads", "1")


@click.command()
@model_options
@click.option(
    "--slices",
    type=click.IntRange(min=2),
    default=192,
    show_default=True,
    help="Multiples of 32 give both parts the same number of zarr chunks.",
)
@click.option("--size", type=click.IntRange(min=1), default=852, show_default=True, help="Edge in pixels.")
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
    """Time both, for a folder and for a zarr volume, and compare their labels."""
    with (
        reporting("Parts", save) as report,
        scratch_folder(scratch) as folder,
    ):
        file = model_file(model, folder, width)
        pixels = synthetic_slices(slices, size)
        report.say(
            f"{slices} slices of {size} x {size} pixels, model {file.name}; every process is limited to one thread; "
            f"whole commands; median of {repeats} interleaved rounds (smallest to largest).\n"
        )
        if available_cpus() < PARTS:
            report.say(
                f"WARNING: this process may use {available_cpus()} core(s); {PARTS} parts cannot be faster.\n"
            )
        inputs = {"PNG folder": write_folder(folder / "scan", pixels)}
        inputs["zarr"] = write_zarr(folder / "scan.zarr", pixels)
        cores = _cores()
        contestants: dict[tuple[str, str, str], Callable[[], CommandTimes]] = {}
        for name, scan in inputs.items():
            for kind, confined in {"a core each": cores, "one thread each": None}.items():
                if kind == "a core each" and confined is None:
                    continue
                whole = _whole(file, scan, folder / f"whole{scan.suffix}", confined)
                contestants[name, kind, "whole"] = whole
                contestants[name, kind, "parts"] = _parts(
                    file, scan, folder / f"parts{scan.suffix}", confined
                )
        times = interleaved(contestants, repeats)
        rows = []
        for name, kind in dict.fromkeys(key[:2] for key in contestants):
            whole_times, part_times = (
                [item.command for item in times[name, kind, share]] for share in ("whole", "parts")
            )
            gain = paired_ratio(whole_times, part_times)
            row = [name, kind, spread(whole_times), spread(part_times), f"{gain:.2f}"]
            rows.append([*row, verdict(gain, GOAL, at_least=True)])
        heads = [
            "from and to",
            "processes have",
            "one process, s",
            f"{PARTS} parts, s",
            "times faster",
            "goal",
        ]
        report.table(heads, rows)
        report.say(
            "With one thread for the network but two cores, a single process reads and writes on the second core, "
            "which two parts have no more of; a core each is what a scheduler gives to tasks of one CPU.\n"
        )
        if cores is None:
            report.say("This system does not confine processes to cores, or has one only.\n")
        for name, scan in inputs.items():
            labels = [read_labels(folder / f"{share}{scan.suffix}") for share in ("whole", "parts")]
            report.say(f"{name}: labels of the whole and of the parts are {_compare(*labels)}")
        report.say()


def _cores() -> tuple[int, ...] | None:
    """A core for each part; None where processes cannot be confined, or cores are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return tuple(cores[:PARTS]) if len(cores) >= PARTS else None


def _whole(model: Path, scan: Path, out: Path, cores: tuple[int, ...] | None) -> Callable[[], CommandTimes]:
    core = cores[0] if cores else None
    return lambda: matseg_run(model, scan, "-o", fresh(out), *_LIMITS, core=core)


def _parts(model: Path, scan: Path, out: Path, cores: tuple[int, ...] | None) -> Callable[[], CommandTimes]:
    """Until the last part has ended; the one that ends last completes the output."""

    def run() -> CommandTimes:
        fresh(out)
        started = time.perf_counter()
        processes = [
            start_matseg_run(
                model,
                scan,
                "-o",
                out,
                *_LIMITS,
                "--part",
                f"{number}/{PARTS}",
                core=cores[number - 1] if cores else None,
            )
            for number in range(1, PARTS + 1)
        ]
        times = [finish_matseg_run(process, started) for process in processes]
        return CommandTimes(
            inside=max(item.inside for item in times),
            command=max(item.command for item in times),
            bottleneck=times[-1].bottleneck,
        )

    return run


def _compare(one: Slices, other: Slices) -> str:
    if one.shape != other.shape:
        return f"of different shapes, {one.shape} and {other.shape}"
    wrong = int((one != other).sum())
    return "equal" if wrong == 0 else f"DIFFERENT in {wrong} of {one.size} pixels"


if __name__ == "__main__":
    main()
