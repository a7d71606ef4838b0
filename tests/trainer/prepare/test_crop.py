"""Crops are cut from image, label and array alike, and nothing is there unless all of it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from matseg_shared.errors import OutputError
from matseg_shared.images.read import read_stored
from matseg_trainer.data.folder import Dataset
from matseg_trainer.prepare import crop


@pytest.fixture
def labelled(small, prep):
    """Images whose pixels tell where they are: the crops' corners can be read from them."""
    rng = np.random.default_rng(5)
    for split, stems in (("train", "ab"), ("validate", "c"), ("test", "d")):
        for stem in stems:
            label = rng.integers(0, 2, (20, 30)).astype(np.uint8) * 255
            small.add(split, stem, label, image=np.arange(600, dtype=np.uint16).reshape(20, 30))
    assert prep("labels", "steel", "train", "validate", "test", "--classes", 2).exit_code == 0
    return small


def test_crops_are_cut_where_their_names_say(labelled, prep, workspace):
    result = prep("crop", "steel", 8, 7, 3)
    assert result.exit_code == 0, result.output
    assert "[steel_8pix7num.default]\nn_class = 2\nsize = [8, 8]" in result.output
    made = Dataset.open(workspace / "data" / "steel_8pix7num")
    assert made.splits == ("train", "validate")
    assert made.classes == Dataset.open(labelled.root).classes
    names = []
    for split, number in (("train", 7), ("validate", 3)):
        samples = made.samples(split)
        assert len(samples) == number
        for sample, pair in zip(samples, made.pairing(split).pairs, strict=True):
            stem, x, y = re.fullmatch(r"(.)_x(\d+)_y(\d+)", sample.stem).groups()
            place = (slice(int(y), int(y) + 8), slice(int(x), int(x) + 8))
            pixels = np.asarray(Image.open(sample.image))
            assert pixels.dtype == np.uint16
            np.testing.assert_array_equal(pixels, np.arange(600).reshape(20, 30)[place])
            array = np.load(sample.labels)
            np.testing.assert_array_equal(array, labelled.array(split, stem)[place])
            np.testing.assert_array_equal(np.asarray(Image.open(pair.labels)), array * 255)
            assert pair.labels.stem == f"{sample.stem}_L"
            names.append(sample.stem)
    assert len(set(names)) == 10
    assert abs(sum(n.startswith("a") for n in names) - sum(n.startswith("b") for n in names)) == 1


@pytest.mark.usefixtures("labelled")
def test_the_seed_decides(prep, workspace):
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        assert prep("crop", "steel", 8, 4, 2, "-r", name, "--seed", seed).exit_code == 0
    stems = [
        [image.stem for image in Dataset.open(workspace / "data" / name).images("train")]
        for name in ("one", "two", "three")
    ]
    assert stems[0] == stems[1] != stems[2]


@pytest.mark.usefixtures("labelled")
def test_every_place_once_then_no_more(prep, workspace):
    assert prep("crop", "steel", 19, 48, 24, "-r", "all").exit_code == 0  # 2 x 12 places an image
    assert len(Dataset.open(workspace / "data" / "all").images("train")) == 48
    result = prep("crop", "steel", 19, 49, 24, "-r", "more")
    assert result.exit_code == 2
    assert "expected room for 49" in result.output
    assert "found 48" in result.output


@pytest.mark.usefixtures("labelled")
def test_larger_than_an_image(prep, workspace):
    result = prep("crop", "steel", 21, 1, 1)
    assert result.exit_code == 2
    assert "a.png" in result.output
    assert "20 x 30" in result.output
    assert [path.name for path in (workspace / "data").iterdir()] == ["steel"]


