"""Workload of the benchmarks: a model, slices in several containers, and matseg-run itself."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from _common import ROOT
from numpy.typing import NDArray
from PIL import Image

from matseg_shared.errors import UnsupportedError, UsageError
from matseg_shared.images.channels import to_channels
from matseg_shared.images.read import list_images, read_image

Slices = NDArray[np.uint8]
"""(N, H, W) grey slices."""

_DISTINCT = 16
"""Synthetic slices are shifted copies of so many."""
_AN_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTimes:
    """One call of matseg-run."""

    inside: float
    """Seconds of reading, inference and writing together, as its summary says; start-up excluded."""
    command: float
    """Seconds of the whole command, start-up and completion included."""
    bottleneck: str


def model_options(command: Any) -> Any:
    """`--model` and `--width`."""
    options = (
        click.option(
            "--model",
            type=click.Path(path_type=Path),
            help="A file of matseg-export for uint8 grey slices. Default: a small U-Net with random weights.",
        ),
        click.option(
            "--width",
            type=click.IntRange(min=1),
            default=4,
            show_default=True,
            help="Channels of the default model.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def model_file(
    given: Path | None, folder: Path, width: int, name: str = "benchmark_v1", **options: int
) -> Path:
    """The model asked for, or a U-Net of three levels made in `folder`, with two classes and random weights.

    `options` are its `channels` and `context`.
    """
    if given is not None:
        return given
    target = folder / f"{name}.onnx"
    made: Path = _model_maker().save_model(target, width=width, n_class=2, name=name, **options)
    return made


def wrapped(graph: Any, target: Path, precision: str, stride: int, halo: int) -> Path:
    """A graph of two classes for grey uint8 slices as a model file, with the labels of the CPU as its self-test."""
    from matseg_shared.contract.metadata import TilingInfo
    from matseg_shared.contract.onnx_properties import encode

    maker = _model_maker()
    metadata = maker.build_metadata(n_class=2, precision=precision, name="benchmark_v1")
    metadata = metadata.model_copy(update={"tiling": TilingInfo(stride=stride, halo=halo)})
    made: Path = maker.save(graph, encode(metadata, maker.self_test_of(graph, 1, "uint8")), target)
    return made


def _model_maker() -> Any:
    """The tests' maker of models."""
    path = ROOT / "tests" / "support" / "onnx_models.py"
    spec = importlib.util.spec_from_file_location("onnx_models", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(
            f"{path}: expected there the maker of the default model; run from a clone, or give --model"
        )
    maker = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = maker  # dataclasses look their module up there
    spec.loader.exec_module(maker)
    return maker


def synthetic_slices(count: int, size: int, seed: int = 0) -> Slices:
    """Dark blobs in a lighter matrix with noise, which PNG compresses about as badly as tomography.

    Returns:
        (count, size, size) uint8.
    """
    rng = np.random.default_rng(seed)
    originals = [_synthetic_slice(size, rng) for _ in range(min(count, _DISTINCT))]
    slices = np.empty((count, size, size), np.uint8)
    for number in range(count):
        shift = tuple(int(value) for value in rng.integers(0, size, 2)) if number >= _DISTINCT else (0, 0)
        slices[number] = np.roll(originals[number % len(originals)], shift, axis=(0, 1))
    return slices


def _synthetic_slice(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    noise = np.fft.rfft2(rng.standard_normal((size, size)))
    field = np.fft.irfft2(noise * np.exp(-((frequency * 40) ** 2)), s=(size, size))
    grey = np.where(field > 1.5 * field.std(), 96.0, 130.0) + 8 * rng.standard_normal((size, size))
    return grey.clip(0, 255).astype(np.uint8)


def real_slices(folder: Path, count: int) -> tuple[list[Path], Slices]:
    """Grey images of one shape, over and over until there are `count`.

    Returns:
        Their files, and their pixels as (count, H, W) uint8.

    Raises:
        UsageError: there is none, or they differ in shape or are not uint8.
    """
    images, _ = list_images(folder)
    if not images:
        raise UsageError(f"{folder}: expected grey images of one shape, found none")
    pixels = [to_channels(read_image(path), 1, path)[0] for path in images[:count]]
    for path, image in zip(images, pixels, strict=False):
        if image.shape != pixels[0].shape or image.dtype != np.uint8:
            raise UsageError(
                f"{path}: expected {pixels[0].shape} uint8 pixels like the first image, "
                f"found {image.shape} {image.dtype}"
            )
    order = [number % len(pixels) for number in range(count)]
    return [images[number] for number in order], np.stack([pixels[number] for number in order])


def write_folder(folder: Path, slices: Slices, files: Sequence[Path] = ()) -> Path:
    """One PNG per slice, or copies of `files` where the slices came from files."""
    folder.mkdir(parents=True)
    for number, image in enumerate(slices):
        if files:
            shutil.copyfile(files[number], folder / f"s{number:05d}{files[number].suffix}")
        else:
            Image.fromarray(image).save(folder / f"s{number:05d}.png", compress_level=1)
    return _aged(folder)


def write_zarr(path: Path, slices: Slices) -> Path:
    """A zarr version 3 array in chunks of 16 slices and 256 x 256 pixels, compressed as zarr does by default."""
    import zarr

    depth, height, width = slices.shape
    array = zarr.create_array(
        str(path),
        shape=slices.shape,
        chunks=(min(16, depth), min(256, height), min(256, width)),
        dtype="uint8",
        config={"write_empty_chunks": True},
    )
    array[:] = slices
    return _aged(path)


def _aged(folder: Path) -> Path:
    """Files that have just changed are looked at twice by matseg-run; those of a benchmark are not fresh."""
    then = time.time() - _AN_HOUR
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then))
    return folder


