"""matseg-quantify on every format of labels, and matseg-run --quantify, which must say the same."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.cli.quantify import quantify_main
from matseg_runtime.ledger import Ledger, Part
from matseg_runtime.measure.tables import QUANTITIES_NAME, SIZES_NAME, SUMMARY_NAME
from matseg_shared.contract.metadata import PixelSize
from matseg_shared.contract.onnx_properties import encode
from matseg_shared.images.palette import OKABE_ITO
from matseg_shared.images.png import write_label_png
from matseg_shared.installation import install_command

Run = Callable[..., Result]
FILES = (QUANTITIES_NAME, SIZES_NAME)


def _labels(depth: int = 5) -> NDArray[np.uint8]:
    """(Z, Y, X) of three classes, of which the middle one has discs."""
    y, x = np.mgrid[:48, :60]
    volume = np.zeros((depth, 48, 60), np.uint8)
    volume[:, 40:, :] = 2
    for z in range(depth):
        for centre in (12, 30, 48):
            volume[z][(y - 18) ** 2 + (x - centre) ** 2 < (3 + z) ** 2] = 1
    return volume


VOLUME = _labels()


def _folder(root: Path, *, palette: bool = True) -> Path:
    (root / "labels").mkdir()
    for number, labels in enumerate(VOLUME):
        with (root / "labels" / f"z{number}.png").open("wb") as stream:
            if palette:
                write_label_png(stream, labels, OKABE_ITO[:3])
            else:
                Image.fromarray(np.stack([labels] * 3, axis=-1)).save(stream, format="PNG")
    return root / "labels"


def _stack(root: Path) -> Path:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :3] = np.array(OKABE_ITO[:3]).T * 257
    tifffile.imwrite(root / "labels.tif", VOLUME, photometric="palette", colormap=colours, metadata=None)
    return root / "labels.tif"


def _zarr(root: Path) -> Path:
    zarr.create_array(str(root / "labels.zarr"), data=VOLUME.astype(np.int32), chunks=(2, 20, 60))
    return root / "labels.zarr"


def _npy(root: Path) -> Path:
    np.save(root / "labels.npy", VOLUME.astype(np.uint16))
    return root / "labels.npy"


def _hdf5(root: Path) -> str:
    with h5py.File(root / "labels.h5", "w") as file:
        file["phases"] = VOLUME
    return f"{root / 'labels.h5'}::/phases"


@pytest.fixture
def quantify() -> Run:
    """matseg-quantify, called in this process."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(quantify_main, [str(argument) for argument in arguments])

    return call


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / QUANTITIES_NAME).open(newline="") as stream:
        return list(csv.DictReader(stream))


def _without_names(folder: Path) -> list[list[str]]:
    """A volume's slices are called after the file, whatever that is called."""
    return [list(row.values())[1:] for row in _rows(folder)]


