"""matseg-run --consensus: passes along several axes, and the class of their mean probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import nrrd
import numpy as np
import onnx
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import Result
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image

Run = Callable[..., Result]

SHAPE = (20, 33, 26)
VOLUME = onnx_models.random_pixels(SHAPE, "uint8", 1)
N_CLASS = 3


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return save_zarr(tmp_path / "scan.zarr", VOLUME)


def save_zarr(path: Path, pixels: NDArray[Any]) -> Path:
    array = zarr.create_array(str(path), shape=pixels.shape, chunks=(8, 16, 16), dtype=pixels.dtype)
    array[:] = pixels
    return path


@pytest.fixture(scope="module")
def votes(model: Path) -> Callable[..., NDArray[np.int64]]:
    """(K, Z, Y, X) probabilities of whole slices along an axis, 0 to 255, straight from onnxruntime."""
    graph = onnx.load(model)

    def along(axis: int, pixels: NDArray[Any] = VOLUME) -> NDArray[np.int64]:
        slices = np.moveaxis(pixels, axis, 0)
        below, right = (-length % onnx_models.STRIDE for length in slices.shape[1:])
        padded = np.pad(slices, ((0, 0), (0, below), (0, right)), mode="reflect")[:, None]
        _, chances = onnx_models.run_graph(graph, padded)
        scaled = np.rint(chances[:, :-1, : slices.shape[1], : slices.shape[2]] * 255).astype(np.int64)
        whole = np.concatenate([scaled, 255 - scaled.sum(axis=1, keepdims=True)], axis=1)
        return np.moveaxis(np.moveaxis(whole, 1, 0), 1, axis + 1)

    return along


def decided(votes: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(Z, Y, X) labels, and numbers of axes whose own class is another."""
    labels = np.sum(votes, axis=0).argmax(axis=0)
    return labels.astype(np.uint8), np.sum([vote.argmax(axis=0) != labels for vote in votes], axis=0).astype(
        np.uint8
    )


def read(path: Path) -> NDArray[np.uint8]:
    if (path / "zarr.json").exists():
        return np.asarray(zarr.open_array(str(path), path="0", mode="r")[:])
    if path.suffix == ".tif":
        return tifffile.imread(path)
    if path.suffix == ".nrrd":
        return nrrd.read(str(path), index_order="C")[0]
    return np.stack([np.array(Image.open(file)) for file in sorted(path.glob("*.png"))])


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2), (1, 2)])
def test_labels_are_the_class_of_the_mean_probability(
    run: Run, model: Path, volume: Path, votes: Any, tmp_path: Path, axes: tuple[int, ...]
) -> None:
    chosen = ["--consensus"] if len(axes) == 3 else ["--consensus", ",".join(map(str, axes))]
    out, doubt = tmp_path / "out.zarr", tmp_path / "doubt.zarr"
    result = run(model, volume, "-o", out, *chosen, "--disagreement", doubt)
    assert result.exit_code == 0, result.output
    labels, differ = decided([votes(axis) for axis in axes])
    np.testing.assert_array_equal(read(out), labels)
    np.testing.assert_array_equal(read(doubt), differ)
    assert 0 < np.count_nonzero(differ) < differ.size
    assert not list((tmp_path / "out.zarr.matseg").glob("axis-*"))
    before = snapshot(tmp_path)
    again = run(model, volume, "-o", out, *chosen, "--disagreement", doubt)
    slices = SHAPE[axes[0]]
    assert f"0 of {slices} slices labelled in this run, {slices} before" in again.output
    unlike = {name for name, content in snapshot(tmp_path).items() if before.get(name) != content}
    assert not [name for name in unlike if "report" not in name and "done" not in name], unlike


@pytest.mark.parametrize("name", ["out", "out.tif", "out.nrrd"])
def test_every_output_takes_the_decision(
    run: Run, model: Path, volume: Path, votes: Any, tmp_path: Path, name: str
) -> None:
    doubt = tmp_path / "doubt.tif"
    result = run(model, volume, "-o", tmp_path / name, "--consensus", "--disagreement", doubt)
    assert result.exit_code == 0, result.output
    labels, differ = decided([votes(axis) for axis in range(3)])
    np.testing.assert_array_equal(read(tmp_path / name), labels)
    np.testing.assert_array_equal(read(doubt), differ)


