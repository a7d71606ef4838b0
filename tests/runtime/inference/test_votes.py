"""The decision on the votes of several passes, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from matseg_runtime.inference import votes as votes_module
from matseg_runtime.inference.votes import FULL, Ballot, decide, put_votes


def _random_probabilities(n_class: int, passes: int, shape: tuple[int, int]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(n_class)
    found = []
    for _ in range(passes):
        chances = rng.dirichlet(np.full(n_class, 0.3), shape).astype(np.float32)
        chances = np.round(chances * 4) / 4 if n_class == 3 else chances  # few values: many ties
        chances /= np.maximum(chances.sum(axis=-1, keepdims=True), 1e-6)
        found.append(np.moveaxis(chances, -1, 0))
    return found


@pytest.mark.parametrize("n_class", [2, 3, 5, 200])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 300)])
def test_the_class_of_the_sum_and_of_ties_the_lower(
    n_class: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votes_module, "_PIXELS", 1 << 12)  # so that the largest is decided in parts
    rng = np.random.default_rng(7)
    passes = _random_probabilities(n_class, 3, shape)
    casts = [None, rng.random(shape) < 0.7, np.broadcast_to(rng.random((1, shape[1])) < 0.5, shape)]
    ballots, whole = [], []
    for each, cast in zip(passes, casts, strict=True):
        votes = np.empty((n_class - 1, *shape), np.uint8)
        put_votes(votes, each)
        if cast is not None:
            votes = votes * cast
        ballots.append(Ballot(votes=votes, cast=cast))
        full = FULL if cast is None else np.where(cast, FULL, 0)
        whole.append(
            np.concatenate([votes, np.maximum(full - votes.sum(axis=0, dtype=int), 0)[None]]).astype(int)
        )
    votes_cast = 1 + casts[1] + casts[2]
    total = np.sum([each[:-1] for each in whole], axis=0)
    total = np.concatenate([total, np.maximum(FULL * votes_cast - total.sum(axis=0), 0)[None]])
    found = decide(ballots, probabilities=True)
    np.testing.assert_array_equal(found.labels, total.argmax(axis=0))
    differ = sum(
        (each.argmax(axis=0) != found.labels) & (True if cast is None else cast)
        for each, cast in zip(whole, casts, strict=True)
    )
    np.testing.assert_array_equal(found.disagreement, differ)
    np.testing.assert_allclose(found.probabilities, total / (FULL * votes_cast), rtol=1e-6)
    assert decide(ballots, probabilities=False).probabilities is None


def test_rounding_never_makes_the_last_class_negative() -> None:
    """Three classes of a sixth and one of a half, scaled, sum up to more than there is."""
    votes = np.array([[[86]], [[86]], [[86]]], np.uint8)
    found = decide([Ballot(votes=votes)], probabilities=True)
    assert found.labels.tolist() == [[0]]
    assert found.probabilities is not None
    assert found.probabilities[3].tolist() == [[0.0]]


def test_a_pixel_without_any_vote_has_no_label() -> None:
    nobody = Ballot(votes=np.zeros((1, 1, 2), np.uint8), cast=np.array([[False, True]]))
    found = decide([nobody, nobody], probabilities=False)
    assert found.labels.tolist() == [[255, 1]]
    assert found.disagreement is not None
    assert found.disagreement.tolist() == [[0, 0]]
