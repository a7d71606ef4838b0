"""A check names everything that is wrong at once."""

from __future__ import annotations

import numpy as np
import pytest

LABEL = np.array([[0, 0, 0, 255]], np.uint8)


def test_a_good_set(small, prep):
    for split in ("train", "validate", "test"):
        small.add(split, "a", LABEL)
    prep("labels", "steel", "train", "validate", "test", "--classes", 2)
    before = small.files()
    result = prep("check", "steel")
    assert result.exit_code == 0, result.output
    assert "no problem found" in result.output
    assert "1 x 4" in result.output
    assert "0: 75.00%" in result.output
    assert "1: 25.00%" in result.output
    splits = [line for line in result.output.splitlines() if line.startswith(("┏", "│"))]
    assert max(map(len, splits)) <= 80, "a table that fits a terminal is not folded"
    assert small.files() == before


def test_everything_wrong_is_named(small, prep):
    for stem in "abcdef":
        small.add("train", stem, LABEL)
    prep("labels", "steel", "train", "--classes", 2)
    train = small.root / "train"
    (train / "images" / "a.png").write_text("no picture")
    (train / "labels" / "b_L.png").unlink()
    (train / "labels_npy" / "c.npy").unlink()
    np.save(train / "labels_npy" / "d.npy", np.zeros((2, 4), np.uint8))
    np.save(train / "labels_npy" / "e.npy", np.full((1, 4), 9))
    small.add("train", "f", LABEL, image=np.zeros((1, 4), np.uint16))
    (train / "images" / "notes.txt").write_text("hello")
    result = prep("check", "steel")
    assert result.exit_code == 2
    for words in (
        "a.png: expected a readable png",
        "no label image for b.png",
        "no label array for c.png",
        "d.npy: expected 1 x 4 pixels as in d.png, found 2 x 4",
        "e.npy: expected class indices from 0 to 1, found 9",
        "expected images of one dtype, found uint16, uint8",
        "note: ",
        "not an image: notes.txt",
        "there is no split 'validate'",
        "5 problem(s)",
    ):
        assert words in result.output


def test_a_split_without_its_folder_of_images_is_one_problem_of_several(small, prep):
    small.add("train", "a", LABEL)
    prep("labels", "steel", "train", "--classes", 2)
    (small.root / "test").mkdir()
    result = prep("check", "steel")
    assert result.exit_code == 2
    for words in (
        "1: 25.00%",
        "expected the images of the split 'test', found no such folder",
        "1 problem(s)",
    ):
        assert words in result.output


def test_a_bad_class_table(small, prep):
    small.add("train", "a", LABEL)
    prep("labels", "steel", "train", "--classes", 2)
    (small.root / "classes.toml").write_text('[[class]]\nname = ""\ncolour = [0, 0, 300]\nlabel = 3\n')
    result = prep("check", "steel")
    assert result.exit_code == 2
    for words in ("class 0.name", "class 0.colour.2", "unknown key 'label'", "class 0.label_value"):
        assert words in result.output


def test_colour_among_grey(small, prep):
    small.add("train", "a", LABEL)
    small.add("train", "b", LABEL, image=np.arange(12, dtype=np.uint8).reshape(1, 4, 3))
    prep("labels", "steel", "train", "--classes", 2)
    result = prep("check", "steel")
    assert result.exit_code == 2
    assert "expected images of one number of channels, found 1, 3" in result.output


@pytest.mark.parametrize("colour", [False, True])
def test_values_of_no_class_are_noted(small, prep, colour):
    label = np.array([[0] * 40 + [255] * 59 + [250]], np.uint8)
    strange = "250"
    if colour:
        label = np.dstack([label, label, np.full_like(label, 7)])
        strange = "(250, 250, 7)"
    small.add("train", "a", label)
    assert prep("labels", "steel", "train", "--classes", 2, "--nearest").exit_code == 0
    result = prep("check", "steel")
    assert result.exit_code == 0
    assert f"a_L.png: 1 pixel(s) with values that stand for no class: {strange}" in result.output
