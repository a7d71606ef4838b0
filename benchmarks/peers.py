"""The same model and slices through MatSeg, MONAI's sliding window and bioimageio.core's blockwise prediction."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from _common import (
    ROOT,
    Report,
    common_options,
    interleaved,
    median,
    paired_ratio,
    reporting,
    scratch_folder,
    spread,
)
from _workload import Slices, model_file, model_options, real_slices, synthetic_slices
from numpy.typing import NDArray

from matseg_runtime.inference.session import Session
from matseg_shared.console.command import debug_option
from matseg_shared.contract.metadata import LABELS_NAME, TilingInfo
from matseg_shared.errors import MissingExtraError, UnsupportedError
from matseg_shared.system.machine import available_cpus

WORKER = Path(__file__).with_name("_peer_worker.py")
BARE = "bare"
_REQUIREMENTS = {
    "monai": ("monai", "onnxruntime", "--editable", f"{ROOT}[cpu]"),
    # bioimageio.spec 0.5.12 cannot build a model description with later versions of pydantic
    "bioimageio": ("bioimageio.core", "onnxruntime", "pydantic<2.13"),
}
"""Packages for each environment; two, because they need not agree on versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One row of the table."""

    name: str
    """As the worker knows it."""
    title: str
    environment: str | None = None
    """Key of `_REQUIREMENTS`; None: MatSeg's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """Last message of a worker."""

    seconds: float
    """For all slices, loading not counted."""
    versions: str


CONTESTANTS = (
    Contestant(name=BARE, title="bare onnxruntime, whole slices"),
    Contestant(name="matseg-whole", title="MatSeg, whole slices"),
    Contestant(name="matseg-tiled", title="MatSeg, tiles"),
    Contestant(name="monai-constant", title="MONAI, ONNX, overlap 0.25, constant", environment="monai"),
    Contestant(name="monai-gaussian", title="MONAI, ONNX, overlap 0.5, gaussian", environment="monai"),
    Contestant(name="bioimageio", title="bioimageio.core, ONNX, blocks with halo", environment="bioimageio"),
)
TORCH = Contestant(name="monai-torch", title="MONAI, torch, overlap 0.25, constant", environment="monai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Inputs that all contestants are given."""

    model: Path
    labels_only: Path
    """The model for bioimageio.core."""
    checkpoint: Path | None
    tiling: TilingInfo
    folder: Path
    tile: int
    threads: int

    def command(self, contestant: Contestant, python: Path) -> list[str]:
        """The worker's command line."""
        files = {"bioimageio": self.labels_only, TORCH.name: self.checkpoint}
        numbers = {
            "threads": self.threads,
            "tile": self.tile,
            "halo": self.tiling.halo,
            "stride": self.tiling.stride,
        }
        return [
            str(python),
            str(WORKER),
            contestant.name,
            *("--model", str(files.get(contestant.name) or self.model)),
            *("--slices", str(self.folder / "slices.npy")),
            *("--labels", str(self.labels(contestant))),
            *(word for name, value in numbers.items() for word in (f"--{name}", str(value))),
        ]

    def labels(self, contestant: Contestant) -> Path:
        """Labels that the contestant wrote."""
        return self.folder / f"labels_{contestant.name}.npy"


@click.command()
@model_options
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The checkpoint (.pth) that --model was exported from, to run it as torch network in MONAI too.",
)
@click.option("--slices", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--size", type=click.IntRange(min=1), default=852, show_default=True, help="Edge in pixels.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Take the slices from this folder of grey uint8 images instead of making them.",
)
@click.option(
    "--tile",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Edge of all windows in pixels.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores of this process.")
@click.option(
    "--environments",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "build" / "benchmarks",
    help="Folder for the peers' virtual environments. Default: build/benchmarks.",
)
@click.option("--without-peers", is_flag=True, help="Install nothing; only MatSeg and the bare session.")
@common_options
@debug_option
def main(
    model: Path | None,
    width: int,
    checkpoint: Path | None,
    slices: int,
    size: int,
    images: Path | None,
    tile: int,
    threads: int | None,
    environments: Path,
    without_peers: bool,
    repeats: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Time all that can be installed, each in a process of its own, and compare their labels with the untiled ones."""
    with (
        reporting("Peers", save) as report,
        scratch_folder(scratch) as folder,
    ):
        pixels = synthetic_slices(slices, size) if images is None else real_slices(images, slices)[1]
        np.save(folder / "slices.npy", pixels)
        race = _race(model_file(model, folder, width), checkpoint, folder, tile, threads or available_cpus())
        entered: tuple[Contestant, ...] = (*CONTESTANTS, TORCH) if checkpoint is not None else CONTESTANTS
        pythons: dict[str | None, Path] = {None: Path(sys.executable)}
        if not without_peers:
            pythons |= _environments(report, environments)
        entered = tuple(item for item in entered if item.environment in pythons)
        entered = _fit(report, race, entered, pythons)
        report.say(
            f"{len(pixels)} slices of {pixels.shape[1]} x {pixels.shape[2]} pixels in memory, model {race.model.name}, "
            f"windows of {tile} x {tile}, halo {race.tiling.halo}, {race.threads} thread(s); one process each, loading "
            f"not counted; median of {repeats} interleaved rounds (smallest to largest).\n"
        )
        runs = {item.title: _runner(race, item, pythons[item.environment]) for item in entered}
        laps = interleaved(runs, repeats, warm_up=False)
        _print(report, race, entered, laps, pixels)


def _race(model: Path, checkpoint: Path | None, folder: Path, tile: int, threads: int) -> Race:
    tiling = Session.open(model, provider="cpu", threads=1).model.metadata.tiling
    edge = max(tile // tiling.stride, 1) * tiling.stride
    return Race(
        model=model.absolute(),
        labels_only=labels_only(model, folder / "labels_only.onnx"),
        checkpoint=None if checkpoint is None else checkpoint.absolute(),
        tiling=tiling,
        folder=folder,
        tile=edge,
        threads=threads,
    )


def labels_only(model: Path, path: Path) -> Path:
    """The model with (N, 1, H, W) labels as its only output, as bioimageio.core takes it.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("train", "preparing the model for bioimageio.core") from error
    proto = onnx.load(model)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "channel_axis"))
    proto.graph.node.append(
        onnx.helper.make_node("Unsqueeze", [LABELS_NAME, "channel_axis"], ["labels_channel"])
    )
    del proto.graph.output[:]
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("labels_channel", onnx.TensorProto.UINT8, ["n", 1, "h", "w"])
    )
    path.write_bytes(proto.SerializeToString())
    return path


