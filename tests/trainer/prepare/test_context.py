"""Slices with their neighbours as channels: imported, checked, cropped, planned, trained and evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result
from label_exports import imported, labelme, nothing_written, refused
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.cli.run import run_main
from matseg_runtime.inference.session import Session
from matseg_shared.images.context import context_of
from matseg_shared.images.read import read_image, read_stored
from matseg_shared.images.tiff import channel_names, stored_context
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.examples import IGNORED, Example, Examples
from matseg_trainer.data.folder import Dataset
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.prepare.facts import look_at
from matseg_trainer.prepare.plan import make_plan

EDGE = 32
Prep = Callable[..., Result]


@pytest.fixture
def scan(workspace: Path) -> NDArray[np.uint8]:
    """(7, 32, 32) grey values in `scan.zarr`, of which slices 0, 3 and 6 have labels in `labels.tif`."""
    depth, rows, columns = np.mgrid[:7, :EDGE, :EDGE]
    truth = ((rows + columns + 3 * depth) % 16 > 7).astype(np.uint8)
    values = (80 + 80 * truth + np.random.default_rng(0).integers(0, 30, truth.shape)).astype(np.uint8)
    labels = np.where(np.isin(depth, (0, 3, 6)), truth + 1, 0).astype(np.uint8)
    zarr.save(str(workspace / "scan.zarr"), values)
    tifffile.imwrite(workspace / "labels.tif", labels)
    return values


def stored(workspace: Path, number: int, split: str = "train") -> Path:
    return workspace / "data" / "set" / split / "images" / f"scan_{number:04d}.tif"


def trained(workspace: Path, keys: str = "") -> Result:
    """A training of one epoch; its checkpoint is `saved/set_v1.pth`."""
    (workspace / "config.toml").write_text(
        f'[set.v1]\nmodel = "unet"\nn_class = 2\nwidth = 4\nepoch = 1\nvalidation_images = []\n{keys}\n'
    )
    return CliRunner().invoke(train_main, ["set", "v1", "--workspace", str(workspace), "--no-report"])


@pytest.mark.parametrize("context", [1, 2])
def test_labelled_slices_are_stored_with_their_neighbours(
    prep: Prep, workspace: Path, scan: NDArray[np.uint8], context: int
) -> None:
    words = (
        "import",
        workspace / "scan.zarr",
        "set",
        "--labels",
        workspace / "labels.tif",
        "--unlabelled",
        0,
    )
    assert imported(prep(*words, "--context", context, "--json"))["images"] == 3
    for number in (0, 3, 6):  # at the ends of the volume the last slice stands again
        around = np.clip(np.arange(number - context, number + context + 1), 0, 6)
        path = stored(workspace, number)
        assert (np.moveaxis(read_image(path), -1, 0) == scan[around]).all()
        assert stored_context(path) == context
    assert channel_names(path, 3) == (("z-1", "z", "z+1") if context == 1 else ())


def test_a_gap_in_the_numbers_of_a_folder_is_an_edge(
    prep: Prep, workspace: Path, scan: NDArray[np.uint8]
) -> None:
    (workspace / "slices").mkdir()
    for number in (0, 1, 2, 3, 5, 6):
        tifffile.imwrite(workspace / "slices" / f"scan_{number:04d}.tif", scan[number])
    (workspace / "drawn").mkdir()
    for number in (3, 5):
        tifffile.imwrite(workspace / "drawn" / f"scan_{number:04d}.tif", 1 + (scan[number] > 130))
    imported(
        prep("import", workspace / "slices", "set", "--labels", workspace / "drawn", "--context", 1, "--json")
    )
    assert (np.moveaxis(read_image(stored(workspace, 3)), -1, 0) == scan[[2, 3, 3]]).all()
    assert (np.moveaxis(read_image(stored(workspace, 5)), -1, 0) == scan[[5, 5, 6]]).all()


def test_grey_slices_stored_as_colours_are_grey(prep: Prep, workspace: Path, scan: NDArray[np.uint8]) -> None:
    (workspace / "slices").mkdir()
    for number in range(4):
        Image.fromarray(scan[number]).convert("RGB").save(workspace / "slices" / f"scan_{number:04d}.png")
    (workspace / "drawn").mkdir()
    tifffile.imwrite(workspace / "drawn" / "scan_0002.tif", 1 + (scan[2] > 130))
    words = ("import", workspace / "slices", "set", "--labels", workspace / "drawn", "--context", 1, "--json")
    imported(prep(*words))
    assert (np.moveaxis(read_image(stored(workspace, 2)), -1, 0) == scan[1:4]).all()


def test_channels_of_slices_stay_beside_each_other(prep: Prep, workspace: Path) -> None:
    values = np.random.default_rng(0).integers(0, 60000, (4, 2, EDGE, EDGE)).astype(np.uint16)
    zarr.save(str(workspace / "scan.zarr"), values)
    np.save(workspace / "labels.npy", 1 + (values[:, 0] > 30000))
    words = ("import", workspace / "scan.zarr", "set", "--labels", workspace / "labels.npy", "--axes", "zcyx")
    imported(prep(*words, "--context", 1, "--json"))
    found = np.moveaxis(read_image(stored(workspace, 1)), -1, 0)
    assert (found == values[0:3].reshape(6, EDGE, EDGE)).all()
    assert context_of(channel_names(stored(workspace, 1), 6)) == 1
    refused(prep(*words, "--context", 20, "--overwrite"), "at most 64 channels, found 82 of 41 slices")


def test_what_has_no_neighbours_is_refused(prep: Prep, workspace: Path, scan: NDArray[np.uint8]) -> None:
    for name in ("one", "other"):
        tifffile.imwrite(workspace / f"{name}.tif", scan[0])
        (workspace / "pictures").mkdir(exist_ok=True)
        tifffile.imwrite(workspace / "pictures" / f"{name}.tif", scan[0])
    labels = ("--labels", workspace / "labels.tif", "--context", 1)
    refused(
        prep("import", workspace / "one.tif", "set", *labels), "seen with its neighbours", "found one image"
    )
    refused(prep("import", workspace / "pictures", "set", *labels), "one, which has no number in its name")
    for number in (1, 12, 40):
        (workspace / "numbered").mkdir(exist_ok=True)
        tifffile.imwrite(workspace / "numbered" / f"steel{number}.tif", scan[0])
    refused(prep("import", workspace / "numbered", "set", *labels), "3 images of which none follows another")
    assert nothing_written(workspace)


def test_pictures_of_another_tool_have_no_neighbours(prep: Prep, workspace: Path, pictures: Path) -> None:
    labelme(pictures / "s0.json", [{"label": "pore", "points": [[0, 0], [9, 0], [0, 9]]}])
    asked = ("import", pictures, "set", "--context", 1)
    refused(prep(*asked), "--context applies to volumes", "not to pictures of LabelMe")
    assert nothing_written(workspace)


@pytest.fixture
def made(prep: Prep, workspace: Path, scan: NDArray[np.uint8]) -> Dataset:  # noqa: ARG001 (files)
    """The set of the labelled slices with a neighbour on either side."""
    words = (
        "import",
        workspace / "scan.zarr",
        "set",
        "--labels",
        workspace / "labels.tif",
        "--unlabelled",
        0,
    )
    imported(prep(*words, "--context", 1, "--json"))
    prep("labels", "set", "train")
    return Dataset.open(workspace / "data" / "set")


def test_a_model_has_the_context_and_the_statistics_of_its_slices(made: Dataset, workspace: Path) -> None:
    result = trained(workspace)
    assert result.exit_code == 0, result.output
    given = load_checkpoint(workspace / "saved" / "set_v1.pth").input
    assert (given.channels, given.context, given.channel_names) == (3, 1, ("z-1", "z", "z+1"))
    own = np.stack([read_image(sample.image)[..., 1] for sample in made.samples("train")])
    assert given.mean == pytest.approx([own.mean()] * 3)
    assert given.std == pytest.approx([own.std()] * 3)
    one = given.of_slice
    assert (one.channels, one.context, one.channel_names, one.mean) == (1, 0, (), given.mean[1:2])


def test_a_version_of_another_context_is_refused(made: Dataset, workspace: Path) -> None:
    for context in (0, 2):
        refused(
            trained(workspace, f"context = {context}"),
            f"expected a slice with {context} neighbours on either side as channels (context), found one with 1",
            f"--context {context}",
        )
    refused(trained(workspace, "channels = 1"), "`channels` of config.toml cannot choose")
    refused(trained(workspace, "context = 32"), "set.v1.context")
    path = made.samples("train")[1].image
    tifffile.imwrite(path, read_image(path)[..., 1])  # a picture by itself among the others
    refused(trained(workspace), path.name, "with 1 neighbours", "found one with 0")
    assert not list(workspace.glob("saved/*"))


@pytest.mark.usefixtures("scan")
def test_a_version_with_context_needs_such_images(prep: Prep, workspace: Path) -> None:
    words = (
        "import",
        workspace / "scan.zarr",
        "set",
        "--labels",
        workspace / "labels.tif",
        "--unlabelled",
        0,
    )
    imported(prep(*words, "--json"))
    refused(trained(workspace, "context = 1"), "with 1 neighbours on either side", "found one with 0")


def test_splits_and_crops_keep_the_neighbours(prep: Prep, made: Dataset, workspace: Path) -> None:
    shutil.copytree(made.root / "train", made.root / "validate")
    assert prep("crop", "set", 16, 2, 2, "-r", "cut").exit_code == 0
    assert [
        stored_context(sample.image) for sample in Dataset.open(workspace / "data/cut").samples("train")
    ] == [1, 1]
    checked = prep("check", "set")
    assert "no data" not in checked.output


def test_the_plan_says_the_context(made: Dataset) -> None:
    facts = look_at(made, VersionConfig(model="unet", n_class=2))
    assert "3 channels (1 slices on either side among them)" in facts.words
    assert [choice.value for choice in make_plan(facts) if choice.key == "context"] == [1]


def test_no_data_of_a_neighbour_is_the_slice_itself(workspace: Path, prep: Prep) -> None:
    values = np.random.default_rng(0).random((3, EDGE, EDGE)).astype(np.float32)
    values[0, :8] = values[1, 4:12] = np.nan
    zarr.save(str(workspace / "scan.zarr"), values)
    labels = np.zeros(values.shape, np.uint8)
    labels[1] = 1 + (np.arange(EDGE) > 15)
    np.save(workspace / "labels.npy", labels)
    words = ("import", workspace / "scan.zarr", "set", "--labels", workspace / "labels.npy", "--axis", 0)
    imported(prep(*words, "--context", 1, "--json"))
    prep("labels", "set", "train")
    samples = Dataset.open(workspace / "data" / "set").samples("train")
    example: Example = Examples(samples, n_class=2, context=1, mean=(0.5,) * 3)[0]
    assert (example.pixels[0, :4] == values[1, :4]).all()
    assert (example.pixels[:, 4:12] == 0.5).all()
    assert (example.pixels[:, 12:] == values[:, 12:]).all()
    assert (example.labels[4:12] == IGNORED).all()
    assert (example.labels[:4] != IGNORED).all()


@pytest.mark.usefixtures("scan")
def test_evaluation_and_a_run_over_the_volume_give_the_same_labels(prep: Prep, workspace: Path) -> None:
    words = (
        "import",
        workspace / "scan.zarr",
        "set",
        "--labels",
        workspace / "labels.tif",
        "--unlabelled",
        0,
    )
    for split in ("train", "test"):
        imported(prep(*words, "--context", 1, "--split", split, "--json"))
    place = ("--workspace", str(workspace))
    result = trained(workspace, "crop = 16\ncrops_per_image = 4\nlr = 0.01\naug = true")
    assert result.exit_code == 0, result.output
    exported = CliRunner().invoke(export_main, ["set", "v1", *place])
    assert exported.exit_code == 0, exported.output
    model = workspace / "saved" / "set_v1.onnx"
    metadata = Session.open(model, provider="cpu").model.metadata
    assert (metadata.input.context, metadata.input.channel_names) == (1, ("z-1", "z", "z+1"))
    evaluated = CliRunner().invoke(evaluate_main, ["set", "v1", "--model", str(model), *place])
    assert evaluated.exit_code == 0, evaluated.output
    run = CliRunner().invoke(
        run_main, [str(model), str(workspace / "scan.zarr"), "-o", str(workspace / "labels"), "--no-report"]
    )
    assert run.exit_code == 0, run.output
    predictions = {path.stem: path for path in (workspace / "data/set/test/predictions").rglob("*.png")}
    for number in (0, 3, 6):
        own = read_stored(workspace / "labels" / f"scan_{number:04d}.png").pixels
        assert (own == read_stored(predictions[f"scan_{number:04d}"]).pixels).all()
    assert 0 < own.mean() < 1


@pytest.mark.usefixtures("made")
def test_a_model_with_context_is_not_evaluated_on_other_pictures(prep: Prep, workspace: Path) -> None:
    assert trained(workspace).exit_code == 0
    words = (
        "import",
        workspace / "scan.zarr",
        "plain",
        "--labels",
        workspace / "labels.tif",
        "--unlabelled",
        0,
    )
    imported(prep(*words, "--split", "test", "--json"))
    asked = ["set", "v1", "--data", "plain", "--workspace", str(workspace)]
    refused(CliRunner().invoke(evaluate_main, asked), "with 1 neighbours on either side", "found one with 0")
