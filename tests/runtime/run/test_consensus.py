"""matseg-run --consensus: passes along several axes, and the class of their mean probability."""

from __future__ import annotations

import csv
import errno
import shutil
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

from matseg_runtime.measure.report import read_report
from matseg_runtime.sink.votes import VoteSink
from matseg_shared.system.files import output_errors
from matseg_shared.system.locks import FileLock

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
    for axis in (1, 2):
        assert f"warning: 16 slices along axis {axis} have no vote" in result.output
    labels = read(tmp_path / "out.zarr")
    assert (labels[:8] == 255).all()
    assert (labels[8:] < N_CLASS).all()
    # nothing can be mended, so no pass is made again
    again = run(model, volume, "-o", tmp_path / "out.zarr", "--consensus")
    assert again.exit_code == 4, again.output
    assert not list((tmp_path / "out.zarr.matseg").glob("axis-*"))


def test_the_order_and_the_number_of_parts_make_no_difference(
    run: Run, model: Path, volume: Path, votes: Any, tmp_path: Path
) -> None:
    out, options = tmp_path / "out.zarr", ["--consensus", "--disagreement", tmp_path / "doubt.zarr"]
    for number in (2, 3):
        result = run(model, volume, "-o", out, *options, "--part", f"{number}/3")
        assert result.exit_code == 0, result.output
        assert f"part {number}-of-3 of the passes is done; the part that ends last decides" in result.output
        assert not out.exists()
    result = run(model, volume, "-o", out, *options, "--part", "1/3")
    assert result.exit_code == 0, result.output
    assert "20 of 20 slices labelled in this run" in result.output
    labels, differ = decided([votes(axis) for axis in range(3)])
    np.testing.assert_array_equal(read(out), labels)
    np.testing.assert_array_equal(read(tmp_path / "doubt.zarr"), differ)
    assert not list((tmp_path / "out.zarr.matseg").glob("axis-*"))
    assert "0 of 20 slices labelled" in run(model, volume, "-o", out, *options, "--part", "2/3").output


def test_one_part_goes_on_alone(run: Run, model: Path, volume: Path, votes: Any, tmp_path: Path) -> None:
    """A single process ends what parts have begun, and the other way round."""
    out = tmp_path / "out.zarr"
    assert run(model, volume, "-o", out, "--consensus", "--part", "1/2").exit_code == 0
    assert run(model, volume, "-o", out, "--consensus").exit_code == 0
    np.testing.assert_array_equal(read(out), decided([votes(axis) for axis in range(3)])[0])


def test_only_one_part_decides(run: Run, model: Path, volume: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    assert run(model, volume, "-o", out, "--consensus", "--part", "1/2").exit_code == 0
    lock = FileLock(tmp_path / "out.zarr.matseg" / "decision.lock")
    assert lock.acquire()
    result = run(model, volume, "-o", out, "--consensus", "--part", "2/2")
    assert result.exit_code == 0
    assert "of the passes is done; the part that ends last decides" in result.output
    lock.release()
    assert "20 of 20 slices labelled" in run(model, volume, "-o", out, "--consensus", "--part", "2/2").output


def test_finish_says_what_is_missing(run: Run, model: Path, volume: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    assert run(model, volume, "-o", out, "--consensus", "--part", "1/2").exit_code == 0
    result = run(model, volume, "-o", out, "--consensus", "--finish")
    assert result.exit_code == 1
    assert "cannot be finished: 20 of 20 slices are not labelled yet" in result.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--consensus", "--axis", "1"], "--consensus and --axis cannot be combined"),
        (["--consensus", "--range", "0:4"], "--consensus and --range cannot be combined"),
        (["--consensus", "--watch"], "--consensus and --watch cannot be combined"),
        (["--consensus", "--uncertain", "2"], "--consensus and --uncertain cannot be combined"),
        (["--disagreement", "doubt.zarr"], "--disagreement applies with --consensus only"),
        (["--consensus", "1"], "--consensus 1: expected two or three axes such as 0,2"),
        (["--consensus", "0,0"], "--consensus 0,0: expected two or three axes"),
        (["--consensus", "--disagreement", "doubt"], "--disagreement doubt: expected a volume"),
        (["--consensus", "--disagreement", "out.zarr"], "is where the labels go"),
        (["--consensus", "--crop-bottom", "3"], "the lowest 3 rows of its slices are cut off"),
    ],
)
def test_refused_before_any_work(
    run: Run, model: Path, volume: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: str
) -> None:
    monkeypatch.chdir(volume.parent)
    before = snapshot(volume.parent)
    for more in ([], ["--dry-run"]):
        result = run(model, "scan.zarr", "-o", "out.zarr", *options, *more)
        assert result.exit_code == 2, result.output
        assert expected in " ".join(result.output.split())
    assert snapshot(volume.parent) == before


