"""Peak memory of matseg-run over one volume in several containers, against the memory that it may take."""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
from _common import common_options, interleaved, median, reporting, scratch_folder, spread, verdict
from _workload import fresh, matseg_run_command, model_file, model_options, synthetic_slices
from memory import peak_of, require_wait4
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.units import parse_size
from matseg_shared.console.command import debug_option
from matseg_shared.errors import UnsupportedError

_DEEP = 48
"""Slices of a deep chunk."""


@click.command()
@model_options
@click.option("--slices", type=click.IntRange(min=_DEEP), default=96, show_default=True)
@click.option("--size", type=click.IntRange(min=1), default=1024, show_default=True, help="Edge in pixels.")
@click.option("--memory", multiple=True, default=("900MB", "600MB"), show_default=True)
@click.option("--only", multiple=True, help="Words in the names of the containers to try. Default: all.")
@common_options
@debug_option
def main(
    model: Path | None,
    width: int,
    slices: int,
    size: int,
    memory: tuple[str, ...],
    only: tuple[str, ...],
    repeats: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Label 16-bit slices in each container into PNGs, page included, and compare peaks with `--memory`."""
    require_wait4()
    with reporting("Memory by container", save) as report, scratch_folder(scratch) as folder:
        file = model_file(model, folder, width)
        low = synthetic_slices(slices, size)
        noise = np.random.default_rng(0).integers(0, 256, low.shape, dtype=np.uint16)
        inputs = write_inputs(folder, (low.astype(np.uint16) << 8) | noise, only)
        rows = []
        for name, place in inputs.items():
            for limit in memory:
                out = folder / "labels"

                def run(place: Path = place, limit: str = limit, out: Path = out) -> tuple[float, float]:
                    command = [matseg_run_command(), str(file), str(place), "-o", str(fresh(out)), "--json"]
                    started = time.perf_counter()
                    peak = peak_of([*command, "--window", "0,65535", "--memory", limit, "--provider", "cpu"])
                    return peak / 1e6, time.perf_counter() - started

                try:
                    found = interleaved({"run": run}, repeats, warm_up=False)["run"]
                except UnsupportedError:  # said by the command itself
                    rows.append([name, limit, "refused", "", ""])
                    continue
                peaks, seconds = zip(*found, strict=True)
                goal = verdict(max(peaks), parse_size(limit) / 1e6)
                rows.append([name, limit, spread(peaks), goal, f"{median(seconds):.1f}"])
        report.say(
            f"{slices} slices of {size} x {size} pixels of 16 bit, model {file.name}; {repeats} round(s).\n"
        )
        report.table(["container", "--memory", "peak, MB", "goal", "seconds"], rows)


def write_inputs(folder: Path, volume: NDArray[np.uint16], only: tuple[str, ...]) -> dict[str, Path]:
    """Write the volume into each container whose name holds one of these words, or into all."""
    import h5py
    import tifffile
    import zarr

    plane = volume.shape[1:]
    small = tuple(min(256, length) for length in plane)
    chunks = {
        "zarr, a layer of 48 slices in one chunk": (_DEEP, *plane),
        "zarr, 48 x 256 x 256": (_DEEP, *small),
        "zarr, 4 x 256 x 256": (4, *small),
        "HDF5, gzip, a layer of 48 slices in one chunk": (_DEEP, *plane),
        "HDF5, gzip, 48 x 256 x 256": (_DEEP, *small),
        "TIFF": None,
        "numpy": None,
        "PNG folder": None,
    }
    found = {}
    for number, (name, chunk) in enumerate(chunks.items()):
        if only and not any(word in name for word in only):
            continue
        found[name] = place = folder / f"scan{number}"
        if name.startswith("zarr"):
            found[name] = place = place.with_suffix(".zarr")
            zarr.create_array(str(place), shape=volume.shape, chunks=chunk, dtype=volume.dtype)[:] = volume
        elif name.startswith("HDF5"):
            found[name] = place = place.with_suffix(".h5")
            with h5py.File(place, "w") as opened:
                options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                opened.create_dataset("data", data=volume, chunks=chunk, **options)
        elif name == "TIFF":
            found[name] = place = place.with_suffix(".tif")
            tifffile.imwrite(place, volume, photometric="minisblack")
        elif name == "numpy":
            found[name] = place = place.with_suffix(".npy")
            np.save(place, volume)
        else:
            place.mkdir()
            for index, image in enumerate(volume):
                Image.fromarray(image).save(place / f"s{index:04d}.png", compress_level=1)
    return found


if __name__ == "__main__":
    main()
