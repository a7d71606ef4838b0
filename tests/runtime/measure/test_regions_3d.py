"""Regions in three dimensions by blocks of slices: the same as of the whole volume at once, at every size of block."""

from __future__ import annotations

import csv
import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import measure

from matseg_runtime.cli.quantify import quantify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.measure import regions_3d
from matseg_runtime.measure.blocks_3d import OFFSETS, Crossings, Regions, measure_block
from matseg_runtime.measure.regions_3d import VolumeTotals, measure_volume, plan_blocks
from matseg_runtime.measure.report import QUANTITIES_3D_NAME, REGIONS_3D_NAME, SUMMARY_3D_NAME, SUMMARY_NAME
from matseg_runtime.records import Connectivity
from matseg_runtime.units import VoxelSize, parse_voxel_size

NONE = 255
crossings_of = functools.cache(Crossings.of)
CUBE = VoxelSize(step=1.0, row=1.0, column=1.0, unit="um")


def measured(
    volume: NDArray[np.uint8],
    depth: int,
    connectivity: Connectivity = 8,
    workers: int = 1,
    voxel: VoxelSize = CUBE,
) -> tuple[VolumeTotals, Regions]:
    """Totals, and all regions in the order in which they came."""
    found: list[Regions] = []
    totals = measure_volume(
        volume,
        int(volume[volume != NONE].max(initial=0)) + 1,
        depth=depth,
        connectivity=connectivity,
        crossings=crossings_of(voxel),
        workers=workers,
        finished=found.append,
    )
    joined = found[0]
    for more in found[1:]:
        joined = joined.with_others(more)
    return totals, joined


def noise(seed: int, shape: tuple[int, int, int], classes: int, *, holes: bool) -> NDArray[np.uint8]:
    """Classes in grains of a few voxels; with `holes` some have no label."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, [length // 2 + 1 for length in shape])
    volume = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(length) for length in shape)]
    volume = np.where(rng.random(shape) < 0.2, rng.integers(0, classes, shape), volume)
    return np.where(rng.random(shape) < 0.05 * holes, NONE, volume).astype(np.uint8)


def expected_regions(volume: NDArray[np.uint8], connectivity: Connectivity) -> list[tuple[int, ...]]:
    """(last slice, first voxel, class, voxels, at border) of each region, from scikit-image's labels of the whole."""
    whole: Any = measure.label(volume, background=NONE, connectivity=1 if connectivity == 4 else 3)
    padded = np.pad(whole, 1)
    found = []
    for number in range(1, whole.max() + 1):
        inside = whole == number
        places = np.flatnonzero(inside)
        z, y, x = np.nonzero(np.pad(inside, 1))
        neighbours = [
            padded[z + dz, y + dy, x + dx]
            for dz, dy, dx in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
        ]
        at_border = bool((np.array(neighbours) == 0).any())  # the frame, or a voxel without a label
        last = int(places[-1]) // volume[0].size
        found.append((last, int(places[0]), int(volume.ravel()[places[0]]), places.size, int(at_border)))
    return sorted(found)


def as_tuples(regions: Regions) -> list[tuple[int, ...]]:
    columns = (regions.last, regions.first, regions.owner, regions.voxels, regions.at_border.astype(int))
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("holes", [False, True])
def test_every_size_of_block_gives_the_regions_of_the_whole(connectivity: Connectivity, holes: bool) -> None:
    volume = noise(3, (9, 12, 11), 4, holes=holes)
    expected = expected_regions(volume, connectivity)
    assert len(expected) > 20
    whole, all_at_once = measured(volume, len(volume), connectivity)
    for depth in range(1, len(volume) + 2):
        totals, regions = measured(volume, depth, connectivity)
        assert as_tuples(regions) == expected
        for field in fields(Regions):
            np.testing.assert_array_equal(getattr(regions, field.name), getattr(all_at_once, field.name))
        np.testing.assert_array_equal(totals.pairs, whole.pairs)
        np.testing.assert_array_equal(totals.crossings, whole.crossings)
        assert totals.classes == whole.classes


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 6)),
    classes=st.integers(1, 4),
    holes=st.booleans(),
    depth=st.integers(1, 8),
    connectivity=st.sampled_from([4, 8]),
    seed=st.integers(0, 1000),
)
def test_volumes_of_any_shape_are_labelled_as_the_whole(
    shape: tuple[int, int, int], classes: int, holes: bool, depth: int, connectivity: Connectivity, seed: int
) -> None:
    volume = noise(seed, shape, classes, holes=holes)
    volume[0, 0, 0] = 0
    totals, regions = measured(volume, depth, connectivity, workers=2)
    assert as_tuples(regions) == expected_regions(volume, connectivity)
    for number, item in enumerate(totals.classes):
        mine = regions.voxels[regions.owner == number]
        assert item.voxels == np.count_nonzero(volume == number) == mine.sum()
        assert item.regions == mine.size
        assert item.largest == mine.max(initial=0)
        complete = regions.voxels[(regions.owner == number) & ~regions.at_border]
        assert item.sizes == Counter(complete.tolist())
        assert item.at_border == mine.size - complete.size