def _environments(report: Report, folder: Path) -> dict[str | None, Path]:
    """The Python of every environment that could be made; the others are named with the reason."""
    pythons: dict[str | None, Path] = {}
    for name, requirements in _REQUIREMENTS.items():
        try:
            pythons[name] = environment(folder / name, requirements)
        except UnsupportedError as error:
            report.say(f"left out: {error}\n")
    return pythons


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with these packages; made once.

    Raises:
        UnsupportedError: it cannot be made, or pip failed; with the end of what it said.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    complete = folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if complete.is_file() and complete.read_text() == wanted:
        return python
    click.echo(f"installing {' '.join(requirements)} into {folder} ...", err=True)
    try:
        venv.create(folder, with_pip=True, clear=True, symlinks=sys.platform != "win32")
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise UnsupportedError(f"{folder.name} cannot be installed here: {error}") from error
    command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnsupportedError(f"{folder.name} cannot be installed here: {_last_line(done.stderr)}")
    complete.write_text(wanted)
    return python


def _fit(
    report: Report, race: Race, contestants: Sequence[Contestant], pythons: dict[str | None, Path]
) -> tuple[Contestant, ...]:
    """A first, uncounted round; those that fail in it are named and left out."""
    fit = []
    for item in contestants:
        try:
            _runner(race, item, pythons[item.environment])()
        except UnsupportedError as error:
            if item.environment is None:
                raise
            report.say(f"left out: {item.title}: {error}\n")
            continue
        fit.append(item)
    return tuple(fit)


def _runner(race: Race, contestant: Contestant, python: Path) -> Callable[[], Lap]:
    """A call that runs the worker to its end."""
    command = race.command(contestant, python)

    def run() -> Lap:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UnsupportedError(f"the worker {contestant.name} failed: {_last_line(done.stderr)}")
        said = json.loads(done.stdout.splitlines()[-1])
        return Lap(seconds=said["seconds"], versions=said["versions"])

    return run


def _print(
    report: Report,
    race: Race,
    contestants: Sequence[Contestant],
    laps: dict[str, list[Lap]],
    pixels: Slices,
) -> None:
    titles = {item.name: item.title for item in contestants}
    expected = np.load(race.labels(CONTESTANTS[0]))
    times = {title: [lap.seconds for lap in entries] for title, entries in laps.items()}
    inner = slice(race.tiling.halo, -race.tiling.halo or None)
    rows = []
    for item in contestants:
        seconds = times[item.title]
        wrong = np.load(race.labels(item)) != expected
        rows.append(
            [
                item.title,
                spread([value / len(pixels) * 1e3 for value in seconds]),
                f"{paired_ratio(seconds, times[titles[BARE]]):.2f}",
                f"{paired_ratio(seconds, times[titles['matseg-whole']]):.2f}",
                _share(wrong),
                _share(wrong[:, inner, inner]),
                laps[item.title][-1].versions,
            ]
        )
    header = ["what", "ms a slice", "x bare", "x MatSeg", "pixels unlike untiled", "farther in than the halo"]
    report.table([*header, "versions"], rows)
    fastest = median(times[titles["matseg-whole"]]) / len(pixels)
    report.say(f"MatSeg, whole slices: {pixels[0].size / fastest / 1e6:.1f} Mpixel/s.\n")


def _share(wrong: NDArray[np.bool_]) -> str:
    if wrong.size == 0:
        return "no such pixels"
    count = int(wrong.sum())
    return f"{count} ({count / wrong.size:.2%})" if count else "0"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    main()
