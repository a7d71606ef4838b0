"""The simplest segmentation there is, to measure others by: one grey threshold per image (Otsu 1979)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def otsu_threshold(image: NDArray[np.uint8]) -> int:
    """The largest grey value of the darker class in a (H, W) uint8 image.

    Of all splits of the histogram into two classes, the one of largest between-class variance.
    """
    counts = np.bincount(image.ravel(), minlength=256).astype(np.float64)
    share = np.cumsum(counts) / counts.sum()
    moment = np.cumsum(counts * np.arange(256)) / counts.sum()
    spread = share * (1 - share)
    variance = np.zeros(256)
    np.divide((moment[-1] * share - moment) ** 2, spread, out=variance, where=spread > 0)
    return int(variance.argmax())


def otsu_iou(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.integer]]]) -> float:
    """IoU of class 1 when everything darker, or everything brighter, than Otsu's threshold is taken for it.

    Over all pixels of pairs of a (H, W) uint8 image and (H, W) class indices, 0 or 1; the better of the two polarities,
    NaN when no pixel is in either.
    """
    hits = np.zeros(2)
    unions = np.zeros(2)
    for image, labels in pairs:
        dark = image <= otsu_threshold(image)
        wanted = labels == 1
        for polarity, found in enumerate((dark, ~dark)):
            hits[polarity] += np.count_nonzero(found & wanted)
            unions[polarity] += np.count_nonzero(found | wanted)
    return float((hits / unions).max()) if unions.all() else float("nan")
