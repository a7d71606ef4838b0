"""Time and peak memory of matseg-quantify's regions in three dimensions, over volumes that are made on the fly.

`python benchmarks/regions_3d.py --shape 256,2048,2048 --shape 512,2048,2048 --grain 8`

Slices come from a formula and are never together in memory: blobs of `--grain` voxels, of which a share of voxels is
noise. Each volume is measured in a process of its own, whose peak is the system's accounting of it. Twice as many
slices of one size must take no more memory; by that a volume of any depth can be judged from a few hundred slices.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from _common import reporting
from numpy.typing import NDArray

from matseg_runtime.measure.blocks_3d import Crossings, Regions
from matseg_runtime.measure.regions_3d import measure_volume, plan_blocks
from matseg_runtime.units import PIXELS, VoxelSize, format_size

Shape = tuple[int, int, int]
_CUBE = VoxelSize(step=1.0, row=1.0, column=1.0, unit=PIXELS.unit)


def slices(shape: Shape, grain: int, noise: float) -> Iterator[NDArray[np.uint8]]:
    """(H, W) slices of two classes, one after the other."""
    rng = np.random.default_rng(0)
    edges = tuple(-(-length // grain) + 1 for length in shape[1:])
    before, after = rng.random(edges) < 0.5, rng.random(edges) < 0.5
    for z in range(shape[0]):
        if z % grain == 0:
            before, after = after, rng.random(edges) < 0.5
        mixed = np.where(rng.random(edges) < (z % grain) / grain, after, before)
        coarse = mixed.repeat(grain, 0).repeat(grain, 1)[: shape[1], : shape[2]]
        yield (coarse ^ (rng.random(shape[1:], dtype=np.float32) < noise)).astype(np.uint8)


def measured(shape: Shape, grain: int, noise: float, workers: int) -> tuple[int, int, float, int, int]:
    """Regions, largest number of them that ended at once, seconds, peak bytes, and bytes before."""
    ended = [0]
    before = _peak()

    def count(regions: Regions) -> None:
        ended.append(len(regions))

    started = time.perf_counter()
    depth, side_by_side = plan_blocks(shape[1] * shape[2], workers)
    totals = measure_volume(
        slices(shape, grain, noise),
        2,
        depth=depth,
        connectivity=8,
        crossings=Crossings.of(_CUBE),
        workers=side_by_side,
        finished=count,
    )
    seconds = time.perf_counter() - started
    return sum(item.regions for item in totals.classes), max(ended), seconds, _peak(), before


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _shape(text: str) -> Shape:
    depth, height, width = (int(part) for part in text.split(","))
    return depth, height, width


@click.command()
@click.option(
    "--shape",
    "shapes",
    type=_shape,
    multiple=True,
    default=["64,1024,1024", "128,1024,1024"],
    show_default=True,
    help="Slices, rows, columns; once per volume.",
)
@click.option(
    "--grain", type=click.IntRange(min=1), default=8, show_default=True, help="Edge of blobs, voxels."
)
@click.option(
    "--noise", type=float, default=0.02, show_default=True, help="Share of voxels of the other class."
)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads at most.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="The report as Markdown.")
def main(shapes: tuple[Shape, ...], grain: int, noise: float, workers: int, save: Path | None) -> None:
    """Measure time and peak memory of regions in three dimensions."""
    rows = []
    with reporting("Regions in three dimensions", save) as report:
        for shape in shapes:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                regions, most, seconds, peak, before = pool.apply(measured, (shape, grain, noise, workers))
            voxels = int(np.prod(shape, dtype=np.int64))
            rows.append(
                (
                    " x ".join(map(str, shape)),
                    f"{regions:,}",
                    f"{most:,}",
                    f"{seconds:.1f}",
                    f"{voxels / seconds / 1e6:.1f}",
                    format_size(peak),
                    format_size(before),
                )
            )
        header = (
            "voxels",
            "regions",
            "most at once",
            "seconds",
            "Mvoxel/s",
            "peak memory",
            "of it the program",
        )
        report.table(header, rows)


if __name__ == "__main__":
    main()
