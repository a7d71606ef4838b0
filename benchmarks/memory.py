"""Peak memory of matseg-run over a small and over a ten times larger zarr volume, with the same --memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from _common import (
    common_options,
    interleaved,
    median,
    paired_ratio,
    reporting,
    scratch_folder,
    spread,
    verdict,
)
from _workload import fresh, matseg_run_command, model_file, model_options, synthetic_slices

from matseg_runtime.units import format_size, parse_size
from matseg_shared.console.command import debug_option
from matseg_shared.errors import UnsupportedError, UsageError

GOAL = 1.10
_CHUNK = (16, 256, 256)
_FILL = 130
"""Value of absent chunks; a grey that the default model takes for an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Settings of both volumes."""

    memory: str
    slices: int | None
    """None: all."""


@click.command()
@model_options
@click.option("--small", default="2GB", show_default=True, help="Size of the smaller volume.")
@click.option("--large", default="20GB", show_default=True, help="Size of the larger volume.")
@click.option(
    "--size", type=click.IntRange(min=1), default=2048, show_default=True, help="Edge of a slice in pixels."
)
@click.option("--memory", default="2GB", show_default=True, help="Given to matseg-run.")
@click.option(
    "--slices", type=click.IntRange(min=1), default=64, show_default=True, help="Labelled of either volume."
)
@click.option("--full", is_flag=True, help="Label all slices of both volumes; takes its time.")
@common_options
@debug_option
def main(
    model: Path | None,
    width: int,
    small: str,
    large: str,
    size: int,
    memory: str,
    slices: int,
    full: bool,
    repeats: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Compare the peaks; the volumes are sparse, so that 20 GB take hardly any disk."""
    require_wait4()
    with (
        reporting("Memory", save) as report,
        scratch_folder(scratch) as folder,
    ):
        file = model_file(model, folder, width)
        limits = Limits(memory=memory, slices=None if full else slices)
        depths = {name: parse_size(name) // size**2 for name in (small, large)}
        if min(depths.values()) < slices:
            raise UsageError(
                f"volumes of {small} and {large} have {' and '.join(map(str, depths.values()))} slices of {size} x "
                f"{size} pixels, expected at least the {slices} to label; give fewer --slices or larger volumes"
            )
        share = "all slices" if full else f"the first {slices} slices of each"
        report.say(
            f"uint8 slices of {size} x {size} pixels, `--memory {memory}`, {share} labelled into a zarr, model "
            f"{file.name}; the first {slices} slices of a volume are stored, the others are absent chunks that read "
            f"as the fill value; median of {repeats} interleaved rounds (smallest to largest).\n"
        )
        contestants: dict[str, Callable[[], float]] = {}
        for name, depth in depths.items():
            volume = sparse_volume(folder / f"{name}.zarr", (depth, size, size), slices)
            contestants[name] = _runner(file, volume, fresh(folder / f"labels_{name}.zarr"), limits)
        peaks = interleaved(contestants, repeats, warm_up=False)
        ratio = paired_ratio(peaks[large], peaks[small])
        report.table(
            ["volume", "slices", "labelled", "peak, MB", "x smaller", "goal"],
            [
                [
                    name,
                    str(depths[name]),
                    str(limits.slices or depths[name]),
                    spread([peak / 1e6 for peak in peaks[name]]),
                    f"{paired_ratio(peaks[name], peaks[small]):.3f}",
                    verdict(ratio, GOAL) if name == large else "",
                ]
                for name in depths
            ],
        )
        _print_limits(report.say, limits, median(peaks[large]))


def _print_limits(say: Callable[[str], None], limits: Limits, peak: float) -> None:
    allowed = parse_size(limits.memory)
    word = "within" if peak <= allowed else "ABOVE"
    say(f"Peak of the larger volume: {format_size(peak)}, {word} the {format_size(allowed)} allowed.")
    if limits.slices is not None:
        say(
            "Both runs label the same number of slices, so this shows what the size of the volume costs, not what "
            "the number of labelled slices does; --full shows both."
        )
    say("")


def sparse_volume(path: Path, shape: tuple[int, int, int], stored: int) -> Path:
    """A zarr array of which only the first `stored` slices take disk; they hold incompressible pixels."""
    import zarr

    array = zarr.create_array(
        str(path),
        shape=shape,
        chunks=tuple(min(edge, length) for edge, length in zip(_CHUNK, shape, strict=True)),
        dtype="uint8",
        fill_value=_FILL,
    )
    depth = array.chunks[0]
    for start in range(0, stored, depth):
        count = min(depth, stored - start)
        array[start : start + count] = np.repeat(synthetic_slices(1, shape[1], seed=start), count, axis=0)
    return path


def _runner(model: Path, volume: Path, out: Path, limits: Limits) -> Callable[[], float]:
    chosen = [] if limits.slices is None else ["--range", f"0:{limits.slices}"]
    options = ["--json", "--fill-missing-chunks", "--memory", limits.memory, "--provider", "cpu", *chosen]
    return lambda: peak_of([matseg_run_command(), str(model), str(volume), "-o", str(fresh(out)), *options])


_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""
"""A process of a few megabytes, because Linux counts the memory of the process that starts another as the other's."""


def peak_of(command: list[str]) -> float:
    """Bytes of physical memory that a command held at most, as the system's accounting says.

    Raises:
        UnsupportedError: the command failed.
    """
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launch, stdout=subprocess.PIPE, text=True, check=True)
    code, peak = (int(word) for word in done.stdout.split())
    if code != 0:
        raise UnsupportedError(f"{' '.join(command)} ended with {code}")
    return float(peak * (1 if sys.platform == "darwin" else 1024))


def require_wait4() -> None:
    """Refuse a system that does not tell of a finished process's memory, with an UnsupportedError."""
    if not hasattr(os, "wait4"):
        raise UnsupportedError(
            "this system does not tell how much memory a finished process had taken; run this benchmark on Linux or "
            "macOS"
        )


if __name__ == "__main__":
    main()
