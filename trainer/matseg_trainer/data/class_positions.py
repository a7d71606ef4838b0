"""Labelled pixels of an image, by class and row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from matseg_trainer.data.examples import IGNORED


class ClassPositions:
    """Index of the labelled pixels of an image: how many of each class there are up to each row."""

    counts: NDArray[np.int64]
    """(256,) pixels of each class, and of `IGNORED`."""

    def __init__(self, labels: NDArray[np.uint8]) -> None:
        by_row = np.stack([np.bincount(row, minlength=IGNORED + 1) for row in labels])
        self.counts = by_row.sum(axis=0)
        self.is_partial = bool(self.counts[IGNORED])
        """Some pixels have no label."""
        self._classes = np.flatnonzero(self.counts[:IGNORED])
        self._until = {int(index): np.cumsum(by_row[:, index]) for index in self._classes}

    def draw(
        self, labels: NDArray[np.uint8], rng: np.random.Generator, *, by_class: bool = True
    ) -> tuple[int, int] | None:
        """(row, column) of a random pixel of a random class, or of a random labelled pixel; None of none."""
        if not len(self._classes):
            return None
        wanted = [int(rng.choice(self._classes))] if by_class else list(self._until)
        until = np.sum([self._until[index] for index in wanted], axis=0)
        number = int(rng.integers(0, until[-1]))
        row = int(np.searchsorted(until, number, side="right"))
        before = int(until[row - 1]) if row else 0
        return row, int(np.flatnonzero(np.isin(labels[row], wanted))[number - before])