def test_probabilities_are_the_mean(run: Run, model: Path, volume: Path, votes: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    assert run(model, volume, "-o", out, "--consensus", "0,1", "--probabilities").exit_code == 0
    mean = np.sum([votes(axis) for axis in (0, 1)], axis=0, dtype=np.float32) / np.float32(2 * 255)
    found = zarr.open_array(str(out), path="probabilities", mode="r")[:]
    np.testing.assert_array_equal(found, np.rint(mean * 255))


@pytest.mark.parametrize("kind", ["tif", "npy", "h5", "nrrd"])
def test_inputs_that_can_be_cut_along_any_axis(
    run: Run, model: Path, votes: Any, tmp_path: Path, kind: str
) -> None:
    source: Any = tmp_path / f"scan.{kind}"
    if kind == "tif":
        tifffile.imwrite(source, VOLUME, photometric="minisblack")
    elif kind == "npy":
        np.save(source, VOLUME)
    elif kind == "h5":
        with h5py.File(source, "w") as file:
            file.create_dataset("data", data=VOLUME, chunks=(4, 16, 16))
    else:
        nrrd.write(str(source), VOLUME, {"encoding": "raw"}, index_order="C")
    out = tmp_path / "out.zarr"
    result = run(model, source, "-o", out, "--consensus")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read(out), decided([votes(axis) for axis in range(3)])[0])


def test_labels_within_the_image(run: Run, model: Path, votes: Any, tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "scan.zarr"))
    group.create_array("0", data=VOLUME, chunks=(8, 16, 16))
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    options = ["--label", "phases", "--consensus", "--disagreement", tmp_path / "d.tif"]
    result = run(model, tmp_path / "scan.zarr", *options)
    assert result.exit_code == 0, result.output
    labels, differ = decided([votes(axis) for axis in range(3)])
    np.testing.assert_array_equal(read(tmp_path / "scan.zarr" / "labels" / "phases"), labels)
    np.testing.assert_array_equal(read(tmp_path / "d.tif"), differ)


@pytest.mark.parametrize("main", [0, 1])
@pytest.mark.parametrize("kind", ["circle", "image", "volume", "value"])
def test_no_data_is_the_same_along_all_axes(
    run: Run, model: Path, votes: Any, tmp_path: Path, kind: str, main: int
) -> None:
    """A circle and a mask of one image are of the slices that labels are given along, and cross the others."""
    pixels, axes = VOLUME.copy(), (0, 1, 2) if main == 0 else (1, 2)
    height, width = (length for axis, length in enumerate(SHAPE) if axis != main)
    plane = onnx_models.random_pixels((height, width), "uint8", 5) > 200
    options: list[object] = ["--mask", tmp_path / "mask.png"]
    absent = np.broadcast_to(np.expand_dims(plane, main), SHAPE)
    if kind == "circle":
        y, x = (np.arange(length) - (length - 1) / 2 for length in (height, width))
        plane = y[:, None] ** 2 + x**2 > (min(height, width) / 2) ** 2
        absent, options = np.broadcast_to(np.expand_dims(plane, main), SHAPE), ["--no-data", "circle"]
    elif kind == "image":
        Image.fromarray(np.where(plane, 0, 255).astype(np.uint8)).save(tmp_path / "mask.png")
    elif kind == "volume":
        absent = onnx_models.random_pixels(SHAPE, "uint8", 6) > 200
        options = ["--mask", save_zarr(tmp_path / "mask.zarr", np.where(absent, 0, 1).astype(np.uint8))]
    else:
        absent, options = pixels == 90, ["--no-data", 90]
    source = save_zarr(tmp_path / "scan.zarr", pixels)
    out, doubt = tmp_path / "out.zarr", tmp_path / "doubt.zarr"
    chosen = ["--consensus", ",".join(map(str, axes)), "--disagreement", doubt]
    result = run(model, source, "-o", out, *chosen, *options)
    assert result.exit_code == 0, result.output
    pixels[absent] = 128  # the mean of the model's training set
    labels, differ = decided([votes(axis, pixels) for axis in axes])
    np.testing.assert_array_equal(read(out), np.where(absent, 255, labels))
    np.testing.assert_array_equal(read(doubt), np.where(absent, 255, differ))
    assert f"({np.count_nonzero(absent)})" in result.output


def test_what_an_axis_could_not_read_is_decided_by_the_others(
    run: Run, model: Path, volume: Path, tmp_path: Path
) -> None:
    """A chunk is lost: slices through it have no labels, and only in them the other axes are alone."""
    next(volume.glob("c/0/0/0")).unlink()
    result = run(model, volume, "-o", tmp_path / "out.zarr", "--consensus")
    assert result.exit_code == 4, result.output
    labels = read(tmp_path / "out.zarr")
    assert (labels[:8] == 255).all()
    assert (labels[8:] < N_CLASS).all()
    # nothing can be mended, so no pass is made again
    again = run(model, volume, "-o", tmp_path / "out.zarr", "--consensus")
    assert again.exit_code == 4, again.output
    assert not list((tmp_path / "out.zarr.matseg").glob("axis-*"))
