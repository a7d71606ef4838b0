"""Maps of elements from files of one channel each: prepared, trained on, evaluated, exported and run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image

from matseg_runtime.cli.run import run_main
from matseg_runtime.model.file import read_model
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.errors import UsageError
from matseg_shared.images.channel_files import ChannelFiles
from matseg_shared.images.read import read_stored
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.commands.prep import main as prep_main
from matseg_trainer.commands.report import report_main
from matseg_trainer.commands.train import train_main

NAMES = ("Fe", "Ni", "Cr", "Al")
PATTERN = "*_{Fe,Ni,Cr,Al}.tif"
EDGE = 64


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def labelled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(4, H, W) and its classes, which channels 2 and 0 tell together and none alone."""
    rng = np.random.default_rng(seed)
    one, other = (np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16), int)) for _ in range(2))
    pixels = rng.normal(100, 8, (4, EDGE, EDGE))
    pixels[2] += 60 * one
    pixels[0] += 60 * other
    return pixels.clip(0, 255).astype(np.uint8), (one ^ other).astype(np.uint8)


def write_files(folder: Path, stem: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, plane in zip(NAMES, pixels, strict=True):
        tifffile.imwrite(folder / f"{stem}_{name}.tif", plane)


def config(place: Path, channels: str = "") -> None:
    keys = (
        'model = "unet"\nn_class = 2\nwidth = 4\nepoch = 12\nlr = 0.01\nbatch_size = 2\ncrops_per_image = 3\n'
    )
    place.joinpath("config.toml").write_text(f"[alloy.v1]\n{keys}aug = true\n{channels}\n")


def page_pictures(place: Path) -> list[str]:
    """Pictures in the page of the evaluation, the first image's first."""
    return re.findall(r"data:image/jpeg;base64,[^\"]+", (place / "plots" / "alloy_v1_test.html").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A workspace whose data set is maps of four elements, and a folder of such maps to be labelled."""
    for split, seeds in (("train", range(4)), ("validate", range(4, 6)), ("test", range(6, 7))):
        for seed in seeds:
            pixels, labels = labelled(seed)
            write_files(tmp_path / "files" / split, f"spot{seed}", pixels)
            folder = tmp_path / "data" / "alloy" / split
            (folder / "labels").mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(folder / "labels" / f"spot{seed}.png")
        arguments = ["channels", str(tmp_path / "files" / split), str(folder / "images"), PATTERN]
        ok(CliRunner().invoke(prep_main, arguments))
    config(tmp_path, "channels = [2, 0]")
    return tmp_path


def test_two_of_four_channels_from_files_to_labels(place: Path) -> None:
    there = ["--workspace", str(place)]
    ok(
        CliRunner().invoke(
            prep_main, ["labels", "alloy", "train", "validate", "test", "--classes", "2", *there]
        )
    )
    assert "4 channels" in ok(CliRunner().invoke(prep_main, ["check", "alloy", *there]))
    assert "2 channels (Cr, Fe)" in ok(CliRunner().invoke(train_main, ["alloy", "v1", *there]))
    ok(CliRunner().invoke(evaluate_main, ["alloy", "v1", "--report", *there]))
    first, *_ = page_pictures(place)
    ok(CliRunner().invoke(evaluate_main, ["alloy", "v1", "--report", "--show", "3", *there]))
    assert page_pictures(place)[0] != first
    beyond = ok(CliRunner().invoke(evaluate_main, ["alloy", "v1", "--report", "--show", "4", *there]))
    assert "no report: --show 4: expected channels from 0 to 3" in beyond
    report = ["log/alloy_v1_test.json", "--show", "3,1,0"]
    document = next((place / "log").glob("alloy_v1*test*.json"))
    ok(CliRunner().invoke(report_main, [str(document), *report[1:]]))
    refused = CliRunner().invoke(report_main, [str(document), "--show", "4"])
    assert refused.exit_code == 2
    assert "--show 4: expected channels from 0 to 3" in refused.output
    model = place / "model.onnx"
    for precision in ("int8", "fp16", "fp32"):
        options = ["-o", str(model), "--precision", precision, "--overwrite", *there]
        ok(CliRunner().invoke(export_main, ["alloy", "v1", *options]))
    found = read_model(model, MADE_HERE).model.metadata
    assert (found.input.channels, found.input.picked) == (2, (2, 0))
    assert found.input.channel_names == ("Cr", "Fe")
    pixels, labels = labelled(9)
    write_files(place / "raw", "spot9", pixels)
    write_files(place / "raw", "spot10", pixels)
    stacked = place / "stacked"
    stacked.mkdir()
    tifffile.imwrite(stacked / "spot9.tif", pixels, photometric="minisblack")
    np.save(place / "two.npy", np.stack([pixels[0], pixels[2]]))
    ways = {
        "files": [place / "raw", "--channel-files", PATTERN, "--show", "1"],
        "stacked": [stacked],
        "one image": [stacked / "spot9.tif"],
        "others": [place / "two.npy", "--channels", "1,0", "--axes", "cyx"],
    }
    for name, way in ways.items():
        out = place / "out" / name
        ok(CliRunner().invoke(run_main, [str(model), *map(str, way), "-o", str(out)]))
        written = sorted(out.glob("*.png"))
        predicted = read_stored(written[-1]).pixels
        assert (predicted == labels).mean() > 0.9
        np.testing.assert_array_equal(predicted, read_stored(place / "out" / "files" / "spot9.png").pixels)
    (place / "raw" / "spot10_Cr.tif").unlink()
    lacking = CliRunner().invoke(
        run_main, [str(model), str(place / "raw"), "--channel-files", PATTERN, "-o", str(place / "again")]
    )
    assert lacking.exit_code == 4
    assert "spot10_Cr.tif: there is no such file" in lacking.output
    for pattern, words in (
        ("*_{Fe,Cr}.tif", r"expected 2 channels (Cr, Fe) in this order"),
        ("*_{Fe,Cr,Al}.tif", "(Al, Fe)"),
        ("*.{a,b,c}", "expected 2 channels"),
    ):
        refused = CliRunner().invoke(run_main, [str(model), str(place / "raw"), "--channel-files", pattern])
        assert refused.exit_code == 2
        assert words in " ".join(refused.output.split())


def marked(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture (H, W, 3) with a coloured scale bar, and its two classes."""
    pixels, _ = labelled(seed)
    colours = np.repeat(pixels[2][..., np.newaxis], 3, axis=2)
    colours[-6:, -20:] = (200, 30, 10)
    return colours, (
        np.kron(pixels[2].reshape(4, 16, 4, 16).mean(axis=(1, 3)) > 130, np.ones((16, 16)))
    ).astype(np.uint8)


def test_grey_of_coloured_pictures_from_training_to_labels(tmp_path: Path) -> None:
    """With `channels = 1`: without it, pictures of two kinds are refused; with it, runs take the mean, too."""
    for split, seeds in (("train", range(4)), ("validate", range(4, 6)), ("test", range(6, 7))):
        for seed in seeds:
            pixels, labels = marked(seed)
            for kind, array in (("images", pixels if seed else pixels[..., 0]), ("labels", labels)):
                place = tmp_path / "data" / "alloy" / split / kind / f"s{seed}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(place)
    config(tmp_path)
    there = ["alloy", "v1", "--workspace", str(tmp_path)]
    refused = CliRunner().invoke(train_main, there)
    assert refused.exit_code == 2
    assert "set `channels = 1`" in " ".join(refused.output.split())
    config(tmp_path, "channels = 1")
    ok(CliRunner().invoke(train_main, there))
    evaluated = CliRunner().invoke(evaluate_main, [*there, "--report", "--json"])
    assert ok(evaluated)
    first = json.loads(evaluated.stdout)
    assert first["accuracy"] > 0.9
    assert page_pictures(tmp_path)
    model = tmp_path / "model.onnx"
    for precision in ("int8", "fp32"):
        ok(
            CliRunner().invoke(
                export_main, [*there, "-o", str(model), "--precision", precision, "--overwrite"]
            )
        )
    found = read_model(model, MADE_HERE).model.metadata.input
    assert (found.channels, found.picked) == (1, "grey")
    again = json.loads(ok(CliRunner().invoke(evaluate_main, [*there, "--model", str(model), "--json"])))
    assert again["confusion_matrix"] == first["confusion_matrix"]
    pixels = np.stack([marked(seed)[0] for seed in (9, 10)])
    mean = np.rint(pixels.mean(axis=-1)).astype(np.uint8)
    ways = {"colours": pixels, "grey": mean}
    for name, volume in ways.items():
        (tmp_path / name).mkdir()
        for number, image in enumerate(volume):
            Image.fromarray(image).save(tmp_path / name / f"s{number}.png")
        np.save(tmp_path / f"{name}.npy", volume)
        ok(
            CliRunner().invoke(
                run_main, [str(model), str(tmp_path / name), "-o", str(tmp_path / "out" / name)]
            )
        )
        ok(
            CliRunner().invoke(
                run_main, [str(model), str(tmp_path / f"{name}.npy"), "-o", str(tmp_path / f"{name}.tif")]
            )
        )
    expected = [read_stored(tmp_path / "out" / "grey" / f"s{number}.png").pixels for number in (0, 1)]
    for name in ways:
        written = [read_stored(tmp_path / "out" / name / f"s{number}.png").pixels for number in (0, 1)]
        np.testing.assert_array_equal(written, expected)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / f"{name}.tif"), expected)


