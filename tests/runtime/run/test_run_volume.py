"""matseg-run on volumes: every sink, plans, parts, and what stands in their way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import nrrd
import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import Result
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image

Run = Callable[..., Result]
Expected = Callable[[NDArray[Any]], NDArray[np.uint8]]

VOLUME = onnx_models.random_pixels((20, 45, 50), "uint8", 1)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A zarr of 20 slices in chunks of 8."""
    array = zarr.create_array(
        str(tmp_path / "scan.zarr"), shape=VOLUME.shape, chunks=(8, 16, 16), dtype="uint8"
    )
    array[:] = VOLUME
    return tmp_path / "scan.zarr"


@pytest.fixture
def labels(expected: Expected) -> NDArray[np.uint8]:
    """Labels that a run over the volume must give."""
    return np.stack([expected(image) for image in VOLUME])


def test_chunks_are_even_and_none_is_missing(run: Run, model: Path, tmp_path: Path) -> None:
    """Not 256 and a rest of 44 that is stored as 256; and absent chunks would look like unfinished ones."""
    np.save(tmp_path / "scan.npy", np.full((2, 556, 300), 3, np.uint8))
    assert run(model, tmp_path / "scan.npy", "-o", tmp_path / "out.zarr").exit_code == 0
    array = zarr.open_array(str(tmp_path / "out.zarr"), path="0", mode="r")
    assert array.chunks[1:] == (278, 300)
    assert array.nchunks_initialized == array.nchunks
    assert zarr.config.get("array.write_empty_chunks") is False


def _read(path: Path) -> NDArray[np.uint8]:
    if path.suffix == ".zarr":
        return np.asarray(zarr.open_array(str(path), path="0", mode="r")[:])
    if path.suffix == ".tif":
        return tifffile.imread(path)
    if path.suffix == ".nrrd":
        return nrrd.read(str(path), index_order="C")[0]
    if path.suffix == ".mrc":
        return mrcfile.read(path).view(np.uint8)
    if path.suffix in (".mhd", ".mha"):
        header, _, content = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
        shape = next(line for line in header.splitlines() if line.startswith(b"DimSize")).split()[2:]
        return np.frombuffer(content, np.uint8).reshape([int(length) for length in reversed(shape)])
    files = sorted(path.glob("*.png")) or sorted(path.glob("*[0-9].tif"))
    return np.stack([np.array(Image.open(file)) for file in files])


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("labels.zarr", []),
        ("labels.zarr", ["--shards"]),
        ("labels.zarr", ["--pyramid", "--probabilities"]),
        ("labels.tif", []),
        ("labels.mhd", []),
        ("labels.mha", []),
        ("labels.nrrd", []),
        ("labels.mrc", []),
        ("labels", []),
        ("labels", ["--format", "tiff"]),
        ("labels.zarr", ["--tile", "36", "--threads", "1", "--memory", "4GB"]),
    ],
)
def test_every_sink_holds_the_same_labels(
    run: Run,
    model: Path,
    volume: Path,
    labels: NDArray[np.uint8],
    tmp_path: Path,
    name: str,
    extra: list[str],
) -> None:
    out = tmp_path / name
    result = run(model, volume, "-o", out, *extra)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(_read(out), labels)
    again = run(model, volume, "-o", out, *extra)
    assert "0 of 20 slices labelled in this run, 20 before" in again.output


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("name", ["labels.zarr", "labels.tif", "labels.mhd", "labels.nrrd", "labels.mrc"])
def test_slicing_along_another_axis(
    run: Run, model: Path, volume: Path, expected: Expected, tmp_path: Path, axis: int, name: str
) -> None:
    out = tmp_path / name
    assert run(model, volume, "-o", out, "--axis", axis).exit_code == 0
    slices = np.stack([expected(image) for image in np.moveaxis(VOLUME, axis, 0)])
    # a volume keeps its axes, a stack is the slices one after another
    np.testing.assert_array_equal(
        _read(out), slices if name.endswith("tif") else np.moveaxis(slices, 0, axis)
    )


