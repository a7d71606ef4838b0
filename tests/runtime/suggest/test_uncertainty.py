"""Uncertain pixels of a model, and which slices or crops are proposed for labelling."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import Result
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image
from segmenting import segment_image

from matseg_runtime.inference.session import Session
from matseg_runtime.records import CropScore, SliceRecord, SliceUncertainty
from matseg_runtime.suggest.choose import choose, default_spacing
from matseg_runtime.suggest.index import UncertainIndex, read_index
from matseg_runtime.suggest.uncertainty import doubtful_places, measure_uncertainty, unsureness
from matseg_shared.contract.classes import read_classes

Run = Callable[..., Result]
Probabilities = NDArray[np.float32]


def _two_classes(first: NDArray[np.floating]) -> Probabilities:
    return np.stack([first, 1 - first]).astype(np.float32)


def _sure(shape: tuple[int, int] = (80, 90)) -> NDArray[np.float64]:
    return np.where(np.arange(shape[1]) < shape[1] // 2, 0.999, 0.001) * np.ones(shape)


@pytest.mark.parametrize("shape", [(31, 42), (9, 9), (5, 7), (1, 30)])
def test_doubtful_places_are_means_over_neighbourhoods(shape: tuple[int, int]) -> None:
    unsure = np.random.default_rng(0).integers(0, 105, shape).astype(np.uint8)
    expected = np.empty(shape, np.bool_)
    for y, x in np.ndindex(*shape):
        around = unsure[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
        expected[y, x] = around.sum(dtype=int) > 51 * around.size
    np.testing.assert_array_equal(doubtful_places(unsure), expected)
    assert expected.any() or shape == (1, 30)


def test_a_sharp_boundary_is_no_doubtful_place_and_a_doubtful_grain_is() -> None:
    boundary = _sure()
    boundary[:, 44:46] = 0.5
    grain = _sure()
    grain[30:50, 10:30] = 0.55
    found = [measure_uncertainty(_two_classes(first)) for first in (_sure(), boundary, grain)]
    assert [item.doubtful == 0 for item in found] == [True, True, False]
    assert found[2].doubtful == pytest.approx(20 * 20, rel=0.25)
    assert found[1].unsureness > found[0].unsureness, "which decides between equal scores"


def test_an_int8_models_levels_are_as_good() -> None:
    first = np.clip(_sure() + np.random.default_rng(1).normal(0, 0.3, (80, 90)), 0, 1)
    levels = np.rint(first * 255) / 255
    assert measure_uncertainty(_two_classes(first)) == measure_uncertainty(_two_classes(levels))


def test_crops_are_the_most_uncertain_and_do_not_overlap() -> None:
    first = _sure((200, 300))
    for y, x, size in ((20, 30, 30), (120, 200, 22), (120, 40, 14)):
        first[y : y + size, x : x + size] = 0.5
    found = measure_uncertainty(_two_classes(first), edge=64, most=3)
    assert [item.doubtful for item in found.crops] == sorted(
        (item.doubtful for item in found.crops), reverse=True
    )
    for item, (y, x, size) in zip(found.crops, ((20, 30, 30), (120, 200, 22), (120, 40, 14)), strict=True):
        assert item.y <= y < y + size <= item.y + 64
        assert item.x <= x < x + size <= item.x + 64
        crop = unsureness(_two_classes(first))[item.y : item.y + 64, item.x : item.x + 64]
        assert item.unsureness == crop.sum(dtype=int)
    everything = measure_uncertainty(_two_classes(first), edge=64, most=1000).crops
    covered = np.zeros((200, 300), int)
    for item in everything:
        covered[item.y : item.y + 64, item.x : item.x + 64] += 1
    assert covered.max() == 1
    assert 6 <= len(everything) <= 3 * 4


def test_a_crop_larger_than_the_slice_is_the_slice() -> None:
    found = measure_uncertainty(_two_classes(_sure((40, 50))), edge=64, most=5)
    assert [(item.y, item.x) for item in found.crops] == [(0, 0)]
    assert found.crops[0].unsureness == found.unsureness


def _records(
    scores: Sequence[int], crops: Sequence[tuple[CropScore, ...]] | None = None
) -> list[SliceRecord]:
    return [
        SliceRecord(
            name=f"s{number}",
            index=number,
            where=f"s{number}.png",
            identity="",
            shape=(100, 100),
            counts=(10_000,),
            uncertainty=SliceUncertainty(
                doubtful=score,
                unsureness=score,
                edge=None if crops is None else 50,
                crops=crops[number] if crops else (),
            ),
        )
        for number, score in enumerate(scores)
    ]


def test_neighbours_of_a_chosen_slice_are_left_out() -> None:
    scores = [0, 10, 90, 100, 95, 20, 80, 5, 6, 7]
    assert [item.record.index for item in choose(_records(scores), 3, None, 1)] == [3, 4, 2]
    assert [item.record.index for item in choose(_records(scores), 3, None, 3)] == [3, 6, 9]
    assert [item.score for item in choose(_records(scores), 1, None, 3)] == [0.01]


@pytest.mark.parametrize(("slices", "count"), [(1, 1), (10, 3), (10, 10), (2000, 7), (600, 400), (5, 9)])
def test_the_default_spacing_leaves_as_many_as_were_asked_for(slices: int, count: int) -> None:
    """Whatever the scores: here the worst ones for it, in the middle between all others."""
    spacing = default_spacing(slices, count)
    scores = np.random.default_rng(count).integers(0, 1000, slices).tolist()
    chosen = choose(_records(scores), count, None, spacing)
    assert len(chosen) == min(count, slices)
    places = sorted(item.record.index for item in chosen)
    assert all(second - first >= spacing for first, second in itertools.pairwise(places))


def test_crops_at_one_place_of_neighbouring_slices_are_alike() -> None:
    crops = [
        (
            CropScore(y=0, x=0, doubtful=90 - number, unsureness=0),
            CropScore(y=50, x=50, doubtful=20 - number, unsureness=0),
        )
        for number in range(4)
    ]
    chosen = choose(_records([0] * 4, crops), 3, 50, 2)
    assert [(item.record.index, item.box.y0) for item in chosen if item.box is not None] == [
        (0, 0),
        (2, 0),
        (0, 50),
    ]
    assert len(choose(_records([0] * 4, crops), 9, 50, 100)) == 2, "one per place"


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)


def _index(folder: Path) -> UncertainIndex:
    found = read_index(folder)
    assert found is not None
    return found


def test_a_folder_of_proposals(run: Run, model: Path, slices: Path, tmp_path: Path, session: Session) -> None:
    result = run(model, slices, "-o", tmp_path / "out", "--uncertain", 3, "--json")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out_uncertain"
    report = json.loads(result.stdout)
    assert (Path(report["uncertain"]), report["proposals"]) == (folder, 3)
    index = _index(folder)
    assert [item.score for item in index.items] == sorted((item.score for item in index.items), reverse=True)
    for item in index.items:
        assert item.name == f"scan_{item.slice}"
        assert (folder / item.image).read_bytes() == (slices / f"{item.slice}.png").read_bytes()
        labels = _pixels(folder / item.label)
        np.testing.assert_array_equal(labels, _pixels(tmp_path / "out" / f"{item.slice}.png"))
        _, probabilities = segment_image(session, _pixels(folder / item.image)[None], probabilities=True)
        picture = _pixels(folder / item.map).astype(float)
        np.testing.assert_allclose(picture / 255, (1 - probabilities.max(axis=0)) * 3 / 2, atol=0.01)
        found = measure_uncertainty(probabilities)
        assert (item.score, item.unsureness) == (
            found.doubtful / labels.size,
            found.unsureness / 255 / labels.size,
        )
    assert [item.name for item in read_classes(folder / "classes.toml")] == ["phase 0", "phase 1", "phase 2"]
    lines = (tmp_path / "out" / "uncertainty.csv").read_text().splitlines()
    assert lines[0] == "slice,position,score,unsureness,chosen"
    assert sum(line.endswith(",1") for line in lines) == 3
    assert not list((tmp_path / "out").glob("*_probabilities.tif")), "they were not asked for"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".matseg-")]


def _tiff(root: Path, volume: NDArray[np.uint8]) -> str:
    tifffile.imwrite(root / "scan.tif", volume, photometric="minisblack")
    return str(root / "scan.tif")


def _zarr(root: Path, volume: NDArray[np.uint8]) -> str:
    zarr.create_array(str(root / "scan.zarr"), data=volume, chunks=(4, 32, 32))
    return str(root / "scan.zarr")


def _hdf5(root: Path, volume: NDArray[np.uint8]) -> str:
    with h5py.File(root / "scan.h5", "w") as file:
        file["data"] = volume
    return f"{root / 'scan.h5'}::/data"


@pytest.mark.parametrize(
    ("make", "output", "extra"),
    [
        (_tiff, "out", ["--tile", "36"]),
        (_zarr, "out.zarr", ["--quantify"]),
        (_hdf5, "out.tif", ["--axis", "1"]),
    ],
)
def test_crops_of_volumes(
    run: Run, model: Path, tmp_path: Path, make: Callable[..., str], output: str, extra: list[str]
) -> None:
    volume = onnx_models.random_pixels((9, 70, 80), "uint8", 4)
    result = run(
        model,
        make(tmp_path, volume),
        "-o",
        tmp_path / output,
        "--uncertain",
        4,
        "--uncertain-crop",
        32,
        *extra,
    )
    assert result.exit_code == 0, result.output
    index = _index(tmp_path / "out_uncertain")
    assert (len(index.items), index.crop) == (4, 32)
    axis = 1 if "--axis" in extra else 0
    for item in index.items:
        box = item.box
        assert box is not None
        assert item.name == f"scan_{item.position:04}_x{box.x0}_y{box.y0}"
        crop = volume.take(item.position, axis)[box.slices()]
        np.testing.assert_array_equal(_pixels(tmp_path / "out_uncertain" / item.image), crop)
        for name in (item.label, item.map):
            assert _pixels(tmp_path / "out_uncertain" / name).shape == crop.shape


def test_16_bit_pixels_stay_and_a_window_gives_the_models(run: Run, model: Path, tmp_path: Path) -> None:
    wide = onnx_models.save_model(tmp_path / "wide_v1.onnx", dtype="uint16", name="wide_v1")
    volume = onnx_models.random_pixels((4, 40, 44), "uint16", 4)
    np.save(tmp_path / "scan.npy", volume)
    assert run(wide, tmp_path / "scan.npy", "-o", tmp_path / "a", "--uncertain", 1).exit_code == 0
    item = _index(tmp_path / "a_uncertain").items[0]
    pixels = tifffile.imread(tmp_path / "a_uncertain" / item.image)
    np.testing.assert_array_equal(pixels, volume[item.position])
    assert pixels.dtype == np.uint16
    mapped = run(model, tmp_path / "scan.npy", "-o", tmp_path / "b", "--uncertain", 1, "--window", "0,65535")
    assert mapped.exit_code == 0, mapped.output
    index = _index(tmp_path / "b_uncertain")
    assert index.window == "0,65535"
    pixels = _pixels(tmp_path / "b_uncertain" / index.items[0].image)
    np.testing.assert_array_equal(pixels, np.rint(volume[index.items[0].position] / 257).astype(np.uint8))


def test_the_same_proposals_whatever_the_tiles_and_parts(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((8, 60, 64), "uint8", 4))
    common = (model, tmp_path / "scan.npy", "--uncertain", 3, "--uncertain-crop", 24, "--threads", 1)
    for folder in ("whole", "tiled", "parts"):
        (tmp_path / folder).mkdir()
    assert run(*common, "-o", tmp_path / "whole" / "out").exit_code == 0
    assert run(*common, "-o", tmp_path / "tiled" / "out", "--tile", 36).exit_code == 0
    for part in ("1/2", "2/2"):
        result = run(*common, "-o", tmp_path / "parts" / "out", "--part", part)
        assert result.exit_code == 0, result.output
    assert run(*common, "-o", tmp_path / "parts" / "out", "--finish").exit_code == 0
    found = [_index(tmp_path / folder / "out_uncertain").items for folder in ("whole", "tiled", "parts")]
    assert found[0] == found[1] == found[2]


def test_parts_that_were_not_scored_are_told_of(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((4, 40, 44), "uint8", 4))
    common = (model, tmp_path / "scan.npy", "-o", tmp_path / "out")
    for part in ("1/2", "2/2"):
        assert run(*common, "--part", part).exit_code == 0
    result = run(*common, "--finish", "--uncertain", 2)
    assert result.exit_code == 0
    assert "4 slices were labelled without --uncertain" in result.output
    assert not (tmp_path / "out_uncertain").exists()
    again = run(*common, "--uncertain", 2)
    assert again.exit_code == 0, again.output
    assert "4 of 4 slices labelled in this run" in again.output
    assert len(_index(tmp_path / "out_uncertain").items) == 2


def test_asked_for_later_slices_are_labelled_again_with_the_same_bytes(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(model, slices, "-o", out).exit_code == 0
    before = {name: content for name, content in snapshot(out).items() if name.endswith(".png")}
    assert run(model, slices, "-o", out, "--uncertain", 2).exit_code == 0
    assert {name: content for name, content in snapshot(out).items() if name.endswith(".png")} == before
    third = run(model, slices, "-o", out, "--uncertain", 2)
    assert "0 of 6 slices labelled in this run, 6 before" in third.output


def test_labels_somebody_worked_on_are_never_replaced(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "out_uncertain"
    assert run(model, slices, "-o", out, "--uncertain", 2).exit_code == 0
    label = folder / _index(folder).items[0].label
    Image.fromarray(np.zeros((40, 52), np.uint8)).save(label)
    before = snapshot(folder)
    assert run(model, slices, "-o", out, "--uncertain", 2).exit_code == 0
    assert snapshot(folder) == before, "the same proposals stay"
    other = run(model, slices, "-o", out, "--uncertain", 3, "--overwrite")
    assert other.exit_code == 0
    assert "whose labels somebody has worked on" in other.output
    assert snapshot(folder) == before
    folder.rename(tmp_path / "mine")
    assert run(model, slices, "-o", out, "--uncertain", 3).exit_code == 0
    assert len(_index(folder).items) == 3
    one = run(model, slices, "-o", out, "--uncertain", 1)
    assert one.exit_code == 0
    assert f"1 proposal for labelling: {folder}; correct the labels in its train/labels" in one.output
    assert len(list((folder / "train" / "labels").iterdir())) == 1, "nobody had worked on these"


def test_an_image_that_is_gone_when_it_is_to_be_copied(
    run: Run, model: Path, slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(*arguments: object) -> object:
        for path in slices.iterdir():
            path.write_bytes(b"something else")
        return choose(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("matseg_runtime.run.tables.choose", spoil)
    result = run(model, slices, "-o", tmp_path / "out", "--uncertain", 2)
    assert result.exit_code == 0, result.output
    assert "2 uncertain slices could not be copied" in result.output
    assert (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--uncertain", "0"], "Invalid value"),
        (["--uncertain-crop", "64"], "--uncertain-crop applies with --uncertain only"),
        (["--uncertain-spacing", "4"], "--uncertain-spacing applies with --uncertain only"),
        (["--connectivity", "4"], "--connectivity applies with --quantify only"),
        (["--voxel-size", "huge"], "expected the edge of a voxel with its unit"),
    ],
)
def test_wrong_use(
    run: Run, model: Path, slices: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(model, slices, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_watched(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    result = run(
        model,
        slices,
        "-o",
        tmp_path / "out",
        "--watch",
        "--until",
        6,
        "--uncertain",
        2,
        "--uncertain-spacing",
        1,
    )
    assert result.exit_code == 0, result.output
    chosen = {item.name for item in _index(tmp_path / "out_uncertain").items}
    assert run(model, slices, "-o", tmp_path / "b", "--uncertain", 2, "--uncertain-spacing", 1).exit_code == 0
    assert {item.name for item in _index(tmp_path / "b_uncertain").items} == chosen


def test_more_than_there_are(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    result = run(model, slices, "-o", tmp_path / "out", "--uncertain", 9, "--uncertain-spacing", 2)
    assert result.exit_code == 0
    assert "3 of 9 uncertain places were found that are 2 slices apart" in result.output
