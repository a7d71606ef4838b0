"""Proposals of matseg-run join the training set as they are, whatever its label images are stored as."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from matseg_runtime.cli.run import run_main
from matseg_runtime.suggest.index import UncertainIndex, read_index
from matseg_shared.contract.classes import write_classes
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.contract.onnx_properties import encode
from matseg_trainer.commands.prep import main as prep_main
from matseg_trainer.commands.train import train_main

GREY = tuple(
    ClassInfo(index=index, name=name, colour=(value,) * 3, label_value=value)
    for index, (name, value) in enumerate((("matrix", 0), ("disc", 255)))
)
DRAWN_IN_COLOUR = tuple(
    item.model_copy(update={"colour": colour})
    for item, colour in zip(GREY, ((9, 9, 90), (200, 30, 30)), strict=True)
)
COLOURS = tuple(item.model_copy(update={"label_value": item.colour}) for item in DRAWN_IN_COLOUR)
SIXTEEN_BIT = tuple(
    item.model_copy(update={"label_value": value}) for item, value in zip(GREY, (7, 4000), strict=True)
)


def _model(path: Path, classes: Sequence[ClassInfo]) -> Path:
    graph = onnx_models.build_graph(n_class=2)
    metadata = onnx_models.build_metadata(n_class=2, name="discs_v1").model_copy(
        update={"classes": tuple(classes)}
    )
    return onnx_models.save(graph, encode(metadata, onnx_models.self_test_of(graph, 1, "uint8")), path)


def _propose(workspace: Path, classes: Sequence[ClassInfo], *arguments: object) -> UncertainIndex:
    """Label `scan/` with a model of those classes, and propose two slices or crops."""
    scan = workspace / "scan"
    scan.mkdir()
    for number in range(4):
        Image.fromarray(onnx_models.random_pixels((48, 64), "uint8", number)).save(
            scan / f"slice{number}.png"
        )
    model = _model(workspace / "discs_v1.onnx", classes)
    words = [model, scan, "-o", workspace / "out", "--uncertain", 2, "--no-report", *arguments]
    result = CliRunner().invoke(run_main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    index = read_index(workspace / "out_uncertain")
    assert index is not None
    assert len(index.items) == 2
    return index


def _prep(workspace: Path, *words: object) -> Result:
    return CliRunner().invoke(prep_main, [*map(str, words), "--workspace", str(workspace)])


def _join(workspace: Path) -> None:
    shutil.copytree(
        workspace / "out_uncertain" / "train", workspace / "data" / "discs" / "train", dirs_exist_ok=True
    )


def _store_labels_as(workspace: Path, classes: Sequence[ClassInfo]) -> None:
    """Store the label images of the data set with other values, and say so in its class table."""
    root = workspace / "data" / "discs"
    values = np.array([item.label_value for item in classes])
    for array in root.glob("*/labels_npy/*.npy"):
        picture = values.astype(np.uint16 if values.max() > 255 else np.uint8)[np.load(array)]
        Image.fromarray(picture).save(array.parent.parent / "labels" / f"{array.stem}_L.png")
    write_classes(root / "classes.toml", classes)


def test_the_next_round_starts_from_the_proposals(workspace: Path) -> None:
    index = _propose(workspace, GREY)
    hand_made = {path.name: path.read_bytes() for path in (workspace / "data/discs/train/labels").iterdir()}
    _join(workspace)
    assert (
        hand_made.items()
        <= {
            path.name: path.read_bytes() for path in (workspace / "data/discs/train/labels").iterdir()
        }.items()
    ), "images of one name are not mistaken for each other"
    prepared = _prep(workspace, "labels", "discs", "train", "--append")
    assert prepared.exit_code == 0, prepared.output
    for item in index.items:
        array = np.load(workspace / "data/discs/train/labels_npy" / f"{item.name}.npy")
        with Image.open(workspace / "out" / f"{item.slice}.png") as predicted:
            np.testing.assert_array_equal(array, np.array(predicted))
    checked = _prep(workspace, "check", "discs")
    assert checked.exit_code == 0, checked.output
    trained = CliRunner().invoke(train_main, ["discs", "v1", "--workspace", str(workspace)])
    assert trained.exit_code == 0, trained.output
    assert "7 to train, 2 to validate" in trained.output


@pytest.mark.parametrize("classes", [DRAWN_IN_COLOUR, COLOURS, SIXTEEN_BIT], ids=["grey", "colour", "16-bit"])
def test_labels_are_stored_as_the_sets_are(workspace: Path, classes: Sequence[ClassInfo]) -> None:
    _store_labels_as(workspace, classes)
    index = _propose(workspace, classes, "--uncertain-crop", 32)
    _join(workspace)
    shutil.rmtree(workspace / "data/discs/train/labels_npy")
    prepared = _prep(workspace, "labels", "discs", "train")
    assert prepared.exit_code == 0, prepared.output
    for item in index.items:
        assert item.box is not None
        array = np.load(workspace / "data/discs/train/labels_npy" / f"{item.name}.npy")
        with Image.open(workspace / "out" / f"{item.slice}.png") as predicted:
            crop = np.array(predicted)[item.box.slices()]
            np.testing.assert_array_equal(array, crop)
    for path in sorted((workspace / "data/discs/validate/labels_npy").iterdir()):
        assert np.load(path).max() == 1


def test_the_proposals_are_a_data_set_of_their_own(workspace: Path) -> None:
    _propose(workspace, DRAWN_IN_COLOUR)
    shutil.copytree(workspace / "out_uncertain", workspace / "data" / "next")
    prepared = _prep(workspace, "labels", "next", "train", "--classes", 2)
    assert prepared.exit_code == 0, prepared.output
    assert len(list((workspace / "data/next/train/labels_npy").iterdir())) == 2


def test_indices_among_grey_values_only_where_the_class_table_knows_them(workspace: Path) -> None:
    """A palette whose colours are grey values of classes is applied; one with an unknown index is refused."""
    labels = workspace / "data" / "discs" / "train" / "labels"
    original = np.load(workspace / "data/discs/train/labels_npy/slice0.npy")

    def store(palette: list[int], values: tuple[int, int]) -> Result:
        image = Image.fromarray(np.array(values, np.uint8)[original])
        image.putpalette(palette)
        image.save(labels / "slice0_L.png")
        return _prep(workspace, "labels", "discs", "train", "--overwrite")

    assert store([0, 0, 0, 255, 255, 255], (0, 1)).exit_code == 0
    np.testing.assert_array_equal(np.load(workspace / "data/discs/train/labels_npy/slice0.npy"), original)
    assert store([255, 255, 255, 0, 0, 0], (0, 1)).exit_code == 0, "by its colours, not by its indices"
    np.testing.assert_array_equal(np.load(workspace / "data/discs/train/labels_npy/slice0.npy"), 1 - original)
    refused = store([0, 0, 90, 200, 0, 0], (0, 1))
    assert refused.exit_code == 2
    assert "palette images (slice0_L.png) among grey ones" in refused.output
