"""matseg-run on folders of images: outputs, resuming, and every bad input."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from click.testing import Result
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image

Run = Callable[..., Result]
Expected = Callable[[NDArray[Any]], NDArray[np.uint8]]


def _labels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def test_label_images_beside_the_input(run: Run, model: Path, slices: Path, expected: Expected) -> None:
    result = run(model, slices)
    assert result.exit_code == 0, result.output
    out = slices.parent / "scan_predictions" / "alloy_v1"
    assert f"labels: {out}" in result.output
    for number in range(1, 7):
        pixels = np.array(Image.open(slices / f"s{number}.png"))
        np.testing.assert_array_equal(_labels(out / f"s{number}.png"), expected(pixels))
    with Image.open(out / "s1.png") as image:
        assert image.getpalette()[:9] == [0, 0, 0, 230, 159, 0, 86, 180, 233]
        assert json.loads(image.text["matseg"])["model_name"] == "alloy_v1"


def test_phase_fractions(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(model, slices, "-o", out).exit_code == 0
    with (out / "phase_fractions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [*(f"s{n}.png" for n in range(1, 7)), "total"]
    labels = [_labels(out / f"s{n}.png") for n in range(1, 7)]
    for row, array in zip(rows, labels, strict=False):
        assert (int(row["height"]), int(row["width"])) == array.shape
        assert int(row["phase 1 (pixels)"]) == (array == 1).sum()
        assert float(row["phase 1"]) == pytest.approx((array == 1).mean(), abs=1e-6)
    everything = np.concatenate([array.ravel() for array in labels])
    assert int(rows[-1]["phase 2 (pixels)"]) == (everything == 2).sum()
    assert float(rows[-1]["phase 2"]) == pytest.approx((everything == 2).mean(), abs=1e-6)


def test_tiles_batches_and_threads_change_nothing(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    assert run(model, slices, "-o", tmp_path / "a").exit_code == 0
    assert (
        run(model, slices, "-o", tmp_path / "b", "--tile", "36", "--batch", 3, "--threads", 1).exit_code == 0
    )
    for number in range(1, 7):
        name = f"s{number}.png"
        np.testing.assert_array_equal(_labels(tmp_path / "a" / name), _labels(tmp_path / "b" / name))


def test_json_summary_and_report_agree(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    result = run(model, slices, "-o", tmp_path / "out", "--json")
    summary = json.loads(result.stdout)
    assert summary["labelled"] == summary["slices"] == 6
    assert summary["complete"] is True
    assert summary["stages"]["bottleneck"] in ("reading", "inference", "writing")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == summary
    provenance = summary["provenance"]
    assert (provenance["model_name"], provenance["provider"]) == ("alloy_v1", "cpu")
    assert len(provenance["model_sha256"]) == 64
    assert provenance["versions"]["matseg"]


def test_a_second_run_does_nothing(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(model, slices, "-o", out).exit_code == 0
    before = snapshot(out)
    result = run(model, slices, "-o", out)
    assert result.exit_code == 0
    assert "0 of 6 slices labelled in this run, 6 before" in result.output
    changed = {name for name, content in snapshot(out).items() if before.get(name) != content}
    assert changed <= {"report.json"}


def test_new_images_are_added_and_lost_outputs_redone(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(model, slices, "-o", out).exit_code == 0
    first = (out / "s2.png").read_bytes()
    (out / "s2.png").unlink()
    (out / "s3.png").write_bytes(b"cut short")
    Image.fromarray(onnx_models.random_pixels((20, 20), "uint8", 9)).save(slices / "s10.png")
    result = run(model, slices, "-o", out)
    assert "3 of 7 slices labelled in this run, 4 before" in result.output
    assert (out / "s2.png").read_bytes() == first
    rows = (out / "phase_fractions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [
        *(f"s{n}.png" for n in (1, 2, 3, 4, 5, 6, 10)),
        "total",
    ]


def test_an_image_that_changed_is_not_mixed_with_the_old(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(model, slices, "-o", out).exit_code == 0
    Image.fromarray(onnx_models.random_pixels((40, 52), "uint8", 99)).save(slices / "s4.png")
    result = run(model, slices, "-o", out)
    assert result.exit_code == 2
    assert "s4.png: has changed since it was labelled" in result.output
    assert "--overwrite" in result.output
    assert run(model, slices, "-o", out, "--overwrite").exit_code == 0


def test_other_settings_or_another_model_are_refused(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(model, slices, "-o", out).exit_code == 0
    other = onnx_models.save_model(tmp_path / "other.onnx", seed=5, name="alloy_v2")
    before = snapshot(out)
    result = run(other, slices, "-o", out)
    assert result.exit_code == 2
    assert "model name: alloy_v1 then, alloy_v2 now" in result.output
    assert "model sha256" in result.output
    result = run(model, slices, "-o", out, "--window", "10,200")
    assert result.exit_code == 2
    assert "window: none then, 10,200 now" in result.output
    assert snapshot(out) == before
    assert run(other, slices, "-o", out, "--overwrite").exit_code == 0
    assert snapshot(out)["s1.png"] != before["s1.png"]


def test_overwrite_removes_what_the_new_run_does_not_replace(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(model, slices, "-o", out).exit_code == 0
    (slices / "s6.png").unlink()
    (out / "mine.txt").write_text("keep")
    assert run(model, slices, "-o", out, "--overwrite").exit_code == 0
    assert not (out / "s6.png").exists()
    assert (out / "mine.txt").exists()


def test_images_that_come_during_a_run_are_told_of(
    run: Run, model: Path, slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matseg_runtime.sink.images import ImageSink

    real = ImageSink.write

    def write(self: ImageSink, *arguments: Any) -> Any:
        (slices / "late.png").write_bytes((slices / "s1.png").read_bytes())
        return real(self, *arguments)

    monkeypatch.setattr(ImageSink, "write", write)
    result = run(model, slices, "-o", tmp_path / "out")
    assert "6 of 6 slices labelled" in result.output
    assert "1 images, late.png first, have come since the start" in result.output


def test_what_is_no_image_is_named_and_skipped(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    (slices / "notes.txt").write_text("beam was fine")
    (slices / "more").mkdir()
    (slices / ".hidden").write_text("x")
    result = run(model, slices, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "notes.txt: not an image file (.txt)" in result.output
    assert "more: a subfolder" in result.output
    assert ".hidden" not in result.output
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_broken_images_are_excluded_and_named(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    (slices / "s1.png").write_text("not a picture")
    whole = (slices / "s4.png").read_bytes()
    (slices / "s4.png").write_bytes(whole[: len(whole) // 2])
    colour = np.stack([onnx_models.random_pixels((30, 30), "uint8", n) for n in range(3)], axis=-1)
    Image.fromarray(colour).save(slices / "s5.png")
    out = tmp_path / "out"
    result = run(model, slices, "-o", out)
    assert result.exit_code == 4, result.output
    report = json.loads((out / "report.json").read_text())
    assert [entry["name"] for entry in report["excluded"]] == ["s1", "s4", "s5"]
    for entry in report["excluded"]:
        assert entry["reason"] in result.output
    assert "colour image" in report["excluded"][2]["reason"]
    assert report["complete"] is False
    assert not (out / "s4.png").exists()
    (slices / "s4.png").write_bytes(whole)
    result = run(model, slices, "-o", out)
    assert result.exit_code == 4
    assert "1 of 6 slices labelled in this run, 3 before" in result.output
    assert [entry["name"] for entry in json.loads((out / "report.json").read_text())["excluded"]] == [
        "s1",
        "s5",
    ]
    result = run(model, slices, "-o", out)
    assert "0 of 6 slices labelled in this run, 4 before" in result.output
    assert "Mpixel/s" not in result.output, "of nothing there is no speed"


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (onnx_models.random_pixels((20, 20), "uint16", 1), "has uint16 pixels, this model takes uint8"),
        (
            np.stack([onnx_models.random_pixels((20, 20), "uint8", n) for n in range(3)], axis=-1),
            "colour image",
        ),
    ],
)
def test_a_misfit_is_refused_before_any_work(
    run: Run, model: Path, tmp_path: Path, pixels: NDArray[Any], message: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "0.png").write_text("broken, but not what decides")
    result = run(model, folder)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "in_predictions").exists()


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint16"])
def test_a_window_maps_any_dtype(
    run: Run, model: Path, tmp_path: Path, dtype: str, expected: Expected
) -> None:
    import tifffile

    grey = onnx_models.random_pixels((30, 41), "uint8", 3)
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", (grey.astype(np.float64) * 2 + 100).astype(dtype))
    refused = run(model, folder)
    assert refused.exit_code == 2
    assert "--window LO,HI" in refused.output
    assert run(model, folder, "--window", "100,610").exit_code == 0
    np.testing.assert_array_equal(_labels(tmp_path / "in_predictions/alloy_v1/a.png"), expected(grey))


def test_a_range_far_from_the_training_set_is_refused(run: Run, tmp_path: Path) -> None:
    import tifffile

    floats = onnx_models.save_model(tmp_path / "float_v1.onnx", dtype="float32", name="float_v1")
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", onnx_models.random_pixels((30, 30), "float32", 1) * np.float32(65535))
    result = run(floats, folder)
    assert result.exit_code == 2
    assert "expected intensities like those of the training set (0 to 1)" in result.output
    assert run(floats, folder, "--window", "0,65535").exit_code == 0


@pytest.mark.parametrize("text", ["5", "a,b", "9,3", "3,3", "1,2,3", "nan,1", "0,inf"])
def test_a_bad_window(run: Run, model: Path, slices: Path, text: str) -> None:
    result = run(model, slices, f"--window={text}")
    assert result.exit_code == 2
    assert f"--window {text}: expected" in result.output


def test_equal_stems(run: Run, model: Path, slices: Path) -> None:
    import tifffile

    tifffile.imwrite(slices / "s1.tif", np.zeros((8, 8), np.uint8))
    result = run(model, slices)
    assert result.exit_code == 2
    assert "s1.png and s1.tif" in result.output


def test_an_output_inside_the_input(run: Run, model: Path, slices: Path) -> None:
    for inside in (slices, slices / "labels"):
        result = run(model, slices, "-o", inside)
        assert result.exit_code == 2
        assert "inside the input" in result.output
    assert sorted(path.name for path in slices.iterdir()) == [f"s{n}.png" for n in range(1, 7)]


def test_an_output_folder_with_other_things(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    result = run(model, slices, "-o", out)
    assert result.exit_code == 2
    assert "holds no earlier results of matseg-run" in result.output
    assert run(model, slices, "-o", out / "thesis.txt").exit_code == 2
    assert run(model, slices, "-o", out, "--overwrite").exit_code == 0
    assert (out / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.onnx", "{slices}"], 2, "no such model file"),
        (["{model}", "missing"], 2, "there is no such input"),
        (["{model}", "{model}"], 2, "alloy_v1.onnx"),
        (["{slices}/s1.png", "{slices}"], 2, "expected an ONNX model"),
        (["{model}", "{slices}", "--tile", "8"], 2, "too small for this model"),
        (["{model}", "{slices}", "--provider", "cuda"], 3, "provider cuda"),
        (["{model}", "{slices}", "--provider", "npu"], 2, "npu"),
        (["{model}"], 2, "Missing argument"),
    ],
)
def test_wrong_use(
    run: Run, model: Path, slices: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run(*(argument.format(model=model, slices=slices) for argument in arguments))
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("content", "found"), [(None, "found nothing"), ("x", "found only a.txt")])
def test_a_folder_without_images(
    run: Run, model: Path, tmp_path: Path, content: str | None, found: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if content:
        (folder / "a.txt").write_text(content)
    result = run(model, folder)
    assert result.exit_code == 2
    assert found in result.output


def test_a_folder_of_broken_images_only(run: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.tif"):
        (folder / name).write_bytes(b"junk")
    result = run(model, folder)
    assert result.exit_code == 2
    assert "none of its 2 slices can be read" in result.output
    assert "a.png" in result.output
    assert "b.tif" in result.output


def test_a_full_disk_stops_cleanly_and_resumes(
    run: Run, model: Path, slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matseg_runtime.sink import images

    whole = tmp_path / "whole"
    assert run(model, slices, "-o", whole).exit_code == 0
    real, written = images.write_label_png, []

    def fills_up(stream: Any, *arguments: Any, **keywords: Any) -> None:
        if len(written) >= 3:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(1)
        real(stream, *arguments, **keywords)

    out = tmp_path / "out"
    monkeypatch.setattr(images, "write_label_png", fills_up)
    result = run(model, slices, "-o", out)
    assert result.exit_code == 1
    assert "no space is left on that disk" in result.output
    assert not [path for path in out.iterdir() if path.name.startswith(".matseg-")]
    monkeypatch.setattr(images, "write_label_png", real)
    result = run(model, slices, "-o", out)
    assert result.exit_code == 0
    assert "3 of 6 slices labelled in this run, 3 before" in result.output
    labels = {name: content for name, content in snapshot(whole).items() if name.endswith((".png", ".csv"))}
    assert {name: snapshot(out)[name] for name in labels} == labels


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    result = run(model, slices, "-o", locked / "out")
    assert result.exit_code == 1
    assert "no permission to write there" in result.output


def test_an_unwritable_output_folder(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = run(model, slices, "-o", tmp_path / "file" / "out")
    assert result.exit_code in (1, 2)
    assert "a file stands where a folder is needed" in result.output


def test_a_failing_self_test_stops_the_job(run: Run, slices: Path, tmp_path: Path) -> None:
    from matseg_shared.contract.onnx_properties import SelfTest, encode

    graph = onnx_models.build_graph()
    test = onnx_models.self_test_of(graph, 1, "uint8")
    wrong = SelfTest(image=test.image, labels=(test.labels + 1) % 3, margin=np.ones_like(test.margin))
    path = onnx_models.save(graph, encode(onnx_models.build_metadata(), wrong), tmp_path / "m.onnx")
    result = run(path, slices, "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "its self-test fails" in result.output
    assert not (tmp_path / "out").exists()


def test_real_slices(run: Run, model: Path, battery: Path, tmp_path: Path, expected: Expected) -> None:
    folder = tmp_path / "battery"
    folder.mkdir()
    for number in (1, 30):
        name = f"im{number:03}.tif"
        (folder / name).write_bytes((battery / name).read_bytes())
    assert run(model, folder).exit_code == 0
    labels = _labels(tmp_path / "battery_predictions/alloy_v1/im030.png")
    assert labels.shape == (728, 728)
    np.testing.assert_array_equal(labels, expected(np.array(Image.open(folder / "im030.tif"))))


def test_the_commands_start_without_heavy_packages() -> None:
    code = (
        "import sys, matseg_runtime.cli.run\n"
        "heavy = {'zarr', 'onnxruntime', 'pydantic', 'numpy', 'tifffile', 'PIL', 'rich', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