def test_a_folder_becomes_a_volume(run: Run, model: Path, expected: Expected, tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(VOLUME[number]).save(folder / f"s{number}.png")
    for name in ("a.zarr", "a.tif"):
        assert run(model, folder, "-o", tmp_path / name).exit_code == 0
        np.testing.assert_array_equal(_read(tmp_path / name), np.stack([expected(i) for i in VOLUME[:5]]))


def test_a_slice_of_another_shape_is_excluded_and_marked(
    run: Run, model: Path, expected: Expected, tmp_path: Path
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(VOLUME[number][: 30 if number == 2 else 45]).save(folder / f"s{number}.png")
    for name in ("a.zarr", "a.tif"):
        result = run(model, folder, "-o", tmp_path / name)
        assert result.exit_code == 4
        assert "s2.png: expected 45 x 50 pixels, as this volume's slices have, found 30 x 50" in result.output
        found = _read(tmp_path / name)
        assert (found[2] == 255).all()
        np.testing.assert_array_equal(found[3], expected(VOLUME[3]))
        Image.fromarray(VOLUME[2]).save(folder / "s2.png")
        assert run(model, folder, "-o", tmp_path / name).exit_code == 0
        np.testing.assert_array_equal(_read(tmp_path / name)[2], expected(VOLUME[2]))
        Image.fromarray(VOLUME[2][:30]).save(folder / "s2.png")


def test_ome_zarr_metadata(run: Run, model: Path, tmp_path: Path) -> None:
    source = tmp_path / "scan.zarr"
    group = zarr.create_group(str(source))
    group.create_array("0", shape=(6, 300, 280), chunks=(2, 64, 64), dtype="uint8")[:] = 9
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    steps = [
        {"type": "scale", "scale": [2.0, 0.5, 0.25]},
        {"type": "translation", "translation": [10.0, 0, 0]},
    ]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    out = tmp_path / "labels.zarr"
    assert run(model, source, "-o", out, "--pyramid", "--range", "2:6").exit_code == 0
    written = zarr.open_group(str(out), mode="r")
    ome = written.attrs["ome"]
    assert ome["version"] == "0.5"
    assert ome["image-label"]["colors"][1] == {"label-value": 1, "rgba": [230, 159, 0, 255]}
    assert ome["image-label"]["properties"][2] == {"label-value": 2, "name": "phase 2"}
    image = ome["multiscales"][0]
    assert image["axes"] == axes
    assert [entry["path"] for entry in image["datasets"]] == ["0", "1", "2", "3"]
    first, second = (entry["coordinateTransformations"] for entry in image["datasets"][:2])
    assert first == [
        {"type": "scale", "scale": [2.0, 0.5, 0.25]},
        {"type": "translation", "translation": [14.0, 0.0, 0.0]},
    ]
    assert second[0]["scale"] == [4.0, 1.0, 0.5]
    np.testing.assert_array_equal(written["1"][:], written["0"][::2, ::2, ::2])
    np.testing.assert_array_equal(written["3"][:], written["0"][::8, ::8, ::8])
    assert written.attrs["matseg"]["model_name"] == "alloy_v1"
    assert written["0"].fill_value == 255
    # what we write, we can read: labels as an input
    assert run(model, out, "-o", tmp_path / "again", "--dry-run").exit_code == 0


def test_probabilities(
    run: Run, model: Path, volume: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    assert run(model, volume, "-o", tmp_path / "a.zarr", "--probabilities").exit_code == 0
    chances = zarr.open_array(str(tmp_path / "a.zarr"), path="probabilities", mode="r")[:]
    assert chances.shape == (3, *VOLUME.shape)
    best = np.sort(chances, axis=0)
    clear = best[-1] > best[-2] + 1
    np.testing.assert_array_equal(chances.argmax(axis=0)[clear], labels[clear])
    assert run(model, volume, "-o", tmp_path / "b", "--probabilities").exit_code == 0
    pages = tifffile.imread(tmp_path / "b" / "scan_0007_probabilities.tif")
    np.testing.assert_array_equal(pages, chances[:, 7])


def test_a_stack_opens_page_by_page_with_its_colours(
    run: Run, model: Path, volume: Path, tmp_path: Path
) -> None:
    assert run(model, volume, "-o", tmp_path / "a.tif").exit_code == 0
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 20
        assert (tiff.pages[0].colormap[:, 1] >> 8).tolist() == [230, 159, 0]
        assert tiff.imagej_metadata["slices"] == 20
        assert json.loads(tiff.imagej_metadata["matseg"])["model_name"] == "alloy_v1"


def test_the_voxel_size_a_user_gives_is_in_the_stack(
    run: Run, model: Path, volume: Path, tmp_path: Path
) -> None:
    assert run(model, volume, "-o", tmp_path / "a.tif", "--voxel-size", "2,0.5,0.5um").exit_code == 0
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.imagej_metadata["spacing"] == 2
        across, per = tiff.pages[0].tags["XResolution"].value
        assert across / per == 2  # pixels a micrometre
    other = run(model, volume, "-o", tmp_path / "a.tif", "--voxel-size", "3um")
    assert other.exit_code == 2
    assert "voxels of" in " ".join(other.output.split())


def test_report_and_fractions_stand_beside_a_volume(
    run: Run, model: Path, volume: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    assert run(model, volume, "-o", tmp_path / "a.zarr").exit_code == 0
    rows = (tmp_path / "a.zarr.matseg" / "phase_fractions.csv").read_text().splitlines()
    assert len(rows) == 22
    assert int(rows[-1].split(",")[7]) == (labels == 1).sum()
    assert json.loads((tmp_path / "a.zarr.matseg" / "report.json").read_text())["complete"] is True


def test_a_torn_chunk_is_excluded(
    run: Run, model: Path, volume: Path, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    torn = volume / "c/1/0/2"
    torn.write_bytes(torn.read_bytes()[:20])
    result = run(model, volume, "-o", tmp_path / "a.zarr")
    assert result.exit_code == 4
    assert result.output.count("its chunk c/1/0/2 is damaged") == 8
    found = _read(tmp_path / "a.zarr")
    assert (found[8:16] == 255).all()
    np.testing.assert_array_equal(found[16:], labels[16:])


def test_an_input_that_lacks_all_chunks_is_refused(run: Run, model: Path, tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "empty.zarr"), shape=(4, 20, 20), chunks=(2, 20, 20), dtype="uint8")
    result = run(model, tmp_path / "empty.zarr")
    assert result.exit_code == 2
    assert "its chunk c/0/0/0 is missing" in result.output
    assert run(model, tmp_path / "empty.zarr", "--fill-missing-chunks").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "{volume}/labels.zarr"], "inside the input"),
        (["-o", "{volume}"], "inside the input"),
        (["-o", "a.h5"], "not .h5"),
        (["-o", "{tmp}/a.tif", "--pyramid"], "zarr outputs only"),
        (["-o", "{tmp}/a.tif", "--probabilities"], "not to a TIFF stack"),
        (["--memory", "3 bananas"], "expected a size such as 2GB"),
        (["--memory", "1MB"], "do not suffice"),
        (["--range", "5"], "expected START:STOP"),
        (["--range", "5:99"], "does not lie within its 20 slices"),
        (["--part", "5/4"], "expected K/N"),
        (["--level", "2"], "has no --level 2"),
        (["--finish"], "there is no job to finish"),
    ],
)
def test_wrong_use(
    run: Run, model: Path, volume: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    before = snapshot(tmp_path)
    result = run(model, volume, *(text.format(volume=volume, tmp=tmp_path) for text in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert snapshot(tmp_path) == before


def test_outputs_that_are_not_ours_are_left_alone(
    run: Run, model: Path, volume: Path, tmp_path: Path
) -> None:
    zarr.create_array(str(tmp_path / "mine.zarr"), shape=(2, 2), dtype="uint8")
    (tmp_path / "mine.tif").write_text("mine")
    for name, code in (("mine.zarr", 2), ("mine.tif", 2)):
        assert run(model, volume, "-o", tmp_path / name).exit_code == code
    assert run(model, volume, "-o", tmp_path / "mine.zarr", "--overwrite").exit_code == 2
    assert (tmp_path / "mine.tif").read_text() == "mine"
    assert run(model, volume, "-o", tmp_path / "mine.tif", "--overwrite").exit_code == 0


def test_overwrite_starts_afresh(run: Run, model: Path, volume: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    assert run(model, volume, "-o", out).exit_code == 0
    refused = run(model, volume, "-o", out, "--window", "0,99")
    assert refused.exit_code == 2
    assert "window: none then, 0,99 now" in refused.output
    done = run(model, volume, "-o", out, "--window", "0,99", "--overwrite")
    assert "20 of 20 slices labelled in this run" in done.output


def test_a_deleted_output_is_made_again(run: Run, model: Path, volume: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tif"
    assert run(model, volume, "-o", out).exit_code == 0
    content = out.read_bytes()
    out.unlink()
    assert "20 of 20 slices labelled in this run" in run(model, volume, "-o", out).output
    assert out.read_bytes() == content


def test_a_changed_volume_is_refused(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    assert run(model, tmp_path / "scan.npy", "-o", tmp_path / "a.zarr").exit_code == 0
    np.save(tmp_path / "scan.npy", VOLUME[::-1])
    past = time.time() - 100
    os.utime(tmp_path / "scan.npy", (past, past))
    result = run(model, tmp_path / "scan.npy", "-o", tmp_path / "a.zarr")
    assert result.exit_code == 2
    assert "input content" in result.output


def test_more_parts_than_units_are_told_so(run: Run, model: Path, volume: Path, tmp_path: Path) -> None:
    """A small volume is one layer of chunks: the first part does it all, and the others must not look broken."""
    for number in (1, 40):
        result = run(model, volume, "-o", tmp_path / "labels.tif", "--part", f"{number}/40")
        assert result.exit_code == 0, result.output
        assert "of the 40 parts ha" in result.output
        assert "20 slices are written" in result.output


@pytest.mark.parametrize("name", ["labels.zarr", "labels.tif", "labels.mhd", "labels"])
def test_parts_make_what_one_run_makes(
    run: Run, model: Path, volume: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "parts").mkdir()
    assert run(model, volume, "-o", tmp_path / "one" / name).exit_code == 0
    out = tmp_path / "parts" / name
    for number in (3, 1):
        result = run(model, volume, "-o", out, "--part", f"{number}/3")
        assert result.exit_code == 0
        assert f"part {number}-of-3 is done" in result.output
        assert not (tmp_path / "parts" / name).exists() or name == "labels"
        assert "parts have work" not in result.output
    result = run(model, volume, "-o", out, "--finish", "--part", "1/3")
    assert result.exit_code == 1
    assert "8 of 20 slices are not labelled yet" in result.output
    result = run(model, volume, "-o", out, "--part", "2/3")
    assert result.exit_code == 0
    assert f"labels: {out}" in result.output
    keep = lambda path: {  # noqa: E731
        name: content
        for name, content in snapshot(path).items()
        if ".matseg/" not in name and "report" not in name
    }
    assert keep(tmp_path / "parts") == keep(tmp_path / "one")
    assert run(model, volume, "-o", out, "--finish").exit_code == 0


def test_dry_run_writes_nothing(run: Run, model: Path, volume: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    result = run(model, volume, "-o", tmp_path / "a.zarr", "--dry-run", "--tile", "40")
    assert result.exit_code == 0
    for text in (
        "20 of 45 x 50 pixels, 8 to a block",
        "6 per slice, 40 x 40 pixels",
        "halo overhead",
        "memory:",
        "inference: about",
    ):
        assert text in result.output
    assert snapshot(tmp_path) == before


def test_less_memory_means_smaller_tiles_and_units(run: Run, model: Path, tmp_path: Path) -> None:
    array = zarr.create_array(
        str(tmp_path / "big.zarr"), shape=(64, 1500, 1500), chunks=(32, 500, 500), dtype="uint8"
    )
    array[:1] = 5
    plans = [
        run(model, tmp_path / "big.zarr", "-o", tmp_path / "a.zarr", "--dry-run", "--memory", memory).output
        for memory in ("12GB", "600MB")  # this process may hold a gigabyte of other tests
    ]
    assert "the whole slice" in plans[0]
    assert "32 to a block" in plans[0]
    assert "the whole slice" not in plans[1]
    assert "32 to a block" not in plans[1]
