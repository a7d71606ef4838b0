"""Training reads label images by itself: arrays are made where they are missing or stale, all else stays."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from matseg_shared.errors import DatasetError
from matseg_trainer.data.folder import Dataset
from matseg_trainer.prepare.labels import update_arrays

FIRST = np.array([[0, 0, 255, 255]], np.uint8)
OTHER = np.array([[255, 255, 0, 0]], np.uint8)


def update(small, *splits: str, n_class: int = 2) -> str:
    return "\n".join(update_arrays(Dataset.open(small.root), splits or ("train",), n_class))


def label_path(small, stem="a"):
    return small.root / "train" / "labels" / f"{stem}_L.png"


def array_path(small, stem="a"):
    return small.root / "train" / "labels_npy" / f"{stem}.npy"


def set_age(path, seconds):
    when = time.time() - seconds
    os.utime(path, (when, when))


def test_label_images_alone_are_enough(small):
    small.add("train", "a", FIRST)
    small.add("validate", "b", OTHER)
    assert update(small, "train", "validate") == ""
    assert small.array("train", "a").tolist() == [[0, 0, 1, 1]]
    assert small.array("validate", "b").tolist() == [[1, 1, 0, 0]]
    assert [item.label_value for item in Dataset.open(small.root).classes] == [0, 255]
    before = small.files()
    assert update(small, "train", "validate") == ""
    assert small.files() == before


def test_only_what_is_missing_is_made(small):
    small.add("train", "a", FIRST)
    update(small)
    small.add("train", "b", OTHER)
    set_age(array_path(small), 1000)
    age = array_path(small).stat().st_mtime
    update(small)
    assert small.array("train", "b").tolist() == [[1, 1, 0, 0]]
    assert array_path(small).stat().st_mtime == age


@pytest.mark.parametrize("array_is_newer", [True, False])
def test_a_label_image_that_was_changed_counts_whatever_times_say(small, array_is_newer):
    small.add("train", "a", FIRST)
    update(small)
    Image.fromarray(OTHER).save(label_path(small))
    set_age(label_path(small), 1000 if array_is_newer else 0)
    set_age(array_path(small), 0 if array_is_newer else 1000)
    assert "label arrays were made anew" in update(small)
    assert small.array("train", "a").tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("newer", ["labels", "arrays"])
def test_a_copied_set_is_fresh(small, newer):
    small.add("train", "a", FIRST)
    update(small)
    copied = small.root.with_name("copied")
    shutil.copytree(small.root, copied, copy_function=shutil.copyfile)
    for path in copied.rglob("*.*"):
        set_age(path, 1000 if (path.suffix == ".npy") == (newer == "labels") else 0)
    before = {path: path.stat().st_mtime for path in copied.rglob("*")}
    assert update_arrays(Dataset.open(copied), ["train"], 2) == ()
    assert {path: path.stat().st_mtime for path in copied.rglob("*")} == before


def test_another_meaning_of_the_values_counts(small):
    small.add("train", "a", np.array([[0, 1, 2]], np.uint8))
    update(small, n_class=3)
    table = small.root / "classes.toml"
    first, second, third = table.read_text().split("label_value = ")[1:]
    text = table.read_text().split("label_value = ")[0]
    for value, rest in zip("210", (first, second, third), strict=True):
        text += f"label_value = {value}{rest[1:]}"
    table.write_text(text)
    assert "made anew" in update(small, n_class=3)
    assert small.array("train", "a").tolist() == [[2, 1, 0]]


def test_an_array_that_a_person_changed_stays(small):
    small.add("train", "a", FIRST)
    update(small)
    np.save(array_path(small), np.array([[0, 0, 0, 1]], np.uint8))
    set_age(array_path(small), 1000)
    assert update(small) == ""
    assert small.array("train", "a").tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("age", "told", "array"), [(0, "is used, though 4", [[1, 1, 0, 0]]), (1000, "made anew", [[0, 0, 1, 1]])]
)
def test_of_an_array_without_a_digest_the_newer_file_counts(small, age, told, array):
    small.add("train", "a", FIRST)
    update(small)
    array_path(small).parent.with_suffix(".json").unlink()
    np.save(array_path(small), np.array([[1, 1, 0, 0]], np.uint8))
    set_age(array_path(small), age)
    set_age(label_path(small), 500)
    assert told in update(small)
    assert small.array("train", "a").tolist() == array


def test_arrays_without_label_images_are_used(small):
    small.add("train", "a", FIRST)
    small.add("train", "b", FIRST)
    update(small)
    label_path(small).unlink()
    before = small.files()
    assert update(small) == ""
    shutil.rmtree(small.root / "train" / "labels")
    assert update(small) == ""
    assert {name: before[name] for name in small.files()} == small.files()


def test_values_of_no_class_are_refused_for_arrays_that_are_missing_only(small, prep):
    small.add("train", "a", np.array([[0] * 40 + [255] * 59 + [250]], np.uint8))
    with pytest.raises(DatasetError, match=r"250 \(1\)(?s:.*)run `matseg-prep labels steel train --append`"):
        update(small)
    assert not (small.root / "classes.toml").exists()
    assert prep("labels", "steel", "train", "--classes", 2, "--nearest").exit_code == 0
    assert update(small) == ""
    array_path(small).parent.with_suffix(".json").unlink()
    assert update(small) == ""


def test_what_looks_unlabelled_is_told(small):
    small.add("train", "a", np.array([[0, 1, 255]], np.uint8))
    assert "--unlabelled 255" in update(small, n_class=3)


def test_unlabelled_pixels_of_the_class_table(small, prep):
    small.add("train", "a", np.array([[0, 1, 2]], np.uint8))
    prep("labels", "steel", "train", "--classes", 2, "--unlabelled", 0)
    shutil.rmtree(small.root / "train" / "labels_npy")
    assert update(small) == ""
    assert small.array("train", "a").tolist() == [[255, 0, 1]]


def test_whoever_reads_labels_first_writes_the_class_table(small, prep, workspace):
    small.add("train", "a", FIRST)
    (workspace / "config.toml").write_text("[steel.default]\nn_class = 3\n")
    result = prep("check", "steel")
    assert result.exit_code == 2
    assert "expected 3 classes in its label images, found only 2 value(s)" in result.output
    assert not (small.root / "classes.toml").exists()
    (workspace / "config.toml").unlink()
    result = prep("check", "steel")  # which counts them where nothing says how many there are
    assert result.exit_code == 0, result.output
    assert "50.00%" in result.output
    assert [item.label_value for item in Dataset.open(small.root).classes] == [0, 255]
    assert not (small.root / "train" / "labels_npy").exists()


def test_the_check_reads_label_images_without_arrays(small, prep):
    small.add("train", "a", np.array([[0, 0, 0, 255]], np.uint8))
    prep("labels", "steel", "train", "--classes", 2)
    shutil.rmtree(small.root / "train" / "labels_npy")
    before = small.files()
    result = prep("check", "steel")
    assert result.exit_code == 0, result.output
    assert "75.00%" in result.output
    assert "no label array for a.png; matseg-train makes it" in result.output
    assert small.files() == before
    small.add("train", "a", np.array([[0, 0, 9, 255]], np.uint8))
    result = prep("check", "steel")
    assert result.exit_code == 2
    assert "--nearest would move 25.00%" in result.output
