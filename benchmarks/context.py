"""A model that sees neighbouring slices against the same network over slices that lie stacked in memory."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from _common import common_options, interleaved, paired_ratio, reporting, scratch_folder, spread, verdict
from _workload import (
    Slices,
    fresh,
    matseg_run,
    model_file,
    read_labels,
    synthetic_slices,
    write_folder,
    write_zarr,
)

from matseg_shared.console.command import debug_option

GOAL = 1.05


@click.command()
@click.option(
    "--width", type=click.IntRange(min=1), default=16, show_default=True, help="Channels of the model."
)
@click.option(
    "--context", type=click.IntRange(1, 31), default=1, show_default=True, help="Slices on either side."
)
@click.option("--slices", type=click.IntRange(min=2), default=96, show_default=True)
@click.option("--size", type=click.IntRange(min=1), default=852, show_default=True, help="Edge in pixels.")
@common_options
@debug_option
def main(
    width: int, context: int, slices: int, size: int, repeats: int, scratch: Path | None, save: Path | None
) -> None:
    """Time both, from a folder and from a zarr volume, and compare their labels."""
    with reporting("Context", save) as report, scratch_folder(scratch) as folder:
        channels = 2 * context + 1
        plain = model_file(None, folder, width, channels=channels)
        seeing = model_file(None, folder, width, "seeing_v1", channels=channels, context=context)
        pixels = synthetic_slices(slices, size)
        report.say(
            f"{slices} slices of {size} x {size} pixels, {context} on either side; network of {channels} channels and "
            f"width {width}; seconds of reading, inference and writing (PNG); median of {repeats} interleaved rounds "
            "(smallest to largest).\n"
        )
        scans = {
            "memory": write_stacked(folder / "stacked.npy", pixels, context),
            "zarr": write_zarr(folder / "scan.zarr", pixels),
            "PNG folder": write_folder(folder / "scan", pixels),
        }
        times = interleaved(
            {
                name: lambda name=name, scan=scan: matseg_run(
                    plain if name == "memory" else seeing,
                    scan,
                    "-o",
                    fresh(folder / f"labels of {name}"),
                    "--provider",
                    "cpu",
                    *(("--axes", "zyxc") if name == "memory" else ()),
                )
                for name, scan in scans.items()
            },
            repeats,
        )
        seconds = {name: [item.inside for item in found] for name, found in times.items()}
        rows = [["memory, stacked", spread(seconds["memory"]), "1", ""]]
        for name in ("zarr", "PNG folder"):
            ratio = paired_ratio(seconds[name], seconds["memory"])
            rows.append(
                [f"{name}, with context", spread(seconds[name]), f"{ratio:.3f}", verdict(ratio, GOAL)]
            )
        report.table(["slices from", "seconds", "ratio", "goal"], rows)
        stacked, *others = (read_labels(folder / f"labels of {name}") for name in scans)
        same = all((labels == stacked).all() for labels in others)
        report.say(f"Labels are {'equal' if same else 'DIFFERENT'}.\n")


def write_stacked(path: Path, slices: Slices, context: int) -> Path:
    """(N, H, W, 2 * context + 1) array, each slice amid its neighbours; the system keeps it in memory."""
    last = len(slices) - 1
    around = [np.clip(np.arange(len(slices)) + step, 0, last) for step in range(-context, context + 1)]
    np.save(path, np.stack([slices[places] for places in around], axis=-1))
    return path


if __name__ == "__main__":
    main()