def test_a_spiral_that_meets_itself_slices_later_is_one_region() -> None:
    """Two arms that join at the end, and a third that does not, are found out block by block."""
    volume = np.ones((12, 9, 9), np.uint8)
    volume[:, 1, 1] = volume[:, 1, 7] = volume[:, 7, 4] = 0
    volume[10, 1, 1:8] = 0
    for depth in (1, 2, 5, 12):
        totals, regions = measured(volume, depth, 4)
        assert totals.classes[0].regions == 2
        assert sorted(regions.voxels[regions.owner == 0].tolist()) == [12, 12 * 2 + 5]


def test_regions_that_end_are_not_kept() -> None:
    """Memory holds those grains of a volume that reach the last slice so far."""
    volume = noise(7, (30, 12, 12), 3, holes=False)
    ended: list[Regions] = []
    joined = regions_3d._Volume(ended.append)
    areas = crossings_of(CUBE).areas
    for start in range(0, 28, 2):
        block = volume[start : start + 3]
        joined.add(measure_block(block, start=start, is_last=False, classes=3, connectivity=4, areas=areas))
        assert joined._open is not None
        assert len(joined._open) <= len(np.unique(joined._bottom))
        assert (joined._open.last == start + 2).all()
    assert sum(map(len, ended)) > 5 * len(joined._open)


def crossings_by_hand(volume: NDArray[np.uint8], of_class: int) -> NDArray[np.int64]:
    """(13,) neighbours of which one is of the class and the other of another; 26 neighbours, each pair once."""
    found = np.zeros(len(OFFSETS), np.int64)
    depth, height, width = volume.shape
    for z, y, x in np.ndindex(volume.shape):
        for direction, (dz, dy, dx) in enumerate(OFFSETS):
            other = (z + dz, y + dy, x + dx)
            if 0 <= other[0] < depth and 0 <= other[1] < height and 0 <= other[2] < width:
                both = {int(volume[z, y, x]), int(volume[other])}
                found[direction] += len(both) == 2 and of_class in both and NONE not in both
    return found


def test_crossings_are_those_of_all_thirteen_directions() -> None:
    volume = noise(5, (5, 6, 4), 3, holes=True)
    totals, regions = measured(volume, 2)
    areas = crossings_of(CUBE).areas
    for number in range(3):
        expected = crossings_by_hand(volume, number)
        np.testing.assert_array_equal(totals.crossings[number], expected)
        assert regions.surface[regions.owner == number].sum() == expected @ areas


def ball(radius: float, step: float, margin: float = 3.0) -> NDArray[np.uint8]:
    """A ball, of slices that are `step` apart."""
    z = np.arange(-radius - margin, radius + margin, step)
    y = np.arange(-radius - margin, radius + margin)
    return (
        np.square(z + 0.3)[:, None, None] + np.square(y + 0.2)[:, None] + np.square(y - 0.1) < radius**2
    ).astype(np.uint8)


