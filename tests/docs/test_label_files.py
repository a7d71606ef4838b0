"""docs/labels.md: label images as napari, Fiji and ilastik save them are read as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from matseg_trainer.commands.prep import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The split `train` of a data set with two images and no label image yet; its workspace is the current folder."""
    train = tmp_path / "data" / "steel" / "train"
    for kind in ("images", "labels"):
        (train / kind).mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(np.full((8, 10), 90, np.uint8)).save(train / "images" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return train


def painted(*values: int) -> NDArray[np.uint8]:
    """A column for each value, as wide as it can be."""
    return np.resize(np.repeat(np.array(values, np.uint8), 10 // len(values)), (8, 10))


def prepare(folder: Path, classes: int, *options: str) -> list[NDArray[np.uint8]]:
    """The label arrays that `matseg-prep labels` makes."""
    result = CliRunner().invoke(main, ["labels", "steel", "train", "--classes", str(classes), *options])
    assert result.exit_code == 0, result.output
    return [np.load(folder / "labels_npy" / f"{name}.npy") for name in ("a", "b")]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_napari_saves_32_bits_and_wider_which_are_read(folder: Path, dtype: str) -> None:
    for name in ("a", "b"):
        labels = painted(0, 2, 1).astype(dtype)
        tifffile.imwrite(folder / "labels" / f"{name}.tif", labels, compression="zlib")
    np.testing.assert_array_equal(prepare(folder, 3)[0], painted(0, 2, 1))


def test_strokes_of_napari_leave_the_rest_unlabelled(folder: Path) -> None:
    for name in ("a", "b"):
        strokes = painted(0, 2, 1).astype(np.int32)
        tifffile.imwrite(folder / "labels" / f"{name}.tif", strokes, compression="zlib")
    np.testing.assert_array_equal(
        prepare(folder, 2, "--unlabelled", "0")[0], np.array([255, 0, 1], np.uint8)[painted(0, 2, 1)]
    )


def test_the_labelled_slices_of_a_stack_become_images(folder: Path) -> None:
    labels = np.zeros((80, 8, 10), np.int32)
    labels[[3, 40, 77]] = painted(0, 2, 1)
    tifffile.imwrite("stack.tif", np.zeros((80, 8, 10), np.uint8), metadata={"axes": "ZYX"})
    tifffile.imwrite("stack_labels.tif", labels, compression="zlib")
    result = CliRunner().invoke(main, ["import", "stack.tif", "scan", "--labels", "stack_labels.tif"])
    assert result.exit_code == 0, result.output
    found = sorted((folder.parents[1] / "scan" / "train" / "labels").iterdir())
    assert [path.name for path in found] == ["stack_0003.png", "stack_0040.png", "stack_0077.png"]
    np.testing.assert_array_equal(np.array(Image.open(found[1])), painted(0, 2, 1))


def test_painted_in_fiji_values_are_classes(folder: Path) -> None:
    Image.fromarray(painted(0, 1, 2)).save(folder / "labels" / "a.png")
    Image.fromarray(painted(2, 1, 0)).save(folder / "labels" / "b.png")
    np.testing.assert_array_equal(prepare(folder, 3)[1], painted(2, 1, 0))


def save_mask(path: Path, *, inverting: bool, values: tuple[int, ...] = (0, 255)) -> None:
    """As ImageJ saves a mask of 255 where something was selected.

    An inverting look-up table is a palette in a PNG, and white as zero in a TIFF.
    """
    image = Image.fromarray(painted(*values))
    if path.suffix == ".tif":
        photometric = "miniswhite" if inverting else "minisblack"
        tifffile.imwrite(path, np.asarray(image), photometric=photometric)
        return
    if inverting:
        image = Image.new("P", image.size)
        image.putpalette([255 - index // 3 for index in range(768)])
        image.putdata(painted(*values).ravel().tolist())
    image.save(path)


@pytest.mark.parametrize("inverting", [False, True])
@pytest.mark.parametrize("names", [("a.png", "b.png"), ("a.tif", "b.tif"), ("a.png", "b.tif")])
def test_masks_of_fiji_make_the_selection_class_1(
    folder: Path, names: tuple[str, str], *, inverting: bool
) -> None:
    for name in names:
        save_mask(folder / "labels" / name, inverting=inverting)
    np.testing.assert_array_equal(prepare(folder, 2)[0], painted(0, 1))


@pytest.mark.parametrize("selected", [(0, 255), (0,)], ids=["both classes", "one class"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_masks_of_both_kinds_are_refused(folder: Path, selected: tuple[int, ...], suffix: str) -> None:
    save_mask(folder / "labels" / f"a.{suffix}", inverting=True, values=selected)
    save_mask(folder / "labels" / "b.png", inverting=False)
    refused = CliRunner().invoke(main, ["labels", "steel", "train", "--classes", "2"])
    assert refused.exit_code == 2
    assert f"inverting look-up table (a.{suffix}) among grey ones (b.png)" in " ".join(refused.output.split())
    assert not (folder / "labels_npy").exists()


def test_palettes_whose_indices_are_no_grey_values_are_taken_by_their_shades(folder: Path) -> None:
    bilevel = Image.fromarray(painted(1, 0)).convert("P")
    bilevel.putpalette([255, 255, 255, 0, 0, 0])
    bilevel.save(folder / "labels" / "a.png")
    save_mask(folder / "labels" / "b.png", inverting=False)
    np.testing.assert_array_equal(prepare(folder, 2)[0], painted(0, 1))


def test_ilastik_s_segmentation_begins_at_1(folder: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(painted(1, 2, 3)).save(folder / "labels" / f"{name}.png")
    np.testing.assert_array_equal(prepare(folder, 3)[0], painted(0, 1, 2))
