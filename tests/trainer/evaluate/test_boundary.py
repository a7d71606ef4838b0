"""Boundaries whose displacement is known beforehand, and against measuring every pair of edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matseg_trainer.evaluate.boundary import BoundaryAccumulator, BoundaryEdges, compare_boundaries, distances


def half_plane(column: int, size: int = 20) -> np.ndarray:
    """Class 1 from this column on."""
    labels = np.zeros((size, size), dtype=np.uint8)
    labels[:, column:] = 1
    return labels


def disc(radius: float, size: int = 120) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (y**2 + x**2 < radius**2).astype(np.uint8)


def compare(labels: np.ndarray, predictions: np.ndarray, tolerance: float = 2.0) -> BoundaryAccumulator:
    return compare_boundaries(
        BoundaryEdges.of(labels).midpoints, BoundaryEdges.of(predictions).midpoints, tolerance
    )


def test_edges_lie_between_pixels_and_belong_to_both_classes() -> None:
    edges = BoundaryEdges.of(np.array([[0, 0], [0, 2]], dtype=np.uint8))
    assert sorted(map(tuple, edges.midpoints.tolist())) == [(0.5, 1.0), (1.0, 0.5)]
    assert len(edges.of_class(0)) == len(edges.of_class(2)) == 2
    assert len(edges.of_class(1)) == 0


@pytest.mark.parametrize("shift", [0, 1, 2, 5])
def test_a_straight_boundary_is_displaced_by_its_shift(shift: int) -> None:
    figures = compare(half_plane(8), half_plane(8 + shift)).figures()
    assert figures.displacement == shift
    assert figures.precision == figures.recall == figures.f1 == (1.0 if shift <= 2 else 0.0)
    assert figures.labelled == figures.predicted == 20


def test_a_disc_drawn_too_large_is_displaced_by_the_difference_of_the_radii() -> None:
    figures = compare(disc(40), disc(43)).figures()
    assert figures.displacement == pytest.approx(3, abs=0.15)  # both drawings are staircases


@given(st.integers(2, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_equal_to_measuring_every_pair(n_class: int, height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, n_class, (2, height, width)).astype(np.uint8)
    for index in range(n_class):
        a = brute_edges(labels, index)
        b = brute_edges(predictions, index)
        figures = compare_boundaries(
            BoundaryEdges.of(labels).of_class(index), BoundaryEdges.of(predictions).of_class(index), 1.0
        ).figures()
        assert (figures.labelled, figures.predicted) == (len(a), len(b))
        if not a or not b:
            assert figures.displacement is None
            assert figures.f1 == (0.0 if a or b else None)
            continue
        every = np.linalg.norm(np.array(a)[:, None] - np.array(b)[None], axis=-1)
        forth, back = every.min(axis=1), every.min(axis=0)
        assert figures.displacement == pytest.approx((forth.mean() + back.mean()) / 2)
        assert figures.recall == pytest.approx((forth <= 1).mean())
        assert figures.precision == pytest.approx((back <= 1).mean())


def brute_edges(labels: np.ndarray, index: int) -> list[tuple[float, float]]:
    """The edges of one class, pixel by pixel."""
    edges = []
    for y, x in np.ndindex(labels.shape):
        for other in ((y + 1, x), (y, x + 1)):
            if other[0] < labels.shape[0] and other[1] < labels.shape[1]:
                pair = labels[y, x], labels[other]
                if pair[0] != pair[1] and index in pair:
                    edges.append(((y + other[0]) / 2, (x + other[1]) / 2))
    return edges


def test_an_image_without_a_boundary_to_measure_to_counts_for_f1_only() -> None:
    blank = np.zeros((20, 20), dtype=np.uint8)
    alone = compare(half_plane(8), blank).figures()
    assert (alone.displacement, alone.precision, alone.recall, alone.f1) == (None, None, 0.0, 0.0)
    neither = compare(blank, blank).figures()
    assert (neither.displacement, neither.precision, neither.recall, neither.f1) == (None, None, None, None)
    pooled = (compare(half_plane(8), half_plane(9)) + compare(half_plane(8), blank)).figures()
    assert (pooled.displacement, pooled.precision, pooled.recall) == (1.0, 1.0, 0.5)
    assert pooled.f1 == pytest.approx(2 / 3)


def test_pooling_weighs_edges_not_images() -> None:
    pooled = compare(half_plane(8, 10), half_plane(9, 10)) + compare(half_plane(8, 30), half_plane(12, 30))
    assert pooled.figures().displacement == pytest.approx((10 * 1 + 30 * 4) / 40)


def test_distances_beyond_the_bound_are_infinite_and_those_on_it_are_not() -> None:
    found = distances(np.array([[0.0, 0], [0, 2], [0, 2.5]]), np.array([[0.0, 0]]), at_most=2)
    assert found.tolist() == [0, 2, np.inf]
    assert distances(np.zeros((2, 2)), np.zeros((0, 2))).tolist() == [np.inf, np.inf]
