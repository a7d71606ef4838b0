"""Labels in their colours, with wrong pixels marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.images.palette import Colour
from matseg_shared.pages.pictures import hatch

FALSE_POSITIVE: Colour = (0, 255, 0)
"""Green, as in the user guide's overlays of two classes."""
FALSE_NEGATIVE: Colour = (255, 105, 180)
"""Pink, as in the user guide; with more than two classes, every wrong pixel."""


def overlay(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8], colours: Sequence[Colour]
) -> NDArray[np.uint8]:
    """Right pixels in the label's colour, wrong ones marked as the user guide does, unlabelled ones hatched.

    With two classes, class 1 found where there is none is green, class 1 missed is pink; with more, every wrong
    pixel is pink.

    Args:
        labels: (H, W) class indices, or `UNLABELLED`.
        predictions: (H, W) class indices.
        colours: RGB per class.

    Returns:
        (H, W, 3) RGB.
    """
    picture = np.asarray(colours, np.uint8)[np.minimum(labels, len(colours) - 1)]
    wrong = labels != predictions
    picture[wrong] = FALSE_NEGATIVE
    if len(colours) == 2:
        picture[wrong & (predictions == 1)] = FALSE_POSITIVE
    return hatch(picture, labels == UNLABELLED)