@pytest.mark.parametrize(
    "text", ["", "*.tif", "{a,b}.tif", "*{a}", "*{a,a}", "*{a,}", "**{a,b}", "x/*{a,b}", "*{a*,b}"]
)
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected a pattern with one"):
        ChannelFiles.parse(text)


def test_files_of_channels_that_do_not_fit_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    write_files(folder, "a", labelled(0)[0])
    command = ["channels", str(folder), str(tmp_path / "out")]

    def refused(pattern: str) -> str:
        result = CliRunner().invoke(prep_main, [*command, pattern])
        assert result.exit_code == 2
        return " ".join(result.output.split())

    assert "found a_Al.tif, a_Cr.tif, a_Fe.tif, a_Ni.tif" in refused("*-{Fe,Ni}.tif")
    assert "a_W.tif: there is no such file" in refused("*_{Fe,W}.tif")
    tifffile.imwrite(folder / "a_Ni.tif", np.zeros((3, 4), np.uint16))
    assert "a_Ni.tif: expected 64 x 64 uint8 as in a_Fe.tif, found 3 x 4 uint16" in refused("*_{Fe,Ni}.tif")
    assert not list((tmp_path / "out").glob("*"))
    ok(CliRunner().invoke(prep_main, [*command, "*_{Fe,Cr}.tif"]))
    assert "has a.tif already" in refused("*_{Fe,Cr}.tif")
