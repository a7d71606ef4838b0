"""Label images keep the class indices, and classes their colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matseg_shared.images.palette import OKABE_ITO, default_colours
from matseg_shared.images.png import write_label_png
from matseg_shared.images.read import read_stored


@pytest.mark.parametrize("n_class", [2, 4, 8, 255])
def test_a_label_png_holds_indices_and_colours(tmp_path: Path, n_class: int) -> None:
    colours = default_colours(n_class)
    labels = np.random.default_rng(0).integers(0, n_class, (37, 53)).astype(np.uint8)
    path = tmp_path / "labels.png"
    with path.open("wb") as stream:
        write_label_png(stream, labels, colours)
    stored = read_stored(path)
    np.testing.assert_array_equal(stored.pixels, labels)
    assert stored.palette is not None
    assert stored.palette[:n_class] == colours


def test_writing_leaves_the_labels_as_they_were() -> None:
    labels = np.array([[0, 1]], dtype=np.uint8)
    write_label_png(io.BytesIO(), labels, default_colours(2))
    np.testing.assert_array_equal(labels, [[0, 1]])
    stream = io.BytesIO()
    write_label_png(stream, labels[:, ::-1], default_colours(2))
    np.testing.assert_array_equal(np.array(Image.open(stream)), [[1, 0]])


@pytest.mark.parametrize("n_class", [2, 8, 9, 15, 16, 64])
def test_default_colours_differ_and_do_not_change_with_the_number_of_classes(n_class: int) -> None:
    colours = default_colours(n_class)
    assert len(colours) == len(set(colours)) == n_class
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    assert default_colours(255)[:n_class] == colours
    assert colours[:8] == OKABE_ITO[:n_class]


def test_255_classes_have_255_colours() -> None:
    assert len(set(default_colours(255))) == 255
