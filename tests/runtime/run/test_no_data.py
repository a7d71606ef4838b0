"""Pixels that are no sample: they have the label 255, and are in no fraction and no measure."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from command_runs import report_of, run
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime import open_model, segment
from matseg_runtime.cli.quantify import quantify_main
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.setup import open_run
from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.transform import NoDataOptions
from matseg_shared.console.progress import SILENT

EDGE = 72
CIRCLE = np.hypot(*(np.mgrid[:EDGE, :EDGE] - (EDGE - 1) / 2)) > EDGE / 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each dtype."""
    folder = tmp_path_factory.mktemp("models")
    for dtype in ("uint8", "float32"):
        onnx_models.save_model(folder / f"{dtype}_v1.onnx", width=2, dtype=dtype, name=f"{dtype}_v1")
    return folder


def volume(dtype: str = "float32", slices: int = 4) -> NDArray[Any]:
    """(Z, H, W) of smooth pixels, none of them 0."""
    pixels = onnx_models.random_pixels((slices, EDGE, EDGE), dtype, 3)
    return np.maximum(pixels, np.asarray(1, dtype)) if dtype != "float32" else pixels + np.float32(1e-3)


def labels_of(output: Path) -> NDArray[np.uint8]:
    """(Z, H, W) labels of a folder or volume."""
    if output.suffix == ".zarr":
        return np.asarray(zarr.open_group(str(output), mode="r")["0"])
    if output.suffix == ".tif":
        return tifffile.imread(output)
    return np.stack([np.asarray(Image.open(file)) for file in sorted(output.glob("*.png"))])