def test_an_existing_data_set_stays_unless_told(labelled, prep, workspace):
    assert prep("crop", "steel", 8, 2, 1, "-r", "new").exit_code == 0
    result = prep("crop", "steel", 8, 3, 1, "-r", "new")
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert prep("crop", "steel", 8, 3, 1, "-r", "new", "--overwrite").exit_code == 0
    assert len(Dataset.open(workspace / "data" / "new").images("train")) == 3
    assert sorted(path.name for path in (workspace / "data").iterdir()) == ["new", "steel"]
    assert prep("crop", "steel", 8, 3, 1, "-r", "steel", "--overwrite").exit_code == 2
    assert (labelled.root / "test").is_dir()


@pytest.mark.usefixtures("labelled")
def test_a_failure_half_way_leaves_nothing(prep, workspace, monkeypatch):
    real_write = crop._write_image
    calls = []

    def write(stem, stored, *names):
        calls.append(stem)
        if len(calls) == 3:
            raise OutputError("the disk is full")
        real_write(stem, stored, *names)

    monkeypatch.setattr(crop, "_write_image", write)
    result = prep("crop", "steel", 8, 2, 1)
    assert result.exit_code == 1
    assert "the disk is full" in result.output
    assert [path.name for path in (workspace / "data").iterdir()] == ["steel"]


def test_without_arrays(labelled, prep):
    (labelled.root / "train" / "labels_npy" / "b.npy").unlink()
    result = prep("crop", "steel", 8, 2, 1)
    assert result.exit_code == 2
    assert "b.png" in result.output
    assert "matseg-prep labels steel train" in result.output


def test_sizes_that_differ(labelled, prep):
    np.save(labelled.root / "train" / "labels_npy" / "b.npy", np.zeros((20, 29), np.uint8))
    result = prep("crop", "steel", 8, 2, 1)
    assert result.exit_code == 2
    assert "b.png" in result.output
    assert "20 x 29" in result.output


def test_modes_are_kept(small, prep, workspace):
    palette = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10) % 2)
    palette.putpalette([0, 0, 0, 250, 120, 0])
    colour = np.random.default_rng(0).integers(0, 65535, (10, 10, 3)).astype(np.uint16)
    for split in ("train", "validate"):
        small.add(split, "a", palette)
        (small.root / split / "images" / "a.png").unlink()
        tifffile.imwrite(small.root / split / "images" / "a.tif", colour, photometric="rgb")
    assert prep("labels", "steel", "train", "validate", "--classes", 2).exit_code == 0
    assert prep("crop", "steel", 10, 1, 1, "-r", "new").exit_code == 0
    pair = Dataset.open(workspace / "data" / "new").pairing("train").pairs[0]
    np.testing.assert_array_equal(read_stored(pair.image).pixels, colour)
    label = read_stored(pair.labels)
    assert label.palette[:2] == ((0, 0, 0), (250, 120, 0))
    np.testing.assert_array_equal(label.pixels, np.asarray(palette))


def test_each_crop_of_a_partly_labelled_image_has_a_label(labelled, prep, workspace):
    """All 2 x 12 places hold one of the two labelled pixels of `a`, 5 x 8 and more of `b` hold its only one."""
    for stem, places in (("a", [(0, 0), (19, 29)]), ("b", [(9, 9)])):
        path = labelled.root / "train" / "labels_npy" / f"{stem}.npy"
        array = np.full((20, 30), 255, np.uint8)
        array[tuple(zip(*places, strict=True))] = 1
        np.save(path, array)
    with (labelled.root / "classes.toml").open("a") as stream:
        stream.write("\n[unlabelled]\nlabel_value = 128\n")
    assert prep("crop", "steel", 5, 27, 1, "-r", "all").exit_code == 0  # 1 + 1 places in a, 25 in b
    made = Dataset.open(workspace / "data" / "all")
    arrays = [np.load(sample.labels) for sample in made.samples("train")]
    assert [int((array != 255).sum()) for array in arrays] == [1] * 27
    assert made.has_unlabelled
    result = prep("crop", "steel", 5, 28, 1, "-r", "more")
    assert result.exit_code == 2
    assert "found 27" in result.output
