"""Counting pixels: fast ways give what the plain one gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matseg_runtime.measure.phase_fractions import class_counts, drift
from matseg_shared.contract.metadata import Histogram


@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    n_class=st.sampled_from([1, 2, 3, 12, 13, 255]),
    seed=st.integers(0, 9),
)
def test_classes_are_counted(shape: tuple[int, int], n_class: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, n_class, shape).astype(np.uint8)
    plain = tuple(np.bincount(labels.ravel(), minlength=n_class).tolist())
    assert class_counts(labels, n_class) == plain
    assert class_counts(labels[::-1, ::2], n_class) == class_counts(labels[::-1, ::2].copy(), n_class)


@given(
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    low=st.integers(-5, 100),
    width=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_drift_is_the_distance_of_plain_histograms(dtype: str, low: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 200, (1, 23, 31)).astype(dtype)
    counts = tuple(random.integers(0, 9, 16).tolist())
    found = drift(image, Histogram(low=low, high=low + width, counts=counts))
    inside = np.histogram(image.astype(np.float64), bins=16, range=(low, low + width))[0] / image.size
    expected = np.asarray(counts) / sum(counts)
    distance = np.abs(inside - expected).sum() + 1 - inside.sum()
    assert found == pytest.approx(distance / 2, abs=1e-4)


def test_drift_of_the_training_set_itself_is_none() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert drift(image, Histogram(low=0, high=256, counts=(16,) * 16)) == 0
    assert drift(image, Histogram(low=1000, high=2000, counts=(16,) * 16)) == 1