@pytest.mark.parametrize("make", [_folder, _stack, _zarr, _npy, _hdf5])
def test_every_format_gives_the_same_tables(
    quantify: Run, tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    result = quantify(make(tmp_path), "-o", tmp_path / "out", "--names", "liquid,grain,wall")
    assert result.exit_code == 0, result.output
    assert "lengths are in pixels: no voxel size is known; give it with --voxel-size" in result.output
    rows = _rows(tmp_path / "out")
    assert [(row["class"], row["value"]) for row in rows[:3]] == [
        ("liquid", "0"),
        ("grain", "1"),
        ("wall", "2"),
    ]
    assert [row["position"] for row in rows[::3]] == ["0", "1", "2", "3", "4", ""]
    for number, labels in enumerate(VOLUME):
        grain = rows[3 * number + 1]
        assert (int(grain["pixels"]), int(grain["regions"])) == ((labels == 1).sum(), 3)
        assert float(grain["fraction"]) == pytest.approx((labels == 1).mean(), abs=1e-6)
        diameter = 2 * np.sqrt((labels == 1).sum() / 3 / np.pi)
        assert float(grain["diameter p50 (pixel)"]) == pytest.approx(diameter, rel=1e-5)
    total = rows[-2]
    assert (total["slice"], total["regions"], int(total["pixels"])) == ("total", "15", (VOLUME == 1).sum())


def test_grey_stored_as_rgb_counts_as_values(quantify: Run, tmp_path: Path) -> None:
    assert quantify(_folder(tmp_path, palette=False), "-o", tmp_path / "out").exit_code == 0
    assert int(_rows(tmp_path / "out")[1]["pixels"]) == (VOLUME[0] == 1).sum()


def test_json_and_voxel_size(quantify: Run, tmp_path: Path) -> None:
    result = quantify(_npy(tmp_path), "--voxel-size", "2,0.5,0.5um", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert Path(summary["output"]) == tmp_path / "labels_quantities"
    assert (
        json.loads((tmp_path / "labels_quantities" / SUMMARY_NAME).read_text())["classes"]
        == summary["classes"]
    )
    assert (summary["unit"], summary["voxel_size"]["step"], summary["connectivity"]) == ("um", 2.0, 8)
    wall = summary["classes"][2]
    assert wall["area"] == pytest.approx((VOLUME == 2).sum() * 0.25)
    assert wall["volume"] == pytest.approx(wall["area"] * 2)
    assert "area (um^2)" in _rows(tmp_path / "labels_quantities")[0]
    assert all("pixel" not in name.replace("pixels", "") for name in _rows(tmp_path / "labels_quantities")[0])


def test_several_threads_give_the_same_bytes(quantify: Run, tmp_path: Path) -> None:
    labels = _zarr(tmp_path)
    for workers in (1, 2):
        result = quantify(labels, "-o", tmp_path / str(workers), "--workers", workers)
        assert result.exit_code == 0, result.output
    for name in FILES:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_mask_that_is_no_class(quantify: Run, tmp_path: Path) -> None:
    masked = VOLUME.copy()
    masked[:, :, :20] = 255
    np.save(tmp_path / "a.npy", masked)
    assert quantify(tmp_path / "a.npy", "-o", tmp_path / "all").exit_code == 0
    assert {row["class"] for row in _rows(tmp_path / "all")} == {"class 0", "class 1", "class 2", "class 255"}
    assert quantify(tmp_path / "a.npy", "-o", tmp_path / "some", "--ignore", 255).exit_code == 0
    assert {row["class"] for row in _rows(tmp_path / "some")} == {"class 0", "class 1", "class 2"}


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (VOLUME.astype(np.float32), [], r"expected labels, one whole number per class, found float32 pixels"),
        (
            np.arange(2 * 30 * 30, dtype=np.uint16).reshape(2, 30, 30),
            [],
            r"at most 255 classes, found 900 values",
        ),
        (
            np.arange(4 * 10 * 10, dtype=np.uint16).reshape(4, 10, 10),
            [],
            r"at most 255 classes, found 400 values; this looks like an image",
        ),
        (VOLUME.astype(np.int16) - 1, [], r"none of its 5 slices can be measured(.|\n)*from 0 up, found -1"),
        (VOLUME, ["--names", "a,b"], r"expected 2 classes \(a, b\), found the values 0, 1, 2"),
        (VOLUME, ["--names", "a,,b"], r"expected different names with commas"),
        (VOLUME, ["--voxel-size", "3"], r"expected the edge of a voxel with its unit"),
        (VOLUME, ["--range", "3:9"], r"does not lie within its 5 slices"),
        (VOLUME, ["--connectivity", "6"], r"(?i)invalid value"),
    ],
)
def test_what_is_no_labels_or_does_not_fit(
    quantify: Run, tmp_path: Path, array: NDArray[Any], arguments: list[str], message: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    result = quantify(tmp_path / "a.npy", *arguments)
    assert result.exit_code == 2, result.output
    assert re.search(message, result.output), result.output
    assert not (tmp_path / "a_quantities").exists()


def test_slices_that_cannot_be_measured_are_named(quantify: Run, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "z1.png").write_bytes(b"broken")
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (9, 9, 3), np.uint8)).save(folder / "z2.png")
    tifffile.imwrite(folder / "z3.tif", np.zeros((4, 4), np.float32))
    (folder / "z3.png").unlink()
    result = quantify(folder, "--json")
    assert result.exit_code == 4, result.output
    excluded = {Path(item["where"]).name: item["reason"] for item in json.loads(result.stdout)["excluded"]}
    assert sorted(excluded) == ["z1.png", "z2.png", "z3.tif"]
    assert "found colours" in excluded["z2.png"]
    assert "found float32 pixels" in excluded["z3.tif"]


def test_nothing_there_and_no_scikit_image(
    quantify: Run, run: Run, model: Path, slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = quantify(tmp_path / "nothing")
    assert missing.exit_code == 2
    assert "there is no such input" in missing.output
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "skimage" else find(name, *rest)
    )
    for result in (quantify(_npy(tmp_path)), run(model, slices, "-o", tmp_path / "out", "--quantify")):
        assert result.exit_code == 3
        assert install_command("quantify") in result.output
    assert not (tmp_path / "out").exists(), "found out before any work"