@pytest.mark.parametrize("step", [1.0, 2.5, 0.5])
def test_the_surface_of_a_ball_is_right_whatever_the_voxels(step: float) -> None:
    volume = ball(14.0, step)
    voxel = VoxelSize(step=step, row=1.0, column=1.0, unit="um")
    crossings = crossings_of(voxel)
    totals, regions = measured(volume, 5, voxel=voxel)
    (surface,) = regions.surface[regions.owner == 1] * crossings.unit
    assert surface == pytest.approx(4 * np.pi * 14.0**2, rel=0.015)
    (voxels,) = regions.voxels[regions.owner == 1]
    assert voxels * step == pytest.approx(4 / 3 * np.pi * 14.0**3, rel=0.015)
    per_volume = crossings.per_volume(totals.crossings[1], totals.pairs)
    assert per_volume == pytest.approx(surface / (volume.size * step), rel=0.12), (
        "pairs at the frame are fewer"
    )


def test_a_direction_of_the_grid_stands_for_its_share_of_the_sphere() -> None:
    """Those of cubes as Ohser and Muecklich (2000) give them, for each of 26 directions."""
    crossings = crossings_of(CUBE)
    known = {1: 0.045778, 2: 0.036981, 3: 0.035196}
    for offset, share in zip(OFFSETS, crossings.shares, strict=True):
        assert share == pytest.approx(2 * known[sum(map(abs, offset))], abs=2e-4)
    assert crossings.shares.sum() == pytest.approx(1)
    long = crossings_of(VoxelSize(step=100.0, row=1.0, column=1.0, unit="um"))
    assert long.shares.sum() == pytest.approx(1)
    within = [share for offset, share in zip(OFFSETS, long.shares, strict=True) if offset[0] == 0]
    assert within == pytest.approx([within[0]] * 4, rel=0.01)
    assert sum(within) > 0.6


def test_a_layer_has_the_surface_of_its_two_faces() -> None:
    """Within the error of 13 directions for the worst one, along the grid."""
    volume = np.zeros((20, 24, 24), np.uint8)
    volume[8:13] = 1
    totals, _ = measured(volume, 6)
    per_volume = crossings_of(CUBE).per_volume(totals.crossings[1], totals.pairs)
    assert per_volume == pytest.approx(2 / 20, rel=0.12)


def test_as_many_blocks_are_measured_at_a_time_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions_3d, "MEMORY", 40 * 100 * 12)
    assert plan_blocks(100, 1) == (11, 1)
    assert plan_blocks(100, 2) == (5, 2)
    assert plan_blocks(100, 16) == (3, 3), "fewer threads, rather than blocks of which most is done twice"
    assert plan_blocks(10**6, 16) == (1, 1)
    assert plan_blocks(1, 1) == (64, 1)


# ---- the command