def table(path: Path) -> list[dict[str, str]]:
    """A CSV by its header."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("output", ["out", "out.tif", "out.zarr"])
def test_nan_is_no_data(models: Path, tmp_path: Path, output: str) -> None:
    pixels = volume()
    filled = np.where(CIRCLE, np.float32(0.5), pixels)  # the model's mean
    np.save(tmp_path / "filled.npy", filled)
    np.save(tmp_path / "scan.npy", np.where(CIRCLE, np.float32(np.nan), pixels))

    run(models / "float32_v1.onnx", tmp_path / "filled.npy", tmp_path / f"whole_{output}")
    said = run(models / "float32_v1.onnx", tmp_path / "scan.npy", tmp_path / output, "--quantify")

    expected = np.where(CIRCLE, 255, labels_of(tmp_path / f"whole_{output}"))
    assert np.array_equal(labels_of(tmp_path / output), expected)
    report = report_of(tmp_path / output)
    sample = expected[:, ~CIRCLE]
    for index, phase in enumerate(report.phase_fractions):
        assert phase.fraction == pytest.approx((sample == index).mean())
    assert report.no_data_pixels == 4 * CIRCLE.sum()
    assert f"{CIRCLE.mean():.2%} of the pixels ({4 * CIRCLE.sum()}) are no data: label 255" in said


def test_no_data_are_in_tables_and_measures(models: Path, tmp_path: Path) -> None:
    pixels = np.where(CIRCLE, np.float32(np.nan), volume())
    np.save(tmp_path / "scan.npy", pixels)
    out = tmp_path / "out"

    run(models / "float32_v1.onnx", tmp_path / "scan.npy", out, "--quantify", "--uncertain", 1)

    rows = table(out / "phase_fractions.csv")
    assert [int(row["no data (pixels)"]) for row in rows] == [CIRCLE.sum()] * 4 + [4 * CIRCLE.sum()]
    assert sum(float(rows[0][f"phase {index}"]) for index in range(3)) == pytest.approx(1, abs=1e-5)
    summary = json.loads((out / "quantities.json").read_text())
    assert summary["no_data_pixels"] == 4 * CIRCLE.sum()
    assert sum(item["pixels"] for item in summary["classes"]) == 4 * (~CIRCLE).sum()
    assert sum(item["fraction"] for item in summary["classes"]) == pytest.approx(1)
    doubt = np.asarray(Image.open(next((tmp_path / "out_uncertain" / "maps").iterdir())))
    assert not doubt[CIRCLE].any()
    label = np.asarray(Image.open(next((tmp_path / "out_uncertain" / "train" / "labels").iterdir())))
    assert (label[CIRCLE] == 255).all()
    assert "[unlabelled]\nlabel_value = 255" in (tmp_path / "out_uncertain" / "classes.toml").read_text()


def test_labels_with_no_data_are_measured_without_it_wherever_they_are(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.where(CIRCLE, np.float32(np.nan), volume()))
    expected = None
    for output, format_ in (
        ("png", "png"),
        ("tif", "tiff"),
        ("o.tif", None),
        ("o.mhd", None),
        ("o.nrrd", None),
    ):
        options = [] if format_ is None else ["--format", format_]
        run(models / "float32_v1.onnx", tmp_path / "scan.npy", tmp_path / "run" / output, *options)
        moved = tmp_path / "moved" / output
        moved.parent.mkdir(exist_ok=True)
        (tmp_path / "run" / output).rename(moved)
        if format_ is not None:  # the labels alone
            for other in (moved / "report.json", moved / "report.html"):
                other.unlink(missing_ok=True)
            (moved / ".matseg").rename(tmp_path / f"{output}_ledger")
        result = CliRunner().invoke(
            quantify_main, [str(moved), "-o", str(tmp_path / "tables"), "--workers", "1"]
        )
        assert result.exit_code == 0, result.output
        assert "have no label and are in no fraction" in result.output
        summary = json.loads((tmp_path / "tables" / "quantities.json").read_text())
        found = [(item["value"], item["pixels"], item["regions"]) for item in summary["classes"]]
        assert summary["no_data_pixels"] == 4 * CIRCLE.sum()
        expected = expected or found
        assert found == expected


def test_other_programs_labels_are_measured_without_a_value_when_told(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.where(CIRCLE, 255, 1).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    for options, classes in (((), 2), (("--no-data", "255"), 1)):
        command = [str(tmp_path / "masks"), "-o", str(tmp_path / "tables"), *options]
        assert CliRunner().invoke(quantify_main, command).exit_code == 0
        assert len(json.loads((tmp_path / "tables" / "quantities.json").read_text())["classes"]) == classes


@pytest.mark.parametrize("options", [("--no-data", 0), ("--no-data", "circle"), ("--mask", "mask.png")])
def test_a_value_the_circle_and_a_mask_are_no_data(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = volume("uint8")
    pixels[:, CIRCLE] = 0
    filled = np.where(CIRCLE, np.uint8(128), pixels)  # 127.5, rounded
    np.save("scan.npy", pixels)
    np.save("filled.npy", filled)
    Image.fromarray(~CIRCLE).save("mask.png")

    run(models / "uint8_v1.onnx", Path("filled.npy"), tmp_path / "whole")
    run(models / "uint8_v1.onnx", Path("scan.npy"), tmp_path / "out", *options, "--tile", 64)

    assert np.array_equal(labels_of(tmp_path / "out"), np.where(CIRCLE, 255, labels_of(tmp_path / "whole")))
    assert np.array_equal(labels_of(tmp_path / "out") == 255, np.broadcast_to(CIRCLE, pixels.shape))


def test_a_volume_is_a_mask_along_any_axis(models: Path, tmp_path: Path) -> None:
    pixels = volume("uint8", slices=EDGE)
    mask = np.random.default_rng(0).random(pixels.shape) > 0.3
    tifffile.imwrite(tmp_path / "scan.tif", pixels)
    zarr.save_array(str(tmp_path / "mask.zarr"), mask.astype(np.uint8))

    for axis in (0, 1):
        out = tmp_path / f"out{axis}.zarr"
        options = ("--mask", tmp_path / "mask.zarr", "--axis", axis, "--range", "5:9")
        run(models / "uint8_v1.onnx", tmp_path / "scan.tif", out, *options)
        assert np.array_equal(labels_of(out) == 255, ~np.take(mask, range(5, 9), axis))


def test_a_mask_in_chunks_counts_within_memory(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = volume("uint8", slices=12)
    np.save(tmp_path / "scan.npy", pixels)
    zarr.create_array(str(tmp_path / "mask.zarr"), data=np.ones_like(pixels), chunks=(4, EDGE, EDGE))
    options = RunOptions(
        model=models / "uint8_v1.onnx", input=f"{tmp_path / 'scan.npy'}", provider="cpu", memory=10**10
    )
    with open_run(options, SILENT) as opened:
        without = opened.plan
    ranges: list[tuple[int, int]] = []
    with open_run(
        replace(options, no_data=NoDataOptions(mask=f"{tmp_path / 'mask.zarr'}")), SILENT
    ) as opened:
        assert opened.transform.no_data is not None
        mask, plan = opened.transform.no_data.mask_slices, opened.plan
        assert isinstance(mask, ArraySource)
        assert plan.workers == without.workers
        decode = mask._decoded
        monkeypatch.setattr(mask, "_decoded", lambda *range_: ranges.append(range_) or decode(*range_))
        for number in (0, 4, 1):
            mask.read(number, number + 1)
    layer = 4 * EDGE * EDGE  # of one reader: decoded and as it is stored, a slice of it; and what is kept
    assert plan.block_bytes - without.block_bytes == plan.workers.readers * (2 * layer + EDGE * EDGE) + layer
    assert ranges == [(0, 4), (4, 8), (0, 4)], "nothing is left of the sample, and one layer is kept"


def test_a_mask_of_another_size_is_refused_in_a_sentence(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", volume("uint8"))
    Image.fromarray(np.ones((EDGE, EDGE - 1), np.uint8)).save(tmp_path / "narrow.png")
    np.save(tmp_path / "short.npy", np.ones((2, EDGE, EDGE), np.uint8))
    for mask, found in (("narrow.png", f"{EDGE} x {EDGE - 1}"), ("short.npy", f"2 x {EDGE} x {EDGE}")):
        options = ("--mask", tmp_path / mask)
        said = run(models / "uint8_v1.onnx", tmp_path / "scan.npy", tmp_path / "out", *options, exit_code=2)
        assert found in said
        assert mask in said
        assert not (tmp_path / "out").exists()


def test_no_data_are_part_of_the_job(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", volume("uint8"))
    model, scan, out = models / "uint8_v1.onnx", tmp_path / "scan.npy", tmp_path / "out"
    run(model, scan, out, "--no-data", "circle", "--part", "1/2")
    said = run(model, scan, out, "--part", "2/2", exit_code=2)
    assert "no data: circle then, none now" in said
    run(model, scan, out, "--no-data", "circle", "--part", "2/2")
    assert "0 of 4 slices labelled in this run, 4 before" in run(model, scan, out, "--no-data", "circle")
    assert (labels_of(out) == 255).sum() == 4 * CIRCLE.sum()


def test_a_slice_without_any_data_has_no_fractions(models: Path, tmp_path: Path) -> None:
    pixels = volume()
    pixels[1] = np.nan
    np.save(tmp_path / "scan.npy", pixels)

    said = run(
        models / "float32_v1.onnx", tmp_path / "scan.npy", tmp_path / "out", "--quantify", "--uncertain", 3
    )

    assert "1 of 4 slices hold no data at all and have no labels: scan_0001" in said
    assert (labels_of(tmp_path / "out")[1] == 255).all()
    row = table(tmp_path / "out" / "phase_fractions.csv")[1]
    assert [row[f"phase {index}"] for index in range(3)] == ["", "", ""]
    for file in tmp_path.rglob("*.csv"):
        assert "nan" not in file.read_text()


def test_a_scan_without_any_data_is_labelled_and_told(models: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "empty.tif", np.full((EDGE, EDGE), np.nan, np.float32))
    said = run(models / "float32_v1.onnx", tmp_path / "empty.tif", tmp_path / "out")
    assert "1 of 1 slices hold no data at all" in said
    assert (labels_of(tmp_path / "out") == 255).all()


def test_infinite_pixels_are_refused_unless_they_are_no_data(models: Path, tmp_path: Path) -> None:
    pixels = volume()
    pixels[0, 0, 5] = np.inf
    np.save(tmp_path / "scan.npy", pixels)
    model, scan = models / "float32_v1.onnx", tmp_path / "scan.npy"
    said = run(model, scan, tmp_path / "a", exit_code=4)
    assert "holds infinite pixels, 1 of 5184, the first at row 0, column 5" in said
    run(model, scan, tmp_path / "b", "--no-data", "circle")
    run(model, scan, tmp_path / "c", "--no-data", "inf")
    assert (labels_of(tmp_path / "c") == 255).sum() == 1


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", "<f8"])
def test_nan_of_any_float_and_byte_order_is_no_data(models: Path, tmp_path: Path, dtype: str) -> None:
    pixels = np.where(CIRCLE, np.nan, volume()).astype(dtype)
    tifffile.imwrite(tmp_path / "scan.tif", pixels, byteorder=dtype[0], photometric="minisblack")
    options = () if dtype == ">f4" else ("--window", "0,1")
    run(models / "float32_v1.onnx", tmp_path / "scan.tif", tmp_path / "out", *options)
    assert np.array_equal(labels_of(tmp_path / "out") == 255, np.broadcast_to(CIRCLE, pixels.shape))


def test_a_window_maps_data_only(models: Path, tmp_path: Path) -> None:
    pixels = np.where(CIRCLE, np.float32(-9999), volume())
    np.save(tmp_path / "scan.npy", pixels)
    options = ("--window", "0,1", "--no-data", "-9999")
    said = run(models / "uint8_v1.onnx", tmp_path / "scan.npy", tmp_path / "out", *options)
    assert "were clipped" not in said
    assert np.array_equal(labels_of(tmp_path / "out") == 255, np.broadcast_to(CIRCLE, pixels.shape))


def test_probabilities_and_pyramids_hold_no_data(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.where(CIRCLE, np.float32(np.nan), volume()))
    out = tmp_path / "out.zarr"
    run(models / "float32_v1.onnx", tmp_path / "scan.npy", out, "--probabilities", "--pyramid")
    group = zarr.open_group(str(out), mode="r")
    assert not np.asarray(group["probabilities"])[..., CIRCLE].any()
    coarse: Any = np.asarray(group["1"])
    assert np.array_equal(coarse[0] == 255, CIRCLE[::2, ::2])
    colours = group.attrs["ome"]["image-label"]["colors"]  # type: ignore[index,call-overload]
    assert {"label-value": 255, "rgba": [0, 0, 0, 0]} in colours


def test_no_data_have_a_colour_of_their_own(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.where(CIRCLE, np.float32(np.nan), volume()))
    run(models / "float32_v1.onnx", tmp_path / "scan.npy", tmp_path / "out")
    run(models / "float32_v1.onnx", tmp_path / "scan.npy", tmp_path / "out.tif")
    palette = Image.open(tmp_path / "out" / "scan_0000.png").getpalette()
    assert palette is not None
    assert palette[-3:] == [128, 128, 128]
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        colormap: Any = tiff.pages.first.colormap
        assert (colormap[:, 255] // 257).tolist() == [128, 128, 128]


def test_an_image_in_memory_has_no_data_where_it_is_nan(models: Path) -> None:
    model = open_model(models / "float32_v1.onnx", provider="cpu", threads=1)
    pixels = volume()[0]
    labels = segment(model, np.where(CIRCLE, np.float32(np.nan), pixels))
    expected = segment(model, np.where(CIRCLE, np.float32(0.5), pixels))
    assert np.array_equal(labels, np.where(CIRCLE, 255, expected))


def test_the_page_hatches_no_data(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.where(CIRCLE, np.float32(np.nan), volume()))
    run(models / "float32_v1.onnx", tmp_path / "scan.npy", tmp_path / "out", "--report")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no data" in page
    assert f"{CIRCLE.mean():.2%}" in page
    assert "missing or have changed" not in page


def test_a_dry_run_says_what_does_not_fit(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", volume("uint8"))
    model, scan = models / "uint8_v1.onnx", tmp_path / "scan.npy"
    said = run(model, scan, tmp_path / "out", "--no-data", "ring", "--dry-run", exit_code=2)
    assert "--no-data ring: expected a value such as 0 or -9999, or the word circle" in said
    run(model, scan, tmp_path / "out", "--no-data", "circle", "--dry-run")
    said = run(model, scan, tmp_path / "out", "--mask", tmp_path / "none.tif", "--dry-run", exit_code=2)
    assert "none.tif: there is no such input" in said


def test_a_watched_folder_has_one_mask(models: Path, tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    for number, pixels in enumerate(volume("uint8")):
        Image.fromarray(pixels).save(tmp_path / "scan" / f"s{number}.png")
    Image.fromarray(~CIRCLE).save(tmp_path / "mask.png")
    options = ("--mask", tmp_path / "mask.png", "--watch", "--until", 4)
    run(models / "uint8_v1.onnx", tmp_path / "scan", tmp_path / "out", *options)
    assert np.array_equal(labels_of(tmp_path / "out") == 255, np.broadcast_to(CIRCLE, (4, EDGE, EDGE)))
    np.save(tmp_path / "mask.npy", np.ones((4, EDGE, EDGE), np.uint8))
    options = ("--mask", tmp_path / "mask.npy", "--watch", "--until", 5)
    said = run(models / "uint8_v1.onnx", tmp_path / "scan", tmp_path / "other", *options, exit_code=2)
    assert "--watch takes a --mask of one image" in said


def test_an_earlier_job_without_no_data_goes_on(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", volume("uint8"))
    model, scan, out = models / "uint8_v1.onnx", tmp_path / "scan.npy", tmp_path / "out"
    run(model, scan, out, "--part", "1/2")
    for file in (out / ".matseg").iterdir():  # as a version wrote it that knew nothing of it
        if file.name.startswith(("job", "done")):
            file.write_text(re.sub(r',\s*"(no_data|rows_cut)":\s*(0|null)', "", file.read_text()))
            assert "no_data" not in file.read_text()
    run(model, scan, out, "--part", "2/2")
    assert report_of(out).labelled_before == 2
    assert report_of(out).no_data_pixels == 0
