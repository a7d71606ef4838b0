"""Overlays have the user guide's colours."""

from __future__ import annotations

import numpy as np

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.images.palette import default_colours
from matseg_trainer.evaluate.overlay import FALSE_NEGATIVE, FALSE_POSITIVE, overlay


def test_an_overlay_of_two_classes() -> None:
    labels = np.array([[0, 1, 0, 1]], dtype=np.uint8)
    predictions = np.array([[0, 1, 1, 0]], dtype=np.uint8)
    colours = default_colours(2)
    picture = overlay(labels, predictions, colours)
    assert [tuple(pixel) for pixel in picture[0].tolist()] == [*colours, FALSE_POSITIVE, FALSE_NEGATIVE]
    assert FALSE_POSITIVE == (0, 255, 0)
    red, green, blue = FALSE_NEGATIVE
    assert red > blue > green, "pink"


def test_an_overlay_of_four_classes_marks_every_wrong_pixel_alike() -> None:
    labels, predictions = (grid.astype(np.uint8) for grid in np.meshgrid(range(4), range(4)))
    colours = default_colours(4)
    picture = overlay(labels, predictions, colours)
    for label, prediction, pixel in zip(labels.flat, predictions.flat, picture.reshape(-1, 3), strict=True):
        assert tuple(pixel.tolist()) == (colours[label] if label == prediction else FALSE_NEGATIVE)


def test_unlabelled_pixels_are_hatched_whatever_was_predicted() -> None:
    labels = np.full((16, 16), UNLABELLED, np.uint8)
    labels[:8] = 1
    for colours in (default_colours(2), default_colours(4)):
        picture = overlay(labels, np.ones_like(labels), colours)
        assert (picture[:8] == colours[1]).all()
        hatched, counts = np.unique(picture[8:].reshape(-1, 3), axis=0, return_counts=True)
        assert [len(set(grey)) for grey in hatched.tolist()] == [1, 1]
        assert counts.min() == 16 * 8 // 4
        assert (overlay(labels, np.zeros_like(labels), colours)[8:] == picture[8:]).all()