def quantify(*arguments: object) -> Result:
    return CliRunner().invoke(quantify_main, [str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def two_balls() -> NDArray[np.uint8]:
    """A whole ball of class 1, one of class 2 that the last slice cuts off; 255 in a corner."""
    z, y, x = np.mgrid[:12, :20, :24]
    volume = np.zeros((12, 20, 24), np.uint8)
    volume[(z - 5) ** 2 + (y - 6) ** 2 + (x - 7) ** 2 < 16] = 1
    volume[(z - 10) ** 2 + (y - 12) ** 2 + (x - 16) ** 2 < 25] = 2
    volume[:2, :3, :3] = 255
    return volume


VOLUME = two_balls()


def test_tables_tell_of_every_region_and_every_class(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "labels.zarr"), data=VOLUME, chunks=(5, 20, 24))
    out = tmp_path / "out"
    result = quantify(
        tmp_path / "labels.zarr", "--regions", "3d", "--voxel-size", "2,0.5um", "--no-data", 255,
        "--names", "liquid,pore,grain", "-o", out, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    regions = rows_of(out / REGIONS_3D_NAME)
    assert [row["class"] for row in regions] == ["pore", "grain", "liquid"] or len(regions) == 3
    pore = next(row for row in regions if row["class"] == "pore")
    voxels = int((VOLUME == 1).sum())
    assert (pore["voxels"], pore["value"], pore["at border"]) == (str(voxels), "1", "0")
    volume = voxels * 2 * 0.25
    assert float(pore["volume (um^3)"]) == pytest.approx(volume, rel=1e-5)
    assert float(pore["diameter (um)"]) == pytest.approx((6 / np.pi * volume) ** (1 / 3), rel=1e-5)
    place = tuple(int(pore[name]) for name in ("slice", "row", "column"))
    assert VOLUME[place] == 1
    assert (VOLUME[: place[0]] != 1).all()
    assert pore["last slice"] == str(int(np.nonzero(VOLUME == 1)[0].max()))
    assert next(row for row in regions if row["class"] == "grain")["at border"] == "1"
    classes = {row["class"]: row for row in rows_of(out / QUANTITIES_3D_NAME)}
    assert classes["pore"]["regions"] == "1"
    assert classes["pore"]["surface (um^2)"] == pore["surface (um^2)"]
    assert classes["grain"]["mean diameter (um)"] == "", "no region has a size"
    assert float(classes["grain"]["largest share"]) == 1
    document = json.loads((out / SUMMARY_3D_NAME).read_text(encoding="utf-8"))
    assert document["shape"] == [12, 20, 24]
    assert document["connectivity"] == 26
    assert document["unlabelled_voxels"] == int((VOLUME == 255).sum())
    assert document["classes"][1]["histogram"][0]["regions"] == 1
    assert json.loads(result.stdout)["regions_3d"] == document
    assert (out / SUMMARY_NAME).is_file(), "the tables per slice are written as ever"
    assert "pore in 3D: 1 regions (0 at the border), 100.0% of it in the largest" in result.stderr


def files_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in (REGIONS_3D_NAME, QUANTITIES_3D_NAME)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_every_format_and_type_gives_the_same_bytes(tmp_path: Path, dtype: Any) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, photometric="minisblack")
    assert quantify(tmp_path / "a.tif", "--regions", "3d", "-o", tmp_path / "one").exit_code == 0
    np.save(tmp_path / "b.npy", VOLUME.astype(dtype))
    assert (
        quantify(tmp_path / "b.npy", "--regions", "3d", "-o", tmp_path / "two", "--workers", 1).exit_code == 0
    )
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert len(rows_of(tmp_path / "one" / REGIONS_3D_NAME)) == 4


def test_large_values_are_classes_too(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.where(VOLUME == 2, 70_000, VOLUME.astype(np.int64)))
    result = quantify(tmp_path / "b.npy", "--regions", "3d", "--no-data", 255)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "b_quantities" / SUMMARY_3D_NAME).read_text(encoding="utf-8"))
    assert [(item["value"], item["regions"]) for item in document["classes"]] == [(0, 1), (1, 1), (70_000, 1)]


def test_faces_alone_connect_with_connectivity_4(tmp_path: Path) -> None:
    volume = np.zeros((6, 6, 6), np.uint8)
    volume[1, 1, 1] = volume[2, 2, 2] = 1
    np.save(tmp_path / "a.npy", volume)
    for connectivity, regions, neighbours in ((4, 2, 6), (8, 1, 26)):
        out = tmp_path / str(connectivity)
        assert (
            quantify(
                tmp_path / "a.npy", "--regions", "3d", "--connectivity", connectivity, "-o", out
            ).exit_code
            == 0
        )
        document = json.loads((out / SUMMARY_3D_NAME).read_text(encoding="utf-8"))
        assert document["classes"][1]["regions"] == regions
        assert document["connectivity"] == neighbours


def write_images(folder: Path, volume: Sequence[NDArray[np.uint8]]) -> Path:
    folder.mkdir()
    for number, labels in enumerate(volume):
        Image.fromarray(labels).save(folder / f"z{number:02}.png")
    return folder


def test_regions_end_at_a_slice_that_cannot_be_read(tmp_path: Path) -> None:
    volume = np.zeros((7, 8, 8), np.uint8)
    volume[2:6, 3:5, 3:5] = 1
    folder = write_images(tmp_path / "labels", volume)
    (folder / "z03.png").write_bytes(b"no picture")
    result = quantify(folder, "--regions", "3d", "-o", tmp_path / "out")
    assert result.exit_code == 4, result.output
    rows = [row for row in rows_of(tmp_path / "out" / REGIONS_3D_NAME) if row["value"] == "1"]
    assert [(row["voxels"], row["at border"], row["slice"]) for row in rows] == [
        ("4", "1", "2"),
        ("8", "1", "4"),
    ]
    assert json.loads((tmp_path / "out" / SUMMARY_3D_NAME).read_text(encoding="utf-8"))["excluded"] == 1


def test_slices_that_were_lost_are_told(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "labels", np.zeros((9, 5, 5), np.uint8))
    (folder / "z04.png").unlink()
    result = quantify(folder, "--regions", "3d")
    assert result.exit_code == 0
    assert "warning: the images are numbered in steps of 1, but for 1 place(s)" in result.output


