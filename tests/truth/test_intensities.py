"""Intensities: depth, scale, range and order of channels as the model knows them, or a refusal, or a loud warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from PIL import Image
from ways_in import direct

from matseg_runtime.source.checks import check_input
from matseg_runtime.source.open import open_source
from matseg_runtime.source.transform import Transform, Window
from matseg_shared.contract.metadata import Histogram

RANDOM = np.random.default_rng(3)
VOLUME = onnx_models.random_pixels((8, 40, 48), "uint8", 5)


def save(path: Path, volume: np.ndarray) -> Path:
    np.save(path, volume)
    return path


def write_folder(folder: Path, images: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for stem, pixels in images.items():
        Image.fromarray(pixels).save(folder / f"{stem}.png")
    return folder


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


# depth and scale


@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint16", 1.0), ("uint16", 16.0), ("float32", 1 / 65535)], ids=["8", "12", "unit"]
)
def test_another_bit_depth_or_unit_is_refused_and_goes_on_only_when_told(
    tmp_path: Path, models, run, dtype: str, scale: float
) -> None:
    path = save(tmp_path / "scan.npy", (VOLUME * scale).astype(dtype))
    result = run(models(dtype), path, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "expected intensities like the training set's" in result.output
    assert "another bit depth or unit; map them with --window LO,HI" in result.output
    assert not (tmp_path / "out").exists()
    result = run(models(dtype), path, "-o", tmp_path / "out", "--accept-intensities")
    assert result.exit_code == 0, result.output
    assert "warning: expected intensities like the training set's" in result.output
    assert any("accepted with --accept-intensities" in text for text in report(tmp_path / "out")["warnings"])


def test_intensities_far_beside_the_training_set_s_are_refused_and_go_on_only_when_told(
    tmp_path: Path, models, run
) -> None:
    path = save(tmp_path / "scan.npy", VOLUME.astype(np.float32))  # 0 to 255 for a model of 0 to 1
    result = run(models("float32"), path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "expected intensities like those of the training set (0 to 1)" in result.output
    assert run(models("float32"), path, "-o", tmp_path / "out", "--accept-intensities").exit_code == 0
    assert any("drift" in text for text in report(tmp_path / "out")["warnings"])


def test_16_bit_is_never_shown_as_8_bit(tmp_path: Path, models, run, labels) -> None:
    deep = VOLUME.astype(np.uint16) * 257
    folder = write_folder(tmp_path / "scan", {f"s{number}": image for number, image in enumerate(deep)})
    result = run(models(), folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "has uint16 pixels, this model takes uint8; map them with --window LO,HI" in result.output
    for found, image in zip(labels(models("uint16"), folder), deep, strict=True):
        np.testing.assert_array_equal(found, direct(models("uint16"), image))
    for found, image in zip(labels(models(), folder, "--window", "0,65535"), VOLUME, strict=True):
        np.testing.assert_array_equal(found, direct(models(), image))


def test_8_bit_is_not_taken_for_16_bit(tmp_path: Path, models, run) -> None:
    folder = write_folder(tmp_path / "scan", {"a": VOLUME[0]})
    result = run(models("uint16"), folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "has uint8 pixels, this model takes uint16" in result.output


@pytest.mark.parametrize("window", [None, "0,65535"])
def test_a_folder_of_two_dtypes_is_not_mapped_alike(tmp_path: Path, models, run, window: str | None) -> None:
    deep = VOLUME[0].astype(np.uint16) * 257
    folder = write_folder(tmp_path / "scan", {"a": deep, "b": VOLUME[1], "c": deep})
    model = models("uint16") if window is None else models()
    options = () if window is None else ("--window", window)
    result = run(model, folder, "-o", tmp_path / "out", *options)
    assert result.exit_code == 4, result.output
    assert [Path(item["where"]).name for item in report(tmp_path / "out")["excluded"]] == ["b.png"]
    told = "has uint8 pixels, this model takes" if window is None else "one --window cannot fit both"
    assert told in result.output


def test_empty_slices_are_no_sign_of_another_scale(tmp_path: Path, models, run) -> None:
    blank = np.zeros_like(VOLUME)
    blank[:, 5, 5:9] = 200
    assert run(models(), save(tmp_path / "scan.npy", blank), "-o", tmp_path / "out").exit_code == 0


# NaN and infinity


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("window", [None, "0,1"])
def test_infinity_is_excluded_with_count_and_first_place(
    tmp_path: Path, models, run, value: float, window: str | None
) -> None:
    volume = (VOLUME / 255).astype(np.float32)
    volume[3, 7, 11] = volume[3, 8, 2] = value
    path = save(tmp_path / "scan.npy", volume)
    options = () if window is None else ("--window", window)
    result = run(models("float32"), path, "-o", tmp_path / "out", *options)
    assert result.exit_code == 4, result.output
    told = "slice 3: holds infinite pixels, 2 of 1920, the first at row 7, column 11"
    assert told in result.output
    assert len(report(tmp_path / "out")["excluded"]) == 1
    assert not (tmp_path / "out" / "scan_0003.png").exists()


@pytest.mark.parametrize("window", [None, "0,1"])
def test_nan_is_no_data(tmp_path: Path, models, run, window: str | None) -> None:
    volume = (VOLUME / 255).astype(np.float32)
    volume[3, 7, 11] = volume[3, 8, 2] = np.nan
    options = () if window is None else ("--window", window)
    result = run(models("float32"), save(tmp_path / "scan.npy", volume), "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert report(tmp_path / "out")["no_data_pixels"] == 2
    labels = np.asarray(Image.open(tmp_path / "out" / "scan_0003.png"))
    assert np.argwhere(labels == 255).tolist() == [[7, 11], [8, 2]]


def test_a_volume_whose_first_slice_has_infinity_is_refused_before_any_work(
    tmp_path: Path, models, run
) -> None:
    volume = (VOLUME / 255).astype(np.float32)
    volume[:, 0, 0] = np.inf
    result = run(models("float32"), save(tmp_path / "scan.npy", volume), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "holds infinite pixels, 1 of 1920, the first at row 0, column 0" in result.output
    assert not (tmp_path / "out").exists()


# windows


def test_what_a_window_clips_is_counted_and_told(tmp_path: Path, models, run) -> None:
    deep = VOLUME.astype(np.uint16) * 16
    deep[2, :30] = 5000
    path = save(tmp_path / "scan.npy", deep)
    result = run(models(), path, "-o", tmp_path / "out", "--window", "0,4080")
    assert result.exit_code == 0, result.output
    assert report(tmp_path / "out")["clipped_pixels"] == 30 * 48
    assert f"{30 / 320:.1%} of the pixels lie beyond --window and were clipped" in result.output
    assert (
        "in 1 of 8 slices half of the pixels or more lie beyond --window and were clipped: scan_0002"
        in result.output
    )
    again = run(models(), path, "-o", tmp_path / "out", "--window", "0,4080")  # nothing left to label
    assert "scan_0002" in again.output


def test_a_window_beyond_half_precision_clips_nothing() -> None:
    halves = np.array([[-60000, 60000]], np.float16)
    transform = Transform(info=onnx_models.build_metadata().input, window=Window(-100000, 100000))
    assert transform.clipped(halves) == 0
    assert transform.convert(halves, "halves").tolist() == [[[51, 204]]]


def test_a_window_that_leaves_nothing_is_refused_and_goes_on_only_when_told(
    tmp_path: Path, models, run
) -> None:
    path = save(tmp_path / "scan.npy", VOLUME.astype(np.uint16) + 1000)
    result = run(models(), path, "-o", tmp_path / "out", "--window", "0,255")
    assert result.exit_code == 2
    assert "--window 0,255 leaves nothing of 7 slices that were looked at" in result.output
    accepted = run(models(), path, "-o", tmp_path / "out", "--window", "0,255", "--accept-intensities")
    assert accepted.exit_code == 0, accepted.output
    assert any("leaves nothing" in text for text in report(tmp_path / "out")["warnings"])


# contrast slice by slice


def look(tmp_path: Path, volume: np.ndarray) -> tuple[str, ...]:
    """The warnings about a volume for a model of its dtype."""
    source = open_source(str(save(tmp_path / "scan.npy", volume)))
    return check_input(source, Transform(info=onnx_models.build_metadata().input), accept=False).warnings


def scan() -> np.ndarray:
    """Slices of one material on one scale, each with some more of one phase than the last."""
    slices = []
    for number in range(9):
        phase = RANDOM.random((96, 96)) < 0.2 + 0.03 * number
        slices.append(np.where(phase, 90.0, 150.0) + RANDOM.normal(0, 9 + number, (96, 96)))
    return np.stack(slices)


def stretched(volume: np.ndarray, tail: float) -> np.ndarray:
    """Each slice from its own percentile to its own percentile."""
    ends = np.percentile(volume, [tail, 100 - tail], axis=(1, 2))[..., np.newaxis, np.newaxis]
    return np.rint(np.clip((volume - ends[0]) / (ends[1] - ends[0]), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("tail", [0, 0.35, 2], ids=["extremes", "0.35%", "2%"])
def test_contrast_stretched_slice_by_slice_is_told(tmp_path: Path, tail: float) -> None:
    (warning,) = look(tmp_path, stretched(scan(), tail))
    assert "each of 7 slices that were looked at reaches from 0 to 255 exactly" in warning
    assert "contrast is stretched slice by slice" in warning


@pytest.mark.parametrize("tail", [0, 0.35, 2], ids=["extremes", "0.35%", "2%"])
def test_contrast_stretched_for_the_whole_volume_is_not_told(tmp_path: Path, tail: float) -> None:
    volume = scan()
    low, high = np.percentile(volume, [tail, 100 - tail])
    alike = np.rint(np.clip((volume - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    assert look(tmp_path, alike) == ()


def test_contrast_stretched_slice_by_slice_is_in_report_and_plan(tmp_path: Path, models, run) -> None:
    path = save(tmp_path / "scan.npy", stretched(scan(), 0.35))
    result = run(models(), path, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert any("slice by slice" in text for text in report(tmp_path / "out")["warnings"])
    assert "warning: each of 7 slices" in run(models(), path, "-o", tmp_path / "x", "--dry-run").output


def test_real_scans_on_one_scale_are_not_suspected(tmp_path: Path, models, run) -> None:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "battery_raw"
    if not folder.is_dir():
        pytest.skip(f"the real data set {folder} is not here")
    result = run(models(), folder, "-o", tmp_path / "x", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output


# channels


def stained() -> np.ndarray:
    """RGB slices with more red than blue."""
    grey = scan()[:5, ..., np.newaxis]
    return np.clip(grey + np.array([60.0, 0.0, -40.0]), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("reverse", [False, True], ids=["rgb", "bgr"])
def test_colours_in_the_order_of_opencv_are_told_where_the_training_set_tells_red_from_blue(
    tmp_path: Path, reverse: bool
) -> None:
    info = onnx_models.build_metadata(channels=3).input
    mean, std = (190.0, 130.0, 90.0), (40.0, 40.0, 40.0)
    volume = stained()[..., ::-1] if reverse else stained()
    source = open_source(str(save(tmp_path / "scan.npy", np.ascontiguousarray(volume))))
    found = check_input(
        source, Transform(info=info.model_copy(update={"mean": mean, "std": std})), accept=False
    )
    assert [("in the order BGR, as OpenCV keeps them" in text) for text in found.warnings] == [True] * reverse
    even = info.model_copy(update={"mean": (130.0,) * 3, "std": std})
    assert check_input(source, Transform(info=even), accept=False).warnings == ()  # nobody can tell


# drift


def test_single_slices_unlike_the_training_set_are_named(tmp_path: Path, models, run) -> None:
    volume = VOLUME.copy()
    volume[4] = 3
    volume[4, ::2] = 5
    result = run(models(), save(tmp_path / "scan.npy", volume), "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "the intensities of 1 of 8 slices differ from the training set's" in result.output
    assert "scan_0004" in result.output


def test_a_model_that_knows_no_histogram_accuses_nobody(tmp_path: Path) -> None:
    info = onnx_models.build_metadata().input.model_copy(
        update={"histogram": Histogram(low=0, high=255, counts=(0, 0))}
    )
    source = open_source(str(save(tmp_path / "scan.npy", VOLUME)))
    assert check_input(source, Transform(info=info), accept=False).warnings == ()
