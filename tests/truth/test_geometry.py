"""Order, axis and size: which slice is which, and whether its pixels are those the model was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tifffile
from PIL import Image
from ways_in import direct

from matseg_shared.contract.metadata import PixelSize
from matseg_shared.contract.onnx_properties import encode

VOLUME = onnx_models.random_pixels((8, 40, 48), "uint8", 5)


def write_folder(folder: Path, stems: list[str], suffix: str = ".png") -> Path:
    folder.mkdir()
    for number, stem in enumerate(stems):
        Image.fromarray(VOLUME[number % len(VOLUME)]).save(folder / f"{stem}{suffix}")
    return folder


def report(out: Path) -> dict[str, Any]:
    beside = out.with_name(out.name + ".matseg")
    return json.loads(((beside if beside.is_dir() else out) / "report.json").read_text())


# order


def test_slices_are_counted_not_spelled(tmp_path: Path, models, run) -> None:
    folder = write_folder(tmp_path / "scan", ["s1", "s10", "s2", "s9", "s11"])
    result = run(models(), folder, "-o", tmp_path / "labels.tif")
    assert result.exit_code == 0, result.output
    order = [0, 2, 3, 1, 4]  # s1, s2, s9, s10, s11
    for found, number in zip(tifffile.imread(tmp_path / "labels.tif"), order, strict=True):
        np.testing.assert_array_equal(found, direct(models(), VOLUME[number]))


@pytest.mark.parametrize(
    ("stems", "told"),
    [
        ([f"s{number}" for number in (1, 2, 3, 5, 6, 7)], "steps of 1, but for 1 place(s), the first between s3"),
        ([f"r1_{number:03}_x" for number in (0, 2, 4, 6, 9, 11)], "steps of 2, but for 1 place(s)"),
        ([f"s{number}" for number in (1, 2, 3, 5, 6, 7)] + ["overview"], "for 1 place(s), the first between s3"),
        ([f"s{number}" for number in (1, 2, 3, 5, 6, 7)] + list("abcdefg"), "the first between s3 and s5"),
        ([f"s{number}" for number in (1, 2, 3, 4, 6, 7, 9, 10, 11)], "for 2 place(s), the first between s4 and s6"),
        ([f"a{n}" for n in range(7)] + [f"b{n}" for n in (0, 1, 2, 4, 5)], "the first between b2 and b4"),
        ([f"s{number}" for number in range(1, 12)], None),
        ([f"c{number}_z{2 * number}" for number in range(6)], None),
        (["a", "b", "c", "d", "e", "f"], None),
        ([f"s{number}" for number in (1, 2, 4)], None),
    ],
    ids=["lost", "every other", "beside a picture without a number", "beside many", "several lost",
         "two scans", "whole", "two numbers", "no numbers", "few"],
)  # fmt: skip
def test_numbers_missing_in_a_folder_are_told(
    tmp_path: Path, models, run, stems: list[str], told: str | None
) -> None:
    result = run(models(), write_folder(tmp_path / "scan", stems), "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert ("were slices lost?" in result.output) == (told is not None)
    assert told is None or told in result.output


def test_numbers_missing_in_a_folder_are_in_the_report(tmp_path: Path, models, run) -> None:
    folder = write_folder(tmp_path / "scan", [f"s{number}" for number in (1, 2, 3, 5, 6, 7)])
    assert run(models(), folder, "-o", tmp_path / "labels.tif").exit_code == 0
    assert any("were slices lost?" in text for text in report(tmp_path / "labels.tif")["warnings"])


@pytest.mark.parametrize("count", [6, 3, 2])
def test_a_picture_of_another_size_among_the_slices_is_told(tmp_path: Path, models, run, count: int) -> None:
    folder = write_folder(tmp_path / "scan", [f"s{number}" for number in range(count)])
    tifffile.imwrite(folder / "overview.tif", np.zeros((20, 24), np.uint8))
    assert run(models(), folder, "-o", tmp_path / "out").exit_code == 0
    height, width = VOLUME[0].shape
    text = f"1 of {count + 1} slices have another size than the {height} x {width} pixels of the others: overview"
    assert any(text in warning for warning in report(tmp_path / "out")["warnings"]) == (count > 2)


@pytest.mark.parametrize("name", ["labels.tif", "labels.zarr", "labels.nrrd"])
@pytest.mark.parametrize("odd", ["a_overview.tif", "overview.tif"])
def test_a_picture_of_another_size_is_excluded_from_a_volume(
    tmp_path: Path, models, run, name: str, odd: str
) -> None:
    folder = write_folder(tmp_path / "scan", [f"s{number}" for number in range(6)])
    tifffile.imwrite(folder / odd, np.zeros((20, 24), np.uint8))
    result = run(models(), folder, "-o", tmp_path / name, "--report")
    assert result.exit_code == 4
    height, width = VOLUME[0].shape
    text = f"{odd}: expected {height} x {width} pixels, as this volume's slices have, found 20 x 24"
    assert text in result.output
    assert text in report(tmp_path / name)["excluded"][0]["reason"]
    page = next(tmp_path.rglob("report.html")).read_text()
    assert odd in page


@pytest.mark.parametrize("names", [("a.png", "a.tif"), ("a.png", "A.png")])
def test_two_images_never_share_an_output_name(tmp_path: Path, models, run, names: tuple[str, str]) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for name in names:
        Image.fromarray(VOLUME[0]).save(folder / name)
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this disk does not tell upper from lower case")
    result = run(models(), folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "would both be written to" in result.output


# axis


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_is_the_one_asked_for_and_the_plan_shows_it(tmp_path: Path, models, run, axis: int) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    plan = run(models(), tmp_path / "scan.npy", "--axis", axis, "-o", tmp_path / "x.tif", "--dry-run").output
    height, width = (length for number, length in enumerate(VOLUME.shape) if number != axis)
    assert f"slices: {VOLUME.shape[axis]} of {height} x {width} pixels" in plan
    assert run(models(), tmp_path / "scan.npy", "--axis", axis, "-o", tmp_path / "x.zarr").exit_code == 0
    import zarr

    found = np.moveaxis(np.asarray(zarr.open_group(str(tmp_path / "x.zarr"))["0"]), axis, 0)
    for labels, image in zip(found, np.moveaxis(VOLUME, axis, 0), strict=True):
        np.testing.assert_array_equal(labels, direct(models(), image))


@pytest.mark.parametrize(("axis", "warned"), [(0, False), (1, True), (2, True)])
def test_pixels_that_are_not_square_are_told(tmp_path: Path, models, run, axis: int, warned: bool) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    options = ("--axis", axis, "--voxel-size", "1.3,0.65,0.65um", "-o", tmp_path / "labels.tif")
    result = run(models(), tmp_path / "scan.npy", *options)
    assert result.exit_code == 0, result.output
    assert ("is --axis the one that the model's slices were cut along?" in result.output) == warned
    assert (
        any(
            "to a model all pixels are square" in text for text in report(tmp_path / "labels.tif")["warnings"]
        )
        == warned
    )


# pixel size


@pytest.fixture
def sized(tmp_path: Path) -> Path:
    """A model of images with pixels of 0.5 um."""
    graph = onnx_models.build_graph()
    metadata = onnx_models.build_metadata().model_copy(update={"pixel_size": PixelSize(value=0.5, unit="um")})
    properties = encode(metadata, onnx_models.self_test_of(graph, 1, "uint8"))
    return onnx_models.save(graph, properties, tmp_path / "sized.onnx")


@pytest.mark.parametrize(("pixels_per_um", "warned"), [(2.0, False), (2.01, False), (1.0, True), (4.0, True)])
def test_pixels_of_another_size_than_the_model_s_are_told(
    tmp_path: Path, run, sized: Path, pixels_per_um: float, warned: bool
) -> None:
    path = tmp_path / "scan.tif"
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 0.5}
    tifffile.imwrite(path, VOLUME, imagej=True, resolution=(pixels_per_um,) * 2, metadata=metadata)
    result = run(sized, path, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    warnings = [
        text for text in report(tmp_path / "out")["warnings"] if "the model was trained on pixels" in text
    ]
    assert len(warnings) == warned
    assert ("look at some labels before you trust them" in result.output) == warned
    found = report(tmp_path / "out")["voxel_size"]
    assert (found["column"], found["origin"]) == (pytest.approx(1 / pixels_per_um), "the input")


def test_an_input_that_says_no_pixel_size_gets_the_model_s_and_the_report_says_whose(
    tmp_path: Path, run, sized: Path
) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    assert run(sized, tmp_path / "scan.npy", "-o", tmp_path / "out").exit_code == 0
    assert report(tmp_path / "out")["voxel_size"]["origin"] == "the model"
