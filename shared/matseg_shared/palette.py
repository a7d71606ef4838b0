"""Colours for classes, and label images that carry them.

Default colours are those of Okabe and Ito (2008), told apart with every common kind of colour blindness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]

OKABE_ITO: tuple[Colour, ...] = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
FALSE_POSITIVE: Colour = (0, 255, 0)
"""Green, as in the user guide's overlays of two classes."""
FALSE_NEGATIVE: Colour = (255, 105, 180)
"""Pink, as in the user guide; with more than two classes, every wrong pixel."""


def default_colours(n_class: int) -> tuple[Colour, ...]:
    """`n_class` distinct colours: the eight of Okabe and Ito, then darker and lighter ones of them."""
    colours: list[Colour] = list(OKABE_ITO)
    shade = 0.72
    while len(colours) < n_class:
        for red, green, blue in OKABE_ITO[1:]:
            colours.append((int(red * shade), int(green * shade), int(blue * shade)))
        shade *= 0.72
    return tuple(colours[:n_class])


def colourise(labels: NDArray[np.uint8], colours: Sequence[Colour]) -> NDArray[np.uint8]:
    """(H, W) class indices to (H, W, 3) RGB."""
    table = np.asarray(colours, dtype=np.uint8)
    return table[labels]


def overlay(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8], colours: Sequence[Colour]
) -> NDArray[np.uint8]:
    """Right pixels in the label's colour, wrong ones marked as the user guide does.

    With two classes, class 1 found where there is none is green, class 1 missed is pink; with more, every wrong
    pixel is pink.

    Args:
        labels: (H, W) class indices.
        predictions: (H, W) class indices.
        colours: RGB per class.

    Returns:
        (H, W, 3) RGB.
    """
    picture = colourise(labels, colours)
    wrong = labels != predictions
    picture[wrong] = FALSE_NEGATIVE
    if len(colours) == 2:
        picture[wrong & (predictions == 1)] = FALSE_POSITIVE
    return picture


def write_label_png(stream: BinaryIO, labels: NDArray[np.uint8], colours: Sequence[Colour]) -> None:
    """Write a palette PNG: its pixel values are the class indices, its palette the class colours.

    Args:
        stream: open for writing in binary mode.
        labels: (H, W) class indices.
        colours: RGB per class.
    """
    image = Image.fromarray(labels)
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(stream, format="PNG", compress_level=1)
