"""A consensus of three axes against one pass over the same synthetic volume: end-to-end time, and peak memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from _common import common_options, interleaved, paired_ratio, reporting, scratch_folder, spread, verdict
from _workload import fresh, matseg_run_command, model_file, model_options
from memory import peak_of, require_wait4
from numpy.typing import NDArray

from matseg_shared.console.command import debug_option

TIME_GOAL = 3.6
MEMORY_GOAL = 1.10
_CHUNK = 64
_GRAIN = 16
"""Voxels between the random numbers that grains are interpolated from."""


class Cost(NamedTuple):
    """Cost of one command."""

    seconds: float
    peak: float
    """Bytes."""


@click.command()
@model_options
@click.option(
    "--slices", type=click.IntRange(min=2), default=512, show_default=True, help="Along the first axis."
)
@click.option("--size", type=click.IntRange(min=2), default=1024, show_default=True, help="Along the others.")
@click.option("--axes", default="0,1,2", show_default=True, help="As --consensus takes them.")
@click.option("--memory", default="4GB", show_default=True, help="Given to matseg-run.")
@common_options
@debug_option
def main(
    model: Path | None,
    width: int,
    slices: int,
    size: int,
    axes: str,
    memory: str,
    repeats: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Time whole commands, start-up and completion included."""
    require_wait4()
    with reporting("Consensus", save) as report, scratch_folder(scratch) as folder:
        file = model_file(model, folder, width)
        volume = make_volume(folder / "scan.zarr", (slices, size, size))
        report.say(
            f"{slices} x {size} x {size} voxels in chunks of {_CHUNK}, model {file.name}, `--memory {memory}`; whole "
            f"commands; median of {repeats} interleaved rounds (smallest to largest).\n"
        )
        options = ["--provider", "cpu", "--json", "--no-report", "--memory", memory]

        def cost(*more: str) -> Cost:
            out, started = fresh(folder / "labels.zarr"), time.perf_counter()
            peak = peak_of([matseg_run_command(), str(file), str(volume), "-o", str(out), *options, *more])
            return Cost(time.perf_counter() - started, peak)

        name = f"--consensus {axes}"
        found = interleaved(
            {"one pass": cost, name: lambda: cost("--consensus", axes)}, repeats, warm_up=False
        )
        seconds = {key: [item.seconds for item in costs] for key, costs in found.items()}
        peaks = {key: [item.peak / 1e6 for item in costs] for key, costs in found.items()}
        rows = []
        for key in found:
            times, memories = (paired_ratio(each[key], each["one pass"]) for each in (seconds, peaks))
            goals = ["", ""] if key != name else [verdict(times, TIME_GOAL), verdict(memories, MEMORY_GOAL)]
            row = [key, spread(seconds[key]), f"{times:.2f}", goals[0]]
            rows.append([*row, spread(peaks[key]), f"{memories:.3f}", goals[1]])
        report.table(["", "s", "x one pass", "goal", "peak, MB", "x one pass", "goal"], rows)


def make_volume(path: Path, shape: tuple[int, int, int]) -> Path:
    """A zarr of dark grains in a lighter matrix with noise, made layer by layer."""
    import zarr

    rng = np.random.default_rng(0)
    coarse = rng.standard_normal([-(-length // _GRAIN) + 1 for length in shape]).astype(np.float32)
    chunks = tuple(min(_CHUNK, length) for length in shape)
    array = zarr.create_array(
        str(path), shape=shape, chunks=chunks, dtype="uint8", config={"write_empty_chunks": True}
    )
    for start in range(0, shape[0], _CHUNK):
        layers = np.arange(start, min(start + _CHUNK, shape[0]))
        field = _between(
            _between(_between(coarse, layers, 0), np.arange(shape[1]), 1), np.arange(shape[2]), 2
        )
        field = np.where(field > 0.4, np.float32(96), np.float32(130))
        field += 8 * rng.standard_normal(field.shape, np.float32)
        array[start : start + len(layers)] = field.clip(0, 255).astype(np.uint8)
    return path


def _between(field: NDArray[np.float32], places: NDArray[np.int64], axis: int) -> NDArray[np.float32]:
    """Values along an axis, interpolated between every `_GRAIN` of it."""
    below, share = places // _GRAIN, ((places % _GRAIN) / np.float32(_GRAIN)).astype(np.float32)
    shape = [1] * field.ndim
    shape[axis] = -1
    weight = share.reshape(shape)
    found: NDArray[np.float32] = (1 - weight) * field.take(below, axis) + weight * field.take(below + 1, axis)
    return found


if __name__ == "__main__":
    main()