@pytest.mark.parametrize("output", ["out", "out.tif", "out.zarr"])
def test_a_run_says_the_same_as_the_command_on_its_output(
    quantify: Run, run: Run, model: Path, tmp_path: Path, output: str
) -> None:
    volume = onnx_models.random_pixels((6, 40, 52), "uint8", 3)
    tifffile.imwrite(
        tmp_path / "scan.tif",
        volume,
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "ZYX", "unit": "um", "spacing": 1},
    )
    ran = run(
        model, tmp_path / "scan.tif", "-o", tmp_path / output, "--quantify", "--connectivity", 4, "--json"
    )
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert (report["unit"], report["voxel_size"]["row"], report["voxel_size"]["step"]) == ("um", 0.5, 1.0)
    folder = tmp_path / output if output == "out" else tmp_path / f"{output}.matseg"
    told = quantify(tmp_path / output, "--connectivity", 4, "-o", tmp_path / "again")
    assert told.exit_code == 0, told.output
    assert "(the run's report)" in told.output
    assert _without_names(folder) == _without_names(tmp_path / "again")
    assert (folder / SIZES_NAME).read_bytes() == (tmp_path / "again" / SIZES_NAME).read_bytes()
    assert {row["class"] for row in _rows(folder)} == {"phase 0", "phase 1", "phase 2"}
    before = (folder / QUANTITIES_NAME).read_text()
    assert quantify(tmp_path / output, "--connectivity", 4).exit_code == 0, (
        "by default into the run's own folder"
    )
    assert _rows(folder)[0].keys() == next(csv.DictReader(before.splitlines())).keys()


def test_a_zarr_cut_along_another_axis_and_moved_away(
    quantify: Run, run: Run, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((24, 6, 32), "uint8", 3))
    out = tmp_path / "out.zarr"
    assert run(model, tmp_path / "scan.npy", "--axis", 1, "-o", out, "--quantify").exit_code == 0
    assert quantify(out, "-o", tmp_path / "a").exit_code == 0
    assert _without_names(tmp_path / "a") == _without_names(tmp_path / "out.zarr.matseg")
    moved = out.rename(tmp_path / "moved.zarr")
    assert quantify(moved, "--axis", 1, "-o", tmp_path / "b").exit_code == 0
    assert _without_names(tmp_path / "b") == _without_names(tmp_path / "a")


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_a_voxel_size_is_that_of_the_volume_however_it_is_cut(
    quantify: Run, run: Run, model: Path, tmp_path: Path, axis: int | None
) -> None:
    """The run cuts along the axis 1; what it was told holds for slices along any other, and so does `z,y,x`."""
    size = "7,5,3um"
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((20, 6, 32), "uint8", 3))
    out = tmp_path / "out.zarr"
    assert run(model, tmp_path / "scan.npy", "--axis", 1, "-o", out, "--voxel-size", size).exit_code == 0
    choice = () if axis is None else ("--axis", axis)
    remembered = quantify(out, *choice, "-o", tmp_path / "a", "--json")
    said = quantify(out, *choice, "--voxel-size", size, "-o", tmp_path / "b", "--json")
    for result in (remembered, said):
        assert result.exit_code == 0, result.output
        summary = json.loads(result.stdout)
        found = summary["voxel_size"]
        edges = [7.0, 5.0, 3.0]
        step = edges.pop(1 if axis is None else axis)
        assert (found["step"], found["row"], found["column"]) == (step, *edges)
        assert sum(item["volume"] for item in summary["classes"]) == pytest.approx(20 * 6 * 32 * 7 * 5 * 3)


