"""Votes of passes along several axes, and the decision on them: the class of the mean probability.

A vote holds the probabilities of all classes but the last, 0 to 255; the last class has what they leave. Sums of votes
are whole numbers, so the decision is the same wherever and in whatever order it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.session import Probabilities, Segmentation
from matseg_shared.contract.classes import UNLABELLED

FULL = 255
"""Stands for the probability 1."""
Votes = NDArray[np.uint8]
"""(K - 1, H, W), or with a further axis of slices."""
STORED_TOGETHER, TOGETHER = 8, 4
"""Slices whose votes are in one file, enough for files that are not tiny; and that are read at a time, half of them for
the memory's sake."""
_PIXELS = 1 << 16
"""Decided at a time: what is computed on the way then stays in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ballot:
    """Votes of one pass on one slice."""

    votes: Votes
    """(K - 1, H, W)."""
    cast: NDArray[np.bool_] | None = None
    """(H, W) pixels for which the pass has a vote; None: all. The others' votes are 0."""

    def rows(self, part: slice) -> Ballot:
        """The same of some rows."""
        return replace(self, votes=self.votes[:, part], cast=None if self.cast is None else self.cast[part])

    @property
    def full(self) -> NDArray[np.uint16]:
        """(H, W) sum of the probabilities of all classes: 255, and 0 without a vote."""
        if self.cast is None:
            return np.full(self.votes.shape[1:], FULL, np.uint16)
        return self.cast * np.uint16(FULL)


def put_votes(votes: Votes, probabilities: Probabilities) -> None:
    """Put the votes of (K, H, W) probabilities from 0 to 1 into (K - 1, H, W)."""
    for target, plane in zip(votes, probabilities[:-1], strict=True):  # one by one, for the memory's sake
        np.copyto(target, np.rint(plane * FULL), casting="unsafe")


def decide(ballots: Sequence[Ballot], *, probabilities: bool) -> Segmentation:
    """Label a slice with the class of the mean probability of all passes that have a vote; of ties the lower class.

    Args:
        ballots: one for each pass.
        probabilities: give the mean (K, H, W) too.

    Returns:
        Labels, `UNLABELLED` where no pass has a vote; for each pixel the number of passes whose own class is another.
    """
    few, *shape = ballots[0].votes.shape
    labels, disagreement = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    mean = np.empty((few + 1, *shape), np.float32) if probabilities else None
    step = max(1, _PIXELS // shape[1])
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        some = [ballot.rows(part) for ballot in ballots]
        labels[part], disagreement[part] = _decide_rows(some, None if mean is None else mean[:, part])
    return Segmentation(labels=labels, probabilities=mean, disagreement=disagreement)


def _decide_rows(
    ballots: Sequence[Ballot], mean: Probabilities | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels and disagreement of a few rows; the mean probability is put where it is wanted."""
    total = np.zeros(ballots[0].votes.shape, np.uint16)
    full = np.zeros(total.shape[1:], np.uint16)
    for ballot in ballots:
        total += ballot.votes
        full += ballot.full
    planes = [*total, _left(total, full)]
    labels, disagreement = _best(planes), np.zeros(full.shape, np.uint8)
    for ballot in ballots:
        differs = _best([*ballot.votes, _left(ballot.votes, ballot.full)]) != labels
        disagreement += differs if ballot.cast is None else differs & ballot.cast
    if mean is not None:
        np.divide(planes, np.maximum(full, 1), out=mean, casting="same_kind")
    return np.maximum(labels, (full == 0) * np.uint8(UNLABELLED)), disagreement


def _left(votes: NDArray[np.unsignedinteger], full: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """(H, W) what votes leave to the last class; rounded, they may sum up to a little more than there is."""
    taken = np.zeros(full.shape, np.uint16)
    for plane in votes:
        taken += plane
    return np.maximum(taken, full) - taken


def _best(planes: Sequence[NDArray[np.unsignedinteger]]) -> NDArray[np.uint8]:
    """(H, W) number of the plane that has most, the lowest of several."""
    most, labels = planes[0].astype(np.uint16), np.zeros(planes[0].shape, np.uint8)
    for index, plane in enumerate(planes[1:], start=1):
        # later planes have larger numbers, so a maximum puts them in; a mask takes a hundred times as long
        np.maximum(labels, (plane > most) * np.uint8(index), out=labels)
        np.maximum(most, plane, out=most)
    return labels
