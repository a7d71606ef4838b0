"""Figures against an example worked by hand, and against counting pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matseg_trainer.evaluate.metrics import confusion_matrix, segmentation_metrics

LABELS = np.array([[0, 0, 0, 1], [0, 1, 1, 1]], dtype=np.uint8)
PREDICTIONS = np.array([[0, 0, 1, 1], [0, 1, 1, 0]], dtype=np.uint8)


def test_an_example_by_hand() -> None:
    matrix = confusion_matrix(LABELS, PREDICTIONS, 2)
    np.testing.assert_array_equal(matrix, [[3, 1], [1, 3]])
    assert matrix.dtype == np.int64
    metrics = segmentation_metrics(matrix)
    assert metrics.iou == (0.6, 0.6)
    assert metrics.precision == metrics.recall == metrics.f1 == (0.75, 0.75)
    assert (metrics.accuracy, metrics.mean_iou) == (0.75, 0.6)


def test_rows_are_labels_and_columns_predictions() -> None:
    matrix = confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), 2)
    np.testing.assert_array_equal(matrix, [[1, 2], [0, 1]])
    metrics = segmentation_metrics(matrix)
    assert metrics.precision == (1.0, pytest.approx(1 / 3))
    assert metrics.recall == (pytest.approx(1 / 3), 1.0)


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@given(st.integers(2, 5), st.integers(0, 60), st.integers(0, 10**6))
def test_equal_to_counting_pixel_by_pixel(n_class: int, pixels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, n_class, (2, pixels)).astype(np.uint8)
    metrics = segmentation_metrics(confusion_matrix(labels, predictions, n_class))
    pairs = list(zip(labels.tolist(), predictions.tolist(), strict=True))
    ious = []
    for index in range(n_class):
        true = sum(a == b == index for a, b in pairs)
        labelled, predicted = (sum(pair[side] == index for pair in pairs) for side in (0, 1))
        ious.append(ratio(true, labelled + predicted - true))
        assert metrics.iou[index] == pytest.approx(ious[-1])
        assert metrics.precision[index] == pytest.approx(ratio(true, predicted))
        assert metrics.recall[index] == pytest.approx(ratio(true, labelled))
        assert metrics.f1[index] == pytest.approx(ratio(2 * true, labelled + predicted))
    known = [value for value in ious if value is not None]
    assert metrics.accuracy == pytest.approx(ratio(sum(a == b for a, b in pairs), pixels))
    assert metrics.mean_iou == pytest.approx(sum(known) / len(known) if known else None)


def test_matrices_of_several_images_add_up() -> None:
    whole = confusion_matrix(LABELS, PREDICTIONS, 3)
    parts = [confusion_matrix(LABELS[[row]], PREDICTIONS[[row]], 3) for row in (0, 1)]
    np.testing.assert_array_equal(sum(parts), whole)


def test_a_class_that_is_nowhere_has_no_figure_and_does_not_count() -> None:
    metrics = segmentation_metrics(confusion_matrix(LABELS, PREDICTIONS, 3))
    assert metrics.iou == (0.6, 0.6, None)
    assert metrics.precision[2] is metrics.recall[2] is metrics.f1[2] is None
    assert metrics.mean_iou == 0.6
    empty = segmentation_metrics(np.zeros((2, 2), dtype=np.int64))
    assert empty.accuracy is empty.mean_iou is None


def test_a_class_that_is_missed_or_invented_counts_as_zero() -> None:
    missed = segmentation_metrics(confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2))
    assert (missed.iou, missed.recall[1], missed.f1[1]) == ((0.5, 0.0), 0.0, 0.0)
    assert missed.precision[1] is None
    assert missed.mean_iou == 0.25


def test_values_of_255_classes_do_not_overflow() -> None:
    labels = np.array([254, 254, 0], dtype=np.uint8)
    matrix = confusion_matrix(labels, labels, 255)
    assert (matrix[254, 254], matrix[0, 0], matrix.sum()) == (2, 1, 3)


def test_arrays_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels \(2, 4\) and predictions \(4, 2\) differ in shape"):
        confusion_matrix(LABELS, PREDICTIONS.T, 2)


@pytest.mark.parametrize(("labels", "predictions"), [(2, 0), (0, 2), (1, 5), (-1, 0)])
def test_an_index_beyond_the_classes_is_refused_and_not_counted_elsewhere(
    labels: int, predictions: int
) -> None:
    with pytest.raises(ValueError, match=r"class indices .*, expected 0 to 1"):
        confusion_matrix(np.array([labels]), np.array([predictions]), 2)