def test_slices_of_a_volume_that_were_excluded_have_no_labels(
    quantify: Run, run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    for number in (2, 4, 6):
        (slices / f"s{number}.png").unlink()
    (slices / "s3.png").write_bytes(b"broken")
    result = run(model, slices, "-o", tmp_path / "out.zarr", "--quantify")
    assert result.exit_code == 4, result.output
    told = quantify(tmp_path / "out.zarr", "-o", tmp_path / "again", "--json")
    summary = json.loads(told.stdout)
    assert (summary["slices"], summary["slices_without_labels"]) == (2, 1)
    own = json.loads((tmp_path / "out.zarr.matseg" / SUMMARY_NAME).read_text())
    assert own["classes"] == summary["classes"]
    assert own["slices_without_labels"] == 1
    assert _without_names(tmp_path / "again") == _without_names(tmp_path / "out.zarr.matseg")


@pytest.mark.parametrize("output", ["out", "out.zarr"])
def test_asked_for_later_it_is_measured_from_the_labels(
    run: Run, model: Path, tmp_path: Path, output: str
) -> None:
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((5, 24, 32), "uint8", 3))
    (tmp_path / "later").mkdir()
    (tmp_path / "once").mkdir()
    later, once = tmp_path / "later" / output, tmp_path / "once" / output
    assert run(model, tmp_path / "scan.npy", "-o", once, "--quantify").exit_code == 0
    assert run(model, tmp_path / "scan.npy", "-o", later).exit_code == 0
    result = run(model, tmp_path / "scan.npy", "-o", later, "--quantify")
    assert result.exit_code == 0, result.output
    assert "0 of 5 slices labelled in this run" in result.output
    folders = [path if output == "out" else path.with_name("out.zarr.matseg") for path in (later, once)]
    for name in FILES:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_parts_are_merged_and_a_plain_finish_writes_what_they_measured(
    run: Run, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((6, 24, 32), "uint8", 3))
    (tmp_path / "one").mkdir()
    common = (model, tmp_path / "scan.npy", "--threads", 1)
    assert run(*common, "-o", tmp_path / "one" / "out", "--quantify").exit_code == 0
    for part in ("2/3", "1/3", "3/3"):
        assert run(*common, "-o", tmp_path / "out", "--quantify", "--part", part).exit_code == 0
    assert run(*common, "-o", tmp_path / "out", "--finish").exit_code == 0
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "one" / "out" / name).read_bytes()


def test_what_was_measured_survives_a_kill(model: Path, run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((80, 60, 64), "uint8", 3))
    (tmp_path / "whole").mkdir()
    arguments = [str(model), str(tmp_path / "scan.npy"), "--quantify", "--threads", "1", "-o"]
    command = [sys.executable, "-c", "from matseg_runtime.cli.run import run_main; run_main()", *arguments]
    with subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.DEVNULL) as process:
        ledger = Ledger(tmp_path / "out" / ".matseg", Part())
        while process.poll() is None and len(ledger.done) < 5:
            time.sleep(0.002)
            ledger.reload()
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    ledger.reload()
    assert 5 <= len(ledger.done) < 80, "killed in the middle"
    assert all(record.regions is not None for record in ledger.done.values())
    assert run(*arguments, tmp_path / "out").exit_code == 0
    assert run(*arguments, tmp_path / "whole" / "out").exit_code == 0
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()


def test_without_being_asked_nothing_is_measured(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    result = run(model, slices, "-o", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    assert (report["voxel_size"], report["unit"]) == (None, "pixel")
    assert not {path.name for path in (tmp_path / "out").iterdir()} & {
        *FILES,
        SUMMARY_NAME,
        "uncertainty.csv",
    }
    ledger = Ledger(tmp_path / "out" / ".matseg", Part())
    ledger.reload()
    assert all(record.regions is None and record.uncertainty is None for record in ledger.done.values())


def test_probabilities_beside_labels_are_no_labels(
    quantify: Run, run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    assert run(model, slices, "-o", tmp_path / "out", "--probabilities", "--quantify").exit_code == 0
    assert quantify(tmp_path / "out", "-o", tmp_path / "again").exit_code == 0
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_pixel_size_of_the_model(run: Run, slices: Path, tmp_path: Path) -> None:
    graph = onnx_models.build_graph()
    metadata = onnx_models.build_metadata().model_copy(update={"pixel_size": PixelSize(value=1.3, unit="µm")})
    model = onnx_models.save(
        graph, encode(metadata, onnx_models.self_test_of(graph, 1, "uint8")), tmp_path / "alloy_v1.onnx"
    )
    report = json.loads(run(model, slices, "-o", tmp_path / "a", "--json", "--quantify").stdout)
    assert report["voxel_size"] == {
        "step": None,
        "row": 1.3,
        "column": 1.3,
        "unit": "um",
        "origin": "the model",
    }
    assert not any("was trained on pixels" in warning for warning in report["warnings"])
    assert json.loads((tmp_path / "a" / SUMMARY_NAME).read_text())["classes"][0]["volume"] is None
    other = json.loads(run(model, slices, "-o", tmp_path / "b", "--json", "--voxel-size", "2um").stdout)
    assert other["unit"] == "um"
    assert any("was trained on pixels of 1.3 um" in warning for warning in other["warnings"])


def test_phase_fractions_have_areas_where_the_voxel_size_is_known(
    run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    assert run(model, slices, "-o", tmp_path / "out", "--voxel-size", "0.5um").exit_code == 0
    with (tmp_path / "out" / "phase_fractions.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    assert float(row["phase 1 (um^2)"]) == pytest.approx(int(row["phase 1 (pixels)"]) * 0.25, rel=1e-5)