def test_slices_of_several_shapes_are_no_volume(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "labels", [np.zeros((5, 5), np.uint8), np.zeros((5, 6), np.uint8)])
    result = quantify(folder, "--regions", "3d", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "z01.png: expected a slice of 5 x 5 pixels, as those before, found 5 x 6" in result.output
    assert not list((tmp_path / "out").glob("*"))


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME[0])
    result = quantify(tmp_path / "a.npy", "--regions", "3d")
    assert result.exit_code == 2
    assert "expected a volume of several slices for --regions 3d, found one slice" in result.output


def test_an_unknown_step_between_slices_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for number in range(3):
        tifffile.imwrite(
            tmp_path / "labels" / f"{number}.tif", VOLUME[number], imagej=True, resolution=(2.0, 2.0),
            metadata={"unit": "um"},
        )  # fmt: skip
    result = quantify(tmp_path / "labels", "--regions", "3d")
    assert result.exit_code == 2
    assert "needs the step between slices, and known is the pixel alone (0.5 x 0.5 um" in result.output
    assert quantify(tmp_path / "labels", "--regions", "3d", "--voxel-size", "1,0.5um").exit_code == 0


def test_labels_that_change_meanwhile_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    original = regions_3d.class_numbers

    def others(labels: NDArray[Any], values: Sequence[int]) -> NDArray[np.uint8]:
        return original(np.where(labels == 1, 0, labels).astype(labels.dtype), values)

    monkeypatch.setattr(regions_3d, "class_numbers", others)
    result = quantify(tmp_path / "a.npy", "--regions", "3d", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "its labels have changed while they were measured" in result.output
    assert not list((tmp_path / "out").glob("*"))


def test_a_volume_without_any_label_has_no_regions(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 4, 5), 255, np.uint8))
    result = quantify(tmp_path / "a.npy", "--regions", "3d", "--no-data", 255, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out" / SUMMARY_3D_NAME).exists()


def test_the_page_of_a_run_shows_them_and_a_run_with_other_labels_removes_them(tmp_path: Path) -> None:
    model = onnx_models.save_model(tmp_path / "alloy_v1.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 48), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", pixels, photometric="minisblack")
    labels = tmp_path / "labels.zarr"
    run = [str(model), str(tmp_path / "scan.tif"), "-o", str(labels)]
    assert CliRunner().invoke(run_main, run).exit_code == 0
    assert quantify(labels, "--regions", "3d", "--voxel-size", "0.5um").exit_code == 0
    side = tmp_path / "labels.zarr.matseg"
    assert (side / REGIONS_3D_NAME).is_file()
    again = CliRunner().invoke(run_main, [*run, "--report"])
    assert again.exit_code == 0, again.output
    page = (side / "report.html").read_text(encoding="utf-8")
    assert "Connected regions in three dimensions" in page
    assert "6 × 40 × 48 voxels, 26 neighbours" in page
    (side / "report.json").unlink()
    replaced = CliRunner().invoke(run_main, [*run, "--overwrite"])
    assert replaced.exit_code == 0, replaced.output
    assert not (side / REGIONS_3D_NAME).exists()
    assert "measure again with matseg-quantify --regions 3d" in replaced.output or "3d" not in replaced.output


def test_a_voxel_size_of_three_numbers_follows_the_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    for axis in (0, 2):
        out = tmp_path / str(axis)
        result = quantify(
            tmp_path / "a.npy", "--regions", "3d", "--voxel-size", "2,0.5,0.25um", "--axis", axis, "-o", out
        )
        assert result.exit_code == 0, result.output
    one, other = (
        json.loads((tmp_path / str(axis) / SUMMARY_3D_NAME).read_text(encoding="utf-8")) for axis in (0, 2)
    )
    assert other["shape"] == [24, 12, 20]
    for first, second in zip(one["classes"], other["classes"], strict=True):
        assert first["volume"] == pytest.approx(second["volume"])
        assert first["surface"] == pytest.approx(second["surface"], rel=1e-3)
        assert first["regions"] == second["regions"]
    assert parse_voxel_size("2,0.5,0.25um", 2).step == 0.25
