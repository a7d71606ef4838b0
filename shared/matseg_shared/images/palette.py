"""Colours for classes, and pictures in them.

Default colours are those of Okabe and Ito (2008), told apart with every common kind of colour blindness.
"""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

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
_MORE_HUES = 300
"""Enough for 255 classes, some colours being the same after rounding."""


def default_colours(n_class: int) -> tuple[Colour, ...]:
    """`n_class` distinct colours: the eight of Okabe and Ito, darker ones of them, then any hue.

    A class keeps its colour when more classes are added.
    """
    darker = (
        (int(red * shade), int(green * shade), int(blue * shade))
        for shade in (0.72, 0.52)
        for red, green, blue in OKABE_ITO[1:]
    )
    colours = dict.fromkeys(itertools.chain(OKABE_ITO, darker, _hues()) if n_class > 8 else OKABE_ITO)
    return tuple(itertools.islice(colours, n_class))


def _hues() -> Iterator[Colour]:
    """Hues a golden section apart, each in its turn strong, pale or dark."""
    for step in range(_MORE_HUES):
        saturation, value = ((0.9, 0.95), (0.45, 0.95), (0.9, 0.6))[step % 3]
        red, green, blue = colorsys.hsv_to_rgb(step * 0.618034 % 1, saturation, value)
        yield round(red * 255), round(green * 255), round(blue * 255)


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
