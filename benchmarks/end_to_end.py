"""matseg-run from files to files, against the bare onnxruntime loop over the same slices in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
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
    Slices,
    fresh,
    matseg_run,
    model_file,
    model_options,
    padded_batches,
    plain_session,
    read_labels,
    real_slices,
    synthetic_slices,
    write_folder,
    write_zarr,
)
from numpy.typing import NDArray

from matseg_runtime.inference.session import Session
from matseg_shared.console.command import debug_option
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME
from matseg_shared.system.machine import available_cpus

GOAL = 1.05
MOST_MILLISECONDS = 100
"""A slice: with a slower network, files would hardly matter."""
BARE = "bare session, one call on all threads"
STREAMS = "bare session, a call on each thread"
PNG = "matseg-run, PNG folder to PNG folder"
ZARR = "matseg-run, zarr to zarr"


@dataclass(kw_only=True)
class Bare:
    """A loop over slices in memory, without anything around it; keeps its labels."""

    session: Any
    batches: list[NDArray[np.uint8]]
    workers: int = 1
    labels: list[NDArray[np.uint8]] = field(default_factory=list)

    def __call__(self) -> CommandTimes:
        """Seconds of the loop; a loop has no start-up, so both times are the same."""
        seconds = timed(self._loop)
        return CommandTimes(inside=seconds, command=seconds, bottleneck="inference")

    def _loop(self) -> None:
        if self.workers == 1:
            self.labels = [self._label(batch) for batch in self.batches]
            return
        with ThreadPoolExecutor(self.workers) as pool:
            self.labels = list(pool.map(self._label, self.batches))

    def _label(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = self.session.run([LABELS_NAME], {INPUT_NAME: batch})[0][0]
        return labels


@click.command()
@model_options
@click.option("--slices", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--size", type=click.IntRange(min=1), default=852, show_default=True, help="Edge in pixels.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Take the slices from this folder of grey uint8 images, over and over, instead of making them.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores of this process.")
@common_options
@debug_option
def main(
    model: Path | None,
    width: int,
    slices: int,
    size: int,
    images: Path | None,
    threads: int | None,
    repeats: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Time all four side by side, and compare their labels."""
    threads = threads or available_cpus()
    with (
        reporting("End to end", save) as report,
        scratch_folder(scratch) as folder,
    ):
        file = model_file(model, folder, width)
        files, pixels = (
            ([], synthetic_slices(slices, size)) if images is None else real_slices(images, slices)
        )
        source = "synthetic" if images is None else f"from {images.name}"
        report.say(
            f"{len(pixels)} slices ({source}) of {pixels.shape[1]} x {pixels.shape[2]} pixels, model {file.name}, "
            f"{threads} thread(s); median of {repeats} interleaved rounds (smallest to largest).\n"
        )
        folders = {
            PNG: write_folder(folder / "scan", pixels, files),
            ZARR: write_zarr(folder / "scan.zarr", pixels),
        }
        outputs = {PNG: folder / "labels", ZARR: folder / "labels.zarr"}
        bare = bare_loops(file, pixels, threads)
        contestants: dict[str, Callable[[], CommandTimes]] = dict(bare)
        for name, scan in folders.items():
            contestants[name] = runner(file, scan, outputs[name], threads)
        times = interleaved(contestants, repeats)
        _print_times(report, times, len(pixels))
        _print_labels(report, bare[BARE], pixels, outputs)


def bare_loops(model: Path, pixels: Slices, threads: int) -> dict[str, Bare]:
    stride = Session.open(model, provider="cpu", threads=1).model.metadata.tiling.stride
    batches = padded_batches(pixels, stride)
    return {
        BARE: Bare(session=plain_session(model, threads), batches=batches),
        STREAMS: Bare(session=plain_session(model, 1), batches=batches, workers=threads),
    }


def runner(model: Path, scan: Path, out: Path, threads: int) -> Callable[[], CommandTimes]:
    return lambda: matseg_run(model, scan, "-o", fresh(out), "--provider", "cpu", "--threads", threads)


def _print_times(report: Report, times: dict[str, list[CommandTimes]], slices: int) -> None:
    inside = {name: [entry.inside for entry in entries] for name, entries in times.items()}
    rows = []
    for name, entries in times.items():
        ratio = paired_ratio(inside[name], inside[BARE])
        command = [entry.command for entry in entries]
        rows.append(
            [
                name,
                spread(inside[name]),
                f"{median(inside[name]) / slices * 1e3:.1f}",
                f"{ratio:.3f}",
                f"{paired_ratio(inside[name], inside[STREAMS]):.3f}",
                verdict(ratio, GOAL) if name in (PNG, ZARR) else "",
                f"{median(command):.3g}" if name in (PNG, ZARR) else "",
                entries[-1].bottleneck if name in (PNG, ZARR) else "",
            ]
        )
    report.table(
        [
            "what",
            "seconds",
            "ms a slice",
            "x one call",
            "x call a thread",
            "goal (x one call)",
            "whole command, s",
            "bottleneck",
        ],
        rows,
    )
    milliseconds = median(inside[BARE]) / slices * 1e3
    if milliseconds > MOST_MILLISECONDS:
        report.say(
            f"WARNING: the bare session takes {milliseconds:.0f} ms a slice; above {MOST_MILLISECONDS} ms files "
            "hardly matter, and the ratio says little. Take a smaller model.\n"
        )


def _print_labels(report: Report, bare: Bare, pixels: Slices, outputs: dict[str, Path]) -> None:
    height, width = pixels.shape[1:]
    expected = np.stack([labels[:height, :width] for labels in bare.labels])
    for name, out in outputs.items():
        wrong = int((read_labels(out) != expected).sum())
        report.say(f"{name}: {wrong} of {expected.size} pixels labelled differently than by the bare session")
    report.say()


if __name__ == "__main__":
    main()