def matseg_run_command() -> str:
    """The installed command of this Python's environment.

    Raises:
        UnsupportedError: it is not there.
    """
    found = shutil.which("matseg-run", path=sysconfig.get_path("scripts"))
    if found is None:
        raise UnsupportedError(
            f"{sysconfig.get_path('scripts')}: expected the command matseg-run there; install MatSeg into this "
            "environment: make install"
        )
    return found


def start_matseg_run(*arguments: object, core: int | None = None) -> subprocess.Popen[str]:
    """Start matseg-run, with the summary as JSON on its standard output.

    Args:
        arguments: of the command.
        core: confine the process to this core, where the system can, as a scheduler confines a task of one CPU.
    """
    command = [matseg_run_command(), *map(str, arguments), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {core})
    return process


def finish_matseg_run(process: subprocess.Popen[str], started: float) -> CommandTimes:
    """Wait for a started matseg-run.

    Args:
        process: of `start_matseg_run`.
        started: `time.perf_counter()` before it was started.

    Raises:
        UnsupportedError: it failed; with what it said.
        UsageError: it had no slices to label.
    """
    out, err = process.communicate()
    command = time.perf_counter() - started
    if process.returncode != 0:
        raise UnsupportedError(f"matseg-run ended with {process.returncode}: {err.strip() or out.strip()}")
    stages = json.loads(out)["stages"]
    if stages is None:
        raise UsageError("a matseg-run of this benchmark had nothing to do; give more --slices")
    return CommandTimes(inside=stages["seconds"], command=command, bottleneck=stages["bottleneck"])


def matseg_run(*arguments: object, core: int | None = None) -> CommandTimes:
    """Run matseg-run to its end; see `start_matseg_run`."""
    started = time.perf_counter()
    return finish_matseg_run(start_matseg_run(*arguments, core=core), started)


def read_labels(path: Path) -> Slices:
    """(N, H, W) labels of an output folder or zarr, or of a zarr that is the array itself."""
    if path.suffix == ".zarr":
        import zarr

        found = zarr.open(str(path), mode="r")
        return np.asarray((found["0"] if isinstance(found, zarr.Group) else found)[:], dtype=np.uint8)
    return np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))])


def fresh(path: Path) -> Path:
    """The same path, with what an earlier round has left there removed."""
    for leftover in path.parent.glob(f"{path.name}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    return path
