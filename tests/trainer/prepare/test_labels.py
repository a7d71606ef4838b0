"""Label images of every form become arrays of class indices, or are named with what is wrong."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from matseg_trainer.data import mapped
from matseg_trainer.data.folder import Dataset
from matseg_trainer.prepare import console

GREY = np.array([[0, 85, 170, 255], [255, 170, 85, 0]], dtype=np.uint8)
INDICES = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], dtype=np.uint8)
RGB = np.array([(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 0)], dtype=np.uint8)


def palette_image(indices: np.ndarray, colours: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(colours.astype(np.uint8).tobytes())
    return image


def rgba(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey, grey, grey, np.full_like(grey, 255)])


@pytest.mark.parametrize(
    ("label", "first_colour"),
    [
        (GREY, (0, 0, 0)),
        (np.dstack([GREY] * 3), (0, 0, 0)),
        (rgba(GREY), (0, 0, 0)),
        (GREY.astype(np.uint16) * 257, (0, 0, 0)),
        (INDICES, (0, 0, 0)),
        (palette_image(INDICES, RGB), (0, 0, 255)),
        (RGB[INDICES], (0, 0, 255)),
    ],
    ids=["grey", "grey as RGB", "grey as RGBA", "16-bit grey", "indices", "palette", "colour"],
)
def test_every_form_gives_the_same_indices(small, prep, label, first_colour):
    small.add("train", "a", label)
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 0, result.output
    array = small.array("train", "a")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, INDICES)
    assert Dataset.open(small.root).classes[0].colour == first_colour
    assert "normalised" in result.output
    assert "4 of 4" in result.output


@pytest.mark.parametrize("label", [GREY, RGB[INDICES]], ids=["grey", "colour"])
def test_large_images_are_encoded_and_compared_in_bands(small, prep, monkeypatch, label):
    monkeypatch.setattr(mapped, "BAND_PIXELS", 12)  # three rows, and two
    label = np.concatenate([label] * 4)[:5]
    small.add("train", "a", label)
    assert prep("labels", "steel", "train", "--classes", 4).exit_code == 0
    expected = np.concatenate([INDICES] * 4)[:5]
    np.testing.assert_array_equal(small.array("train", "a"), expected)
    expected[4, 0] = (expected[4, 0] + 1) % 4
    np.save(small.root / "train" / "labels_npy" / "a.npy", expected)
    (small.root / "train" / "labels_npy.json").unlink()
    assert "found 1 pixel(s) of others" in " ".join(prep("check", "steel").output.split())


def test_an_image_that_lacks_classes_keeps_the_indices_of_the_set(small, prep):
    small.add("train", "a", np.full((3, 3), 170, np.uint8))
    small.add("test", "b", GREY, mark="")
    assert prep("labels", "steel", "train", "--classes", 4).exit_code == 0
    assert (small.array("train", "a") == 2).all()
    assert not (small.root / "test" / "labels_npy").exists()


def table(root, *values, unlabelled=None):
    """Write the `classes.toml` of a data set; each value as it stands in TOML."""
    blocks = [
        f"[[class]]\nname = 'c{index}'\ncolour = [0, 0, {index}]\nlabel_value = {value}\n"
        for index, value in enumerate(values)
    ]
    blocks += [f"[unlabelled]\nlabel_value = {unlabelled}\n"] if unlabelled is not None else []
    (root / "classes.toml").write_text("".join(blocks))


@pytest.mark.parametrize(
    ("label", "values", "unlabelled", "array"),
    [
        ([[0, 1, 255]], [0, 1], 255, [0, 1, 255]),
        ([[0, 1, 2]], [1, 2], 0, [255, 0, 1]),
        ([[0, 1, 2, 3]], [0, "[1, 3]"], 2, [0, 1, 255, 1]),
        ([[9, 1, 2, 3]], [1, "'rest'"], "[2, 3]", [1, 0, 255, 255]),
        ([[(0, 0, 255), (7, 8, 9), (1, 1, 1)]], ["'rest'", "[0, 0, 255]"], "[7, 8, 9]", [1, 255, 0]),
    ],
    ids=["255", "0", "several values", "rest", "colours"],
)
def test_unlabelled_pixels_become_255(small, prep, label, values, unlabelled, array):
    small.add("train", "a", np.array(label, np.uint8))
    table(small.root, *values, unlabelled=unlabelled)
    result = prep("labels", "steel", "train", "--classes", 2)
    assert result.exit_code == 0, result.output
    assert small.array("train", "a").tolist() == [array]
    result = prep("check", "steel")
    assert "expected the classes of" not in result.output
    assert "class indices from" not in result.output


def test_grey_among_colours_counts_as_colour(small, prep):
    small.add("train", "a", np.array([[[0, 0, 0], [255, 0, 0]]], np.uint8))
    small.add("train", "b", np.zeros((2, 2), np.uint8))
    assert prep("labels", "steel", "train", "--classes", 2).exit_code == 0
    assert small.array("train", "a").tolist() == [[0, 1]]
    assert not small.array("train", "b").any()


def test_colours_of_plain_indices_are_told_apart(small, prep):
    small.add("train", "a", INDICES)
    prep("labels", "steel", "train", "--classes", 4)
    assert len({item.colour for item in Dataset.open(small.root).classes}) == 4
    assert max(max(item.colour) for item in Dataset.open(small.root).classes) > 100


def test_stray_values_are_all_named_and_nothing_is_written(small, prep):
    for stem, stray in (("a", 254), ("b", 3), ("c", None)):
        label = np.repeat(np.array([[0, 255]], np.uint8), 80, axis=0)
        if stray is not None:
            label[0, 0] = label[1, 0] = stray
        small.add("train", stem, label)
    before = small.files()
    result = prep("labels", "steel", "train", "--classes", 2)
    assert result.exit_code == 2
    assert "a_L.png: 2 pixel(s), value (pixels): 254 (2)" in result.output
    assert "b_L.png: 2 pixel(s), value (pixels): 3 (2)" in result.output
    assert "c_L.png" not in result.output
    assert "--nearest" in result.output
    assert "--classes" in result.output
    assert small.files() == before

    result = prep("labels", "steel", "train", "--classes", 2, "--nearest")
    assert result.exit_code == 0
    assert small.array("train", "a").sum() == 82
    assert small.array("train", "b").sum() == 80
    assert (
        "a_L.png: 2 pixel(s) (1.25%) of 1 stray value(s) were taken for the nearest class, at most 1 away"
        in (result.output.replace("\n", " "))
    )


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2)])
def test_somebody_at_a_terminal_is_asked(small, prep, monkeypatch, answer, code):
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    small.add("train", "a", np.array([[0] * 40 + [255] * 59 + [250]], np.uint8))
    assert prep("labels", "steel", "train", "--classes", 2, given=answer).exit_code == code
    assert (small.root / "train" / "labels_npy").exists() == (code == 0)


def test_an_interrupted_question_is_an_interruption(small, prep, monkeypatch):
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    small.add("train", "a", np.array([[0] * 40 + [255] * 59 + [250]], np.uint8))
    result = prep("labels", "steel", "train", "--classes", 2, given="")
    assert result.exit_code == 130
    assert "interrupted" in result.output
    assert not (small.root / "classes.toml").exists()


@pytest.mark.parametrize(("answer", "array"), [("y\n", [[0, 1]]), ("n\n", [[1, 1]])])
def test_somebody_at_a_terminal_is_asked_about_arrays(small, prep, monkeypatch, answer, array):
    small.add("train", "a", np.array([[0, 255]], np.uint8))
    prep("labels", "steel", "train", "--classes", 2)
    np.save(small.root / "train" / "labels_npy" / "a.npy", np.array([[1, 1]], np.uint8))
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    assert prep("labels", "steel", "train", given=answer).exit_code == 0
    assert small.array("train", "a").tolist() == array


def test_nearest_colour(small, prep):
    label = np.repeat(np.array([[(255, 0, 0), (0, 0, 255)]], np.uint8), 50, axis=0)
    label[0, 0] = (250, 5, 5)
    small.add("train", "a", label)
    assert prep("labels", "steel", "train", "--classes", 2, "--nearest").exit_code == 0
    assert small.array("train", "a").tolist() == [[1, 0]] * 50


def smooth(blurred):
    """A (40, 40) label image of 0 and 255 with columns of 127 along `blurred` of its rows."""
    label = np.zeros((40, 40), np.uint8)
    label[:, 20:] = 255
    label[:blurred, 20] = 120
    return label


def test_no_more_than_a_share_is_moved(small, prep):
    small.add("train", "a", smooth(40))
    result = prep("labels", "steel", "train", "--classes", 2)
    assert "--nearest would move 2.50% of the image; more than --max-moved 2%" in result.output
    assert prep("labels", "steel", "train", "--classes", 2, "--nearest").exit_code == 2
    assert not (small.root / "classes.toml").exists()
    result = prep("labels", "steel", "train", "--classes", 2, "--nearest", "--max-moved", "2.5%")
    assert result.exit_code == 0, result.output
    assert small.array("train", "a").sum() == 40 * 19


@pytest.mark.parametrize(
    ("label", "n_class", "words"),
    [
        ([[0] * 60 + [1] * 60 + [2]], 2, "near to no class: 2"),
        ([[0] * 500 + [254] * 60 + [127] * 9], 2, "of so many pixels that it stands for something: 127"),
        ([[0] * 90 + [1] + [255] * 60], 2, "--unlabelled 255"),
        ([[0] * 90 + [1] * 3 + [2]], 2, "--unlabelled 0"),
        ([[0] * 90 + [85] * 3 + [170] * 2 + [255]], 3, "--unlabelled 0"),
    ],
    ids=["far", "a class", "255 beside indices", "0 in most", "0 beside greys"],
)
def test_what_stands_for_something_is_never_moved(small, prep, label, n_class, words):
    small.add("train", "a", np.array(label, np.uint8))
    result = prep("labels", "steel", "train", "--classes", n_class, "--nearest")
    assert result.exit_code == 2
    assert words in result.output
    assert not (small.root / "classes.toml").exists()


def test_codes_that_differ_from_image_to_image_are_one_class(small, prep):
    low, high = np.full((40, 20), 8218, np.uint16), np.full((40, 20), 39207, np.uint16)
    first = np.hstack([low, high])
    first[0, 0], first[0, 1] = 8220, 9000
    small.add("train", "a", first)
    small.add("test", "b", np.hstack([low + 2, high + 4]))
    result = prep("labels", "steel", "train", "test", "--classes", 2)
    assert result.exit_code == 2
    assert "value (pixels): 9000 (1); --nearest would move 0.06% of the image\n" in result.output
    result = prep("labels", "steel", "train", "test", "--classes", 2, "--nearest")
    assert result.exit_code == 0, result.output
    for split, stem in (("train", "a"), ("test", "b")):
        assert small.array(split, stem).tolist() == [[0] * 20 + [1] * 20] * 40
    assert sorted(map(sorted, Dataset.open(small.root).legend.values)) == [[8218, 8220], [39207, 39211]]


@pytest.mark.parametrize(
    ("label", "options", "array"),
    [
        ([0, 1, 255], ["--classes", 2, "--unlabelled", 255], [0, 1, 255]),
        ([0, 1, 2], ["--classes", 2, "--unlabelled", 0], [255, 0, 1]),
        ([0, 1, 3], ["--classes", 3, "--unlabelled", 0], [255, 0, 2]),
        ([9, 1, 2, 3], ["--class", "a=rest", "--class", "b=1", "--class", "b=2"], [0, 1, 1, 0]),
        ([9, 1, 2], ["--classes", 2, "--class", "a=2", "--class", "b=1", "--unlabelled", 9], [255, 1, 0]),
        (
            [9, 1, 2, 3],
            ["--class", "a=1", "--class", "b=2", "--unlabelled", 9, "--unlabelled", 3],
            [255, 0, 1, 255],
        ),
    ],
    ids=["255", "0", "0, a class missing", "rest", "order", "several"],
)
def test_values_as_people_have_them(small, prep, label, options, array):
    small.add("train", "a", np.array([label], np.uint8))
    result = prep("labels", "steel", "train", *options)
    assert result.exit_code == 0, result.output
    assert small.array("train", "a").tolist() == [array]
    assert prep("labels", "steel", "train", *options, "--overwrite").exit_code == 0
    assert small.array("train", "a").tolist() == [array]


def test_classes_painted_over_a_copy_of_the_picture(small, prep):
    picture = np.arange(60, 120, dtype=np.uint8).reshape(6, 10)
    painted = np.repeat(picture[..., np.newaxis], 3, axis=2)
    painted[0], painted[5, :4] = (0, 0, 255), (255, 0, 0)
    small.add("train", "a", np.dstack([painted, np.full((6, 10), 255, np.uint8)]), image=picture)
    named = ["--class", "matrix=rest", "--class", "oxide=0,0,255", "--class", "pore=255,0,0"]
    assert prep("labels", "steel", "train", "--classes", 3, *named).exit_code == 0
    expected = np.zeros((6, 10), np.uint8)
    expected[0], expected[5, :4] = 1, 2
    np.testing.assert_array_equal(small.array("train", "a"), expected)
    assert [item.name for item in Dataset.open(small.root).classes] == ["matrix", "oxide", "pore"]
    assert prep("labels", "steel", "train", "--append").exit_code == 0


def test_a_palette_is_applied_where_colours_are_named(small, prep):
    small.add("train", "a", palette_image(INDICES, RGB))
    named = ["--class", "a=rest", "--class", "b=255,0,0", "--unlabelled", "255,255,0"]
    assert prep("labels", "steel", "train", *named).exit_code == 0
    np.testing.assert_array_equal(small.array("train", "a"), np.array([0, 0, 1, 255])[INDICES])


def test_values_that_look_unlabelled_are_told(small, prep):
    small.add("train", "a", np.array([[0, 1, 255]], np.uint8))
    result = prep("labels", "steel", "train", "--classes", 3)
    assert result.exit_code == 0
    assert "value 255 has 33.3% of the pixels" in result.output
    assert "--unlabelled 255" in result.output


def test_a_sparse_class_0_among_as_many_as_were_asked_for_does_not_hinder(small, prep):
    small.add("train", "a", np.array([[0] * 900 + [127] * 60 + [255] * 60 + [250] * 2], np.uint8))
    result = prep("labels", "steel", "train", "--classes", 3, "--nearest")
    assert result.exit_code == 0, result.output
    assert "--unlabelled 0" in result.output


def test_black_around_painted_colours_is_told(small, prep):
    colours = np.array([(0, 0, 0), (0, 255, 0), (255, 0, 255)], np.uint8)
    small.add("train", "a", colours[np.array([[0] * 90 + [1] * 5 + [2] * 5])])
    result = prep("labels", "steel", "train", "--classes", 3)
    assert "--unlabelled 0,0,0" in result.output


def test_images_without_a_labelled_pixel_are_named(small, prep):
    small.add("train", "a", np.array([[0, 1, 2]], np.uint8))
    small.add("train", "b", np.zeros((2, 3), np.uint8))
    result = prep("labels", "steel", "train", "--classes", 2, "--unlabelled", 0)
    assert result.exit_code == 2
    assert "b_L.png, where all pixels are unlabelled" in result.output
    assert "a_L.png" not in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", 3, "--class", "a=0", "--class", "b=1"], "found 2 named with --class"),
        (["--class", "a=0", "--class", "a=rest", "--class", "b=1"], "no other value of 'a'"),
        (["--class", "a=0", "--class", "b=0"], "0 stands for class 0 already"),
        (["--class", "a=rest", "--class", "b=rest"], "'rest' stands for class 0 already"),
        (["--class", "a=0", "--class", "b=1", "--unlabelled", 1], "1 stands for class 1 already"),
        (["--class", "a=0", "--class", "b=1,2,3"], "found a colour"),
        (["--class", "a"], "expected NAME=VALUE"),
        (["--class", "a=1,2"], "as in 255"),
        (["--class", "a=1,2,300"], "from 0 to 255"),
        (["--classes", 2, "--unlabelled", "none"], "as in 255"),
        (["--classes", 2, "--max-moved", "200%"], "as in 2%"),
    ],
)
def test_classes_that_contradict_each_other(small, prep, options, words):
    small.add("train", "a", np.array([[0, 1]], np.uint8))
    result = prep("labels", "steel", "train", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (small.root / "classes.toml").exists()


def test_a_class_table_that_is_there_stands(small, prep):
    small.add("train", "a", np.array([[0, 1, 255]], np.uint8))
    table(small.root, 0, 1)
    result = prep("labels", "steel", "train", "--classes", 2)
    assert result.exit_code == 2
    assert "--unlabelled 255" in result.output
    before = (small.root / "classes.toml").read_text()
    assert prep("labels", "steel", "train", "--classes", 2, "--unlabelled", 255).exit_code == 0
    assert (small.root / "classes.toml").read_text() == f"{before}\n[unlabelled]\nlabel_value = 255\n"
    assert prep("labels", "steel", "train", "--classes", 2, "--append").exit_code == 0
    for options in (["--unlabelled", 0], ["--unlabelled", 7], ["--class", "a=1", "--class", "b=0"]):
        result = prep("labels", "steel", "train", "--classes", 2, "--overwrite", *options)
        assert result.exit_code == 2
        assert "classes.toml" in result.output


def test_palettes_that_disagree_are_named(small, prep):
    small.add("train", "a", palette_image(INDICES, RGB))
    small.add("train", "b", palette_image(INDICES, RGB[::-1]))
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 2
    assert "b_L.png" in result.output
    assert "palette" in result.output


def test_palettes_among_grey_are_named(small, prep):
    small.add("train", "a", palette_image(INDICES, RGB))
    small.add("train", "b", GREY)
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 2
    assert "palette images (a_L.png) among grey ones (b_L.png)" in result.output


def test_fewer_values_than_classes(small, prep):
    small.add("train", "a", np.array([[0, 255]], np.uint8))
    result = prep("labels", "steel", "train", "--classes", 3)
    assert result.exit_code == 2
    assert "0, 255" in result.output
    assert "--classes 2" in result.output


def test_an_edited_class_table_is_kept_and_obeyed(small, prep):
    small.add("train", "a", np.array([[0, 255]], np.uint8))
    prep("labels", "steel", "train", "--classes", 2)
    path = small.root / "classes.toml"
    path.write_text(path.read_text().replace("class 1", "Zementit").replace("value = 255", "value = 200"))
    edited = path.read_bytes()
    result = prep("labels", "steel", "train", "--classes", 2, "--overwrite")
    assert result.exit_code == 2
    assert "255 (1)" in result.output
    assert path.read_bytes() == edited
    result = prep("labels", "steel", "train", "--classes", 3, "--overwrite")
    assert "expected 3 classes" in result.output


def test_existing_arrays(small, prep):
    small.add("train", "a", np.array([[0, 255]], np.uint8))
    prep("labels", "steel", "train", "--classes", 2)
    old = small.root / "train" / "labels_npy" / "a.npy"
    np.save(old, np.array([[1, 1]], np.uint8))
    small.add("train", "b", np.array([[255, 0]], np.uint8))
    result = prep("labels", "steel", "train")
    assert result.exit_code == 2
    assert "--append" in result.output
    assert "--overwrite" in result.output
    result = prep("labels", "steel", "train", "--append")
    assert result.exit_code == 0
    assert "kept" in result.output
    assert small.array("train", "a").tolist() == [[1, 1]]
    assert small.array("train", "b").tolist() == [[1, 0]]
    assert prep("labels", "steel", "train", "--overwrite").exit_code == 0
    assert small.array("train", "a").tolist() == [[0, 1]]


def test_a_kept_array_must_be_good(small, prep):
    small.add("train", "a", np.array([[0, 255]], np.uint8))
    prep("labels", "steel", "train", "--classes", 2)
    np.save(small.root / "train" / "labels_npy" / "a.npy", np.array([[7, 1]], np.uint8))
    result = prep("labels", "steel", "train", "--append")
    assert result.exit_code == 2
    assert "a.npy" in result.output
    assert "7" in result.output


def test_all_bad_files_are_named_at_once(small, prep):
    small.add("train", "a", GREY)
    small.add("train", "b", GREY)
    small.add("train", "c", GREY[:1], image=np.zeros((2, 4), np.uint8))
    (small.root / "train" / "labels" / "a_L.png").write_text("not a picture")
    image = small.root / "train" / "images" / "b.png"
    image.write_bytes(image.read_bytes()[:-30])
    before = small.files()
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 2
    assert "a_L.png" in result.output
    assert "b.png" in result.output
    assert "c_L.png: expected 2 x 4 pixels as in c.png, found 1 x 4" in result.output
    assert small.files() == before


def test_images_and_labels_alone(small, prep):
    small.add("train", "a", GREY)
    small.add("train", "b", GREY)
    (small.root / "train" / "labels" / "b_L.png").rename(small.root / "train" / "labels" / "other.png")
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 2
    assert "no label image for b.png" in result.output
    (small.root / "train" / "images" / "b.png").unlink()
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 0
    assert "left out: other.png" in result.output


def test_two_label_images_of_one_image(small, prep):
    small.add("train", "a", GREY)
    shutil.copy(small.root / "train" / "labels" / "a_L.png", small.root / "train" / "labels" / "a.png")
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 2
    assert "several label images (a.png, a_L.png)" in result.output


@pytest.mark.parametrize("odd", [0.5, np.nan, np.inf, 2.0**60])
def test_labels_that_are_no_whole_numbers(small, prep, odd):
    small.add("train", "a", GREY)
    label = small.root / "train" / "labels" / "a_L.png"
    label.unlink()
    pixels = GREY.astype(np.float32)
    pixels[0, 1] = odd
    Image.fromarray(pixels).save(label.with_suffix(".tif"))
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 2
    assert "a_L.tif: expected whole numbers as labels, found float32" in result.output


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
def test_whole_numbers_of_any_dtype(small, prep, dtype):
    labels = np.array([[0, 1, 1], [1, 0, 1]])
    small.add("train", "a", labels.astype(np.uint8))
    (small.root / "train" / "labels" / "a_L.png").unlink()
    pixels = labels.astype(dtype)[np.newaxis]
    tifffile.imwrite(small.root / "train" / "labels" / "a.tif", pixels, photometric="minisblack")
    assert prep("labels", "steel", "train", "--classes", 2).exit_code == 0
    assert small.array("train", "a").tolist() == labels.tolist()


def test_the_number_of_classes_comes_from_the_configuration(small, prep, workspace):
    small.add("train", "a", GREY)
    (workspace / "config.toml").write_text("[steel.default]\nn_class = 3\n")
    result = prep("labels", "steel", "train")
    assert result.exit_code == 2
    assert "expected 3 classes" in result.output
    (workspace / "config.toml").write_text("[steel.default]\nn_class = 4\n")
    assert prep("labels", "steel", "train").exit_code == 0
    (workspace / "config.toml").write_text(
        '[steel.v1]\nmodel = "unet"\nn_class = 4\n[steel.v2]\nmodel = "unet"\nn_class = 3\n'
    )
    result = prep("labels", "steel", "train", "--overwrite")
    assert result.exit_code == 2
    assert "[3, 4]" in result.output


def test_an_anti_aliased_image_does_not_decide_how_many_classes_there_are(small, prep):
    """Its blends are many, some of more than 0.1 % of the image; a slip of the hand makes no blends."""
    drawn = np.zeros((100, 100), np.uint8)
    drawn[20:60, 30:70] = 255
    rare = drawn.copy()
    rare[80:84, 10:20], rare[0, 0] = 128, 7  # a class of this image alone, and a slip
    blurred = drawn.copy()
    blurred[20:23, 30:60] = np.array([[60], [190], [240]])
    blurred[59, 30:37] = np.arange(20, 160, 20)
    for name, label in {"a": drawn, "b": blurred, "c": rare}.items():
        small.add("train", name, label)
    result = prep("labels", "steel", "train")
    assert result.exit_code == 2
    assert "expected 3 classes (values 0, 128, 255), found other values in 2 label image(s)" in result.output


@pytest.mark.parametrize(
    ("rare", "options", "outcome"),
    [
        ({3: 9}, (), [0, 1, 2, 3]),
        ({3: 9, 4: 1}, (), [0, 1, 2, 3, 4]),
        ({3: 9}, ("--unlabelled", "0"), [0, 1, 2, 255]),
        ({4: 9}, (), "expected 3 classes (values 0, 1, 2), found other values"),
        ({3: 9, 4: 9, 5: 9}, (), "expected 3 classes (values 0, 1, 2), found other values"),
    ],
    ids=["one", "two", "unlabelled", "gap", "particles"],
)
def test_rare_values_are_classes_where_all_count_from_0(small, prep, rare, options, outcome):
    label = np.zeros((100, 200), np.uint8)
    label[:40], label[40:50] = 1, 2
    for value, pixels in rare.items():
        label[60 + value, :pixels] = value
    small.add("train", "a", label)
    result = prep("labels", "steel", "train", *options)
    if isinstance(outcome, str):
        assert result.exit_code == 2
        assert outcome in result.output
    else:
        assert result.exit_code == 0, result.output
        assert np.unique(small.array("train", "a")).tolist() == outcome


def test_labels_of_which_a_plan_will_be_made_do_not_wait_for_it(small, prep, workspace):
    small.add("train", "a", GREY)
    (workspace / "config.toml").write_text('[steel.mine]\npreset = "auto"\nlr = 0.001\n')
    assert prep("labels", "steel", "train").exit_code == 0
    assert len(np.unique(small.array("train", "a"))) == 4
    (small.root / "classes.toml").unlink()
    (workspace / "config.toml").write_text('[steel.mine]\npreset = "auto"\nn_class = 3\n')
    result = prep("labels", "steel", "train", "--overwrite")
    assert "expected 3 classes" in result.output


@pytest.mark.parametrize("words", [("stel", "train"), ("steel", "trian"), ("..", "train"), ("a/b", "train")])
def test_wrong_names(small, prep, words):
    small.add("train", "a", GREY)
    result = prep("labels", *words, "--classes", 4)
    assert result.exit_code == 2
    assert "steel" in result.output or words[0] in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_empty_folders(small, prep, kind):
    small.add("train", "a", GREY)
    for path in (small.root / "train" / kind).iterdir():
        path.unlink()
    result = prep("labels", "steel", "train", "--classes", 4)
    assert result.exit_code == 2
    assert f"{kind}: expected the " in result.output
    assert "none in it" in result.output


def test_real_tomography(real, prep):
    root = real("tomography")
    result = prep("labels", "tomography", "train", "--classes", 2)
    assert result.exit_code == 2
    assert "c54_ObjT1_z057_L.png: 2 pixel(s)" in result.output
    assert "c54_ObjT1_z160_L.png: 15 pixel(s)" in result.output
    assert not (root / "train" / "labels_npy").exists()
    assert (
        prep("labels", "tomography", "train", "validate", "test", "--classes", 2, "--nearest").exit_code == 0
    )
    shares = [np.load(sample.labels).mean() for sample in Dataset.open(root).samples("train")]
    assert len(shares) == 30
    assert 0.03 < np.mean(shares) < 0.06


def test_real_uhcs(real, prep):
    root = real("uhcs")
    assert prep("labels", "uhcs", "train", "--classes", 4).exit_code == 0
    arrays = [np.load(sample.labels) for sample in Dataset.open(root).samples("train")]
    alone = [np.unique(array).tolist() for array in arrays if np.ptp(array) == 0]
    assert alone == [[2]]  # one image has spheroidite only


def test_real_sandstone(real, prep):
    root = real("sandstone")
    assert prep("labels", "sandstone", "train", "--classes", 4).exit_code == 0
    assert [item.label_value for item in Dataset.open(root).classes] == [
        (0, 0, 255),
        (0, 255, 0),
        (255, 0, 0),
        (255, 255, 0),
    ]
