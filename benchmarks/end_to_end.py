"""matseg-run as a whole process, against the script that a good colleague would write (`bare_script.py`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
from _common import (
    Report,
    common_options,
    interleaved,
    median,
    paired_ratio,
    reporting,
    scratch_folder,
    spread,
    timed,
    verdict,
)
from _workload import (
    CommandTimes,
    fresh,
    matseg_run,
    model_file,
    model_options,
    read_labels,
    real_slices,
    synthetic_slices,
    write_folder,
    write_zarr,
)

from matseg_runtime.model.file import read_model
from matseg_shared.console.command import debug_option
from matseg_shared.system.machine import available_cpus

PNG = "PNG folder to PNG folder"
ZARR = "zarr to zarr"
_GOALS = {PNG: ((1200, 1.0), (120, 1.1), (1, 2.0)), ZARR: ((120, 1.1), (1, 2.0))}
"""(from so many slices on, most times as long as the script)."""
_SCRIPT = Path(__file__).with_name("bare_script.py")


@click.command()
@model_options
@click.option(
    "--slices",
    "counts",
    type=click.IntRange(min=1),
    multiple=True,
    default=(12, 120, 1200),
    show_default=True,
    help="May be given several times.",
)
@click.option("--size", type=click.IntRange(min=1), default=852, show_default=True, help="Edge in pixels.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Take the slices from this folder of grey uint8 images, over and over, instead of making them.",
)
@click.option("--only", type=click.Choice([PNG, ZARR]), help="Default: both.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores of this process.")
@common_options
@debug_option
def main(
    model: Path | None,
    width: int,
    counts: tuple[int, ...],
    size: int,
    images: Path | None,
    only: str | None,
    threads: int | None,
    repeats: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Time the script and matseg-run in turn, from start to exit, and compare their labels."""
    threads = threads or available_cpus()
    with (
        reporting("End to end", save) as report,
        scratch_folder(scratch) as folder,
    ):
        file = model_file(model, folder, width)
        stride = read_model(file).model.metadata.tiling.stride
        rows, differences = [], []
        for count in counts:
            files, pixels = (
                ([], synthetic_slices(count, size)) if images is None else real_slices(images, count)
            )
            for kind in (PNG, ZARR) if only is None else (only,):
                suffix = ".zarr" if kind == ZARR else ""
                scan, bare, labels = (
                    folder / f"{name}-{count}{suffix}" for name in ("scan", "bare", "labels")
                )
                _ = write_zarr(scan, pixels) if kind == ZARR else write_folder(scan, pixels, files)
                times = interleaved(
                    {
                        "script": script(file, scan, bare, stride, threads),
                        "ours": runner(file, scan, labels, threads),
                    },
                    repeats,
                )
                rows.append(_row(kind, count, times))
                wrong = int((read_labels(labels) != read_labels(bare)).sum())
                differences.append(
                    f"{kind}, {count} slices: {wrong} of {pixels.size} pixels labelled differently"
                )
        report.say(
            f"Slices ({'synthetic' if images is None else f'from {images.name}'}) of {pixels.shape[1]} x "
            f"{pixels.shape[2]} pixels, model {file.name}, {threads} thread(s); whole processes, median of {repeats} "
            "rounds in turn (smallest to largest).\n"
        )
        _print(report, rows, differences)


def script(model: Path, scan: Path, out: Path, stride: int, threads: int) -> Callable[[], CommandTimes]:
    """The bare script, as a process of its own."""

    def run() -> CommandTimes:
        command = [sys.executable, str(_SCRIPT), *map(str, (model, scan, fresh(out), stride, threads))]
        seconds = timed(lambda: subprocess.run(command, check=True))
        return CommandTimes(inside=seconds, command=seconds, bottleneck="")

    return run


def runner(model: Path, scan: Path, out: Path, threads: int) -> Callable[[], CommandTimes]:
    """matseg-run, page included."""
    return lambda: matseg_run(model, scan, "-o", fresh(out), "--provider", "cpu", "--threads", threads)


def _row(kind: str, count: int, times: dict[str, list[CommandTimes]]) -> list[str]:
    bare, ours = ([entry.command for entry in times[name]] for name in ("script", "ours"))
    ratio, goal = paired_ratio(ours, bare), next(most for least, most in _GOALS[kind] if count >= least)
    inside = median([entry.inside for entry in times["ours"]])
    return [
        f"{kind}, {count} slices",
        spread(bare),
        spread(ours),
        f"{median(ours) / count * 1e3:.1f}",
        f"{median(ours) - inside:.2f}",
        f"{ratio:.3f}",
        verdict(ratio, goal),
        times["ours"][-1].bottleneck,
    ]


def _print(report: Report, rows: list[list[str]], differences: list[str]) -> None:
    header = [
        "what",
        "script, s",
        "matseg-run, s",
        "ms a slice",
        "before and after the slices, s",
        "ratio",
        "goal",
    ]
    report.table([*header, "bottleneck"], rows)
    report.say("\n".join(differences))
    report.say()


if __name__ == "__main__":
    main()