def test_inputs_that_cannot_be_cut_along_other_axes(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "packed.tif", VOLUME, photometric="minisblack", compression="zlib")
    Image.fromarray(VOLUME[0]).save(tmp_path / "one.tif")
    before = snapshot(tmp_path)
    for source, expected in (
        (
            slices,
            "--consensus cuts a volume along several axes, found a folder of images; write its slices into one",
        ),
        (tmp_path / "one.tif", "found a single image"),
        (tmp_path / "packed.tif", "only an uncompressed stack can be cut along another axis than 0"),
    ):
        for more in ([], ["--dry-run"], ["--finish"]):
            result = run(model, source, "-o", tmp_path / "out.zarr", "--consensus", *more)
            assert result.exit_code == 2, result.output
            assert expected in result.output or more == ["--finish"], result.output
    assert snapshot(tmp_path) == before


def test_another_job_is_refused_once_passes_have_begun(
    run: Run, model: Path, volume: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    assert run(model, volume, "-o", out, "--consensus", "--part", "1/2").exit_code == 0
    other = onnx_models.save_model(tmp_path / "alloy_v1.onnx", seed=1)
    for options, expected in (
        ([model, "--consensus", "0,2"], "consensus: 0,1,2 then, 0,2 now"),
        ([model], "consensus: 0,1,2 then, none now"),
        ([model, "--consensus", "--tile", "40"], "tile: none then"),
        ([model, "--consensus", "--disagreement", tmp_path / "d.zarr"], "0,1,2, disagreement in"),
        ([other, "--consensus"], "model sha256:"),
    ):
        chosen, *rest = options
        result = run(chosen, volume, "-o", out, *rest)
        assert result.exit_code == 2, result.output
        assert "the results there are of another job" in result.output
        assert expected in result.output
    assert run(other, volume, "-o", out, "--consensus", "--overwrite").exit_code == 0
    assert out.exists()


def test_a_full_disk_is_noticed_before(
    run: Run, model: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes of two bytes a voxel, and the labels."""
    needed = 5 * VOLUME.size
    out = tmp_path / "out.zarr"
    plan = run(model, volume, "-o", out, "--consensus", "--dry-run").output
    assert "consensus: a pass along axis 1 and 2 first" in plan
    assert f"disk: at most {needed / 1000:.0f} kB more" in plan
    before = snapshot(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    for more in ([], ["--dry-run"]):
        result = run(model, volume, "-o", out, "--consensus", *more)
        assert result.exit_code == 1
        assert "--consensus needs up to 86 kB on that disk until the output is whole" in result.output
    assert snapshot(tmp_path) == before
    assert run(model, volume, "-o", out, "--consensus", "0,2").exit_code == 0


def test_a_disk_that_fills_up_in_the_second_pass(
    run: Run, model: Path, volume: Path, votes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "out.zarr", VoteSink.write

    def full(sink: VoteSink, *arguments: Any) -> Any:
        if sink.volume.axis == 2:
            with output_errors(sink.path):
                raise OSError(errno.ENOSPC, "full")
        return write(sink, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VoteSink, "write", full)
        result = run(model, volume, "-o", out, "--consensus")
    assert result.exit_code == 1, result.output
    assert "no space is left on that disk; free some, then run the same command again" in result.output
    assert run(model, volume, "-o", out, "--consensus").exit_code == 0
    np.testing.assert_array_equal(read(out), decided([votes(axis) for axis in range(3)])[0])


def test_a_thin_volume_is_padded_and_told(run: Run, model: Path, votes: Any, tmp_path: Path) -> None:
    source = save_zarr(tmp_path / "thin.zarr", VOLUME[:5])
    result = run(model, source, "-o", tmp_path / "out.zarr", "--consensus")
    assert result.exit_code == 0, result.output
    assert (
        "the volume is 5 voxels long along axis 0, less than the 16 that the model may look at"
        in result.output
    )
    np.testing.assert_array_equal(
        read(tmp_path / "out.zarr"), decided([votes(axis, VOLUME[:5]) for axis in range(3)])[0]
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1.3,0.65,0.65um", "slices along axis 1 have pixels 1.3 um high and 0.65 wide"),
        ("0.65um", None),
    ],
)
def test_voxels_that_are_no_cubes_are_told(
    run: Run, model: Path, volume: Path, tmp_path: Path, size: str, expected: str | None
) -> None:
    for more in (["--dry-run"], []):
        result = run(model, volume, "-o", tmp_path / "out.zarr", "--consensus", "--voxel-size", size, *more)
        assert result.exit_code == 0, result.output
        assert (expected or "no cubes") in result.output if expected else "no cubes" not in result.output


def test_the_report_tells_where_axes_disagree(
    run: Run, model: Path, volume: Path, votes: Any, tmp_path: Path
) -> None:
    result = run(model, volume, "-o", tmp_path / "out.zarr", "--consensus", "--report")
    _, differ = decided([votes(axis) for axis in range(3)])
    share = np.count_nonzero(differ) / differ.size
    assert f"the axes disagree in {share:.2%} of the voxels" in result.output
    side = tmp_path / "out.zarr.matseg"
    assert read_report(side / "report.json").disagreeing_pixels == np.count_nonzero(differ)
    with (side / "phase_fractions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    shares = [np.count_nonzero(slice_) / slice_.size for slice_ in differ]
    assert [row["axes disagree"] for row in rows] == [f"{value:.6f}" for value in (*shares, share)]
    page = (side / "report.html").read_text(encoding="utf-8")
    assert "Where the axes disagree, along the stack" in page
    assert f"{share:.2%}" in page


def test_earlier_volumes_of_disagreement_are_ours(
    run: Run, model: Path, volume: Path, tmp_path: Path
) -> None:
    options = ["-o", tmp_path / "out.zarr", "--consensus", "--disagreement", tmp_path / "doubt.zarr"]
    (tmp_path / "doubt.zarr").mkdir()
    result = run(model, volume, *options)
    assert result.exit_code == 2
    assert "is not known to be an earlier result of matseg-run" in result.output
    (tmp_path / "doubt.zarr").rmdir()
    assert run(model, volume, *options).exit_code == 0
    before = read(tmp_path / "doubt.zarr")
    assert run(model, volume, *options, "--overwrite").exit_code == 0
    np.testing.assert_array_equal(read(tmp_path / "doubt.zarr"), before)


def test_long_chunks_are_told_before_the_first_pass(run: Run, model: Path, tmp_path: Path) -> None:
    pixels = onnx_models.random_pixels((3, 70, 8), "uint8", 3)
    zarr.create_array(str(tmp_path / "scan.zarr"), data=pixels, chunks=(1, 70, 8))
    told = "warning: slices along axis 1 decode the input 5 times, because its chunks are long there"
    for more in (["--dry-run"], ["--part", "1/2"]):
        result = run(model, tmp_path / "scan.zarr", "-o", tmp_path / "out.zarr", "--consensus", *more)
        assert result.exit_code == 0, result.output
        assert result.output.count(told) == 1
        assert "slices along axis 2 decode" not in result.output


def test_tiles_batches_and_constant_regions_make_no_difference(
    run: Run, model: Path, votes: Any, tmp_path: Path
) -> None:
    pixels = np.full((24, 90, 80), 7, np.uint8)
    pixels[:, :20, :24] = onnx_models.random_pixels((24, 20, 24), "uint8", 4)
    source, labels = (
        save_zarr(tmp_path / "scan.zarr", pixels),
        decided([votes(axis, pixels) for axis in range(3)])[0],
    )
    for name, options in (
        ("a", []),
        ("b", ["--tile", 40, "--batch", 3, "--shards", "--pyramid", "--quantify"]),
    ):
        out = tmp_path / f"{name}.zarr"
        result = run(model, source, "-o", out, "--consensus", *options)
        assert result.exit_code == 0, result.output
        assert "needed no network: constant regions" in result.output
        np.testing.assert_array_equal(read(out), labels)
        summary = tmp_path / f"{name}.zarr.matseg" / "quantities.json"
        assert summary.exists() == ("--quantify" in options)


def test_a_coarser_level_of_an_image(run: Run, model: Path, votes: Any, tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "scan.zarr"))
    for level in range(2):
        group.create_array(str(level), data=np.ascontiguousarray(VOLUME[:, :: 2**level, :: 2**level]))
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [2.0, 2.0**level, 2.0**level]}],
        }
        for level in range(2)
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    told = {}
    for level, pixels in enumerate((VOLUME, VOLUME[:, ::2, ::2])):
        out = tmp_path / f"out{level}.zarr"
        result = run(model, tmp_path / "scan.zarr", "-o", out, "--consensus", "--level", level)
        assert result.exit_code == 0, result.output
        told[level] = "voxels are no cubes (the input says so)" in result.output
        np.testing.assert_array_equal(read(out), decided([votes(axis, pixels) for axis in range(3)])[0])
    assert told == {0: True, 1: False}
