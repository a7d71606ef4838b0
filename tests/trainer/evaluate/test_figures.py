"""Calibration, phase fractions, spread and ranking against examples worked by hand."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.evaluate.calibration import BINS, calibration
from matseg_trainer.evaluate.disagreement import disagreement, ranked
from matseg_trainer.evaluate.document import EvaluationDocument, ImageResult, read_evaluation
from matseg_trainer.evaluate.figures import Accumulator, accumulate_image, pool, spread_of, spread_of_images
from matseg_trainer.evaluate.table import image_table

CLASSES = tuple(
    ClassInfo(index=index, name=name, colour=(index, 0, 0), label_value=index)
    for index, name in enumerate(("liquid", "solid", "pore"))
)


def certain(predictions: np.ndarray, n_class: int, probability: float = 1.0) -> np.ndarray:
    """(K, H, W) probabilities that give the predicted class this one, the others the rest in equal parts."""
    rest = (1 - probability) / (n_class - 1)
    hot = np.arange(n_class)[:, None, None] == predictions
    return np.where(hot, probability, rest).astype(np.float32)


def tally(
    labels: np.ndarray, predictions: np.ndarray, n_class: int = 3, probability: float = 1.0
) -> Accumulator:
    return accumulate_image(labels, predictions, certain(predictions, n_class, probability), 2.0)


def image_result(stem: str, labels: np.ndarray, predictions: np.ndarray) -> tuple[ImageResult, Accumulator]:
    own = tally(labels, predictions)
    paths = dict.fromkeys(("image", "array", "prediction"), "x")
    return ImageResult(
        **dict(own.figures()),
        **paths,
        stem=stem,
        label=None,
        overlay=None,
        confusion_matrix=own.matrix.tolist(),
        disagreement=disagreement(labels, predictions, certain(predictions, 3), CLASSES, 2.0),
    ), own


def test_calibration_by_hand() -> None:
    labels = np.array([[0, 0, 1, 1]], dtype=np.uint8)
    probabilities = np.array([[[0.9, 0.8, 0.4, 0.6]], [[0.1, 0.2, 0.6, 0.4]]], dtype=np.float32)
    found = calibration(labels, np.array([[0, 0, 1, 0]], dtype=np.uint8), probabilities)
    assert found.mean_loss == pytest.approx(-np.log([0.9, 0.8, 0.6, 0.4]).mean())
    assert found.mean_brier == pytest.approx(2 * np.square([0.1, 0.2, 0.4, 0.6]).mean())
    # 0.9, 0.8 and 0.6 twice (one of them wrong) fall into bins of their own
    assert found.expected_error == pytest.approx((0.1 + 0.2 + abs(1 - 1.2)) / 4)
    bins = found.bins()
    assert len(bins) == BINS
    shared = next(item for item in bins if item.pixels == 2)
    assert shared.accuracy == 0.5
    assert shared.confidence == pytest.approx(0.6)
    assert sum(item.pixels for item in bins) == 4
    assert all((item.accuracy is None) == (item.pixels == 0) for item in bins)


def test_calibrated_probabilities_have_no_error_and_certain_ones_the_share_of_wrong_pixels() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(0.5, 1, (800, 1000)).astype(np.float32)  # more pixels than are worked on at once
    labels = (random.uniform(size=p.shape) > p).astype(np.uint8)
    predictions = np.zeros_like(labels)
    assert calibration(labels, predictions, np.stack([p, 1 - p])).expected_error < 0.003
    sure = calibration(labels, predictions, certain(predictions, 2))
    assert sure.expected_error == pytest.approx(labels.mean())
    assert sure.mean_brier == pytest.approx(2 * labels.mean())
    assert math.isfinite(sure.mean_loss)


def test_phase_fractions_are_signed() -> None:
    labels = np.array([[0, 0, 0, 1]], dtype=np.uint8)
    figures = tally(labels, np.array([[0, 1, 1, 1]], dtype=np.uint8)).figures()
    assert figures.labelled_fraction == (0.75, 0.25, 0)
    assert figures.predicted_fraction == (0.25, 0.75, 0)
    assert figures.fraction_error == (-0.5, 0.5, 0)


def test_images_of_one_class_and_of_one_pixel_have_undefined_figures_and_no_warning() -> None:
    for shape in ((1, 1), (5, 7)):
        blank = np.zeros(shape, dtype=np.uint8)
        figures = tally(blank, blank).figures()
        assert figures.iou == (1.0, None, None)
        assert figures.mean_iou == figures.accuracy == 1.0
        assert figures.boundary.displacement is figures.boundary.f1 is None
        assert all(item.f1 is None for item in figures.class_boundaries)
        assert figures.calibration_error == 0


def test_two_classes_share_their_boundary_and_three_have_their_own() -> None:
    labels = np.zeros((10, 30), dtype=np.uint8)
    labels[:, 10:] = 1
    two = tally(labels, labels, 2).figures()
    assert two.boundary == two.class_boundaries[0] == two.class_boundaries[1]
    labels[:, 20:] = 2
    three = tally(labels, labels).figures()
    assert three.boundary.labelled == 20
    assert [item.labelled for item in three.class_boundaries] == [10, 20, 10]


def test_pooled_figures_are_those_of_the_images_side_by_side() -> None:
    random = np.random.default_rng(1)
    pairs = [random.integers(0, 3, (2, 6, width)).astype(np.uint8) for width in (4, 9)]
    pooled = pool([tally(labels, predictions, 3, 0.7) for labels, predictions in pairs]).figures()
    whole = tally(
        *(np.concatenate([pair[side] for pair in pairs], axis=1) for side in (0, 1)), 3, 0.7
    ).figures()
    assert pooled.pixels == whole.pixels == 78
    for name in ("accuracy", "mean_iou", "loss", "brier", "calibration_error"):
        assert getattr(pooled, name) == pytest.approx(getattr(whole, name))
    assert pooled.fraction_error == pytest.approx(whole.fraction_error)


def test_spread_leaves_out_what_is_undefined() -> None:
    spread = spread_of([4.0, None, 1.0, 2.0, 3.0, 5.0])
    assert spread is not None
    assert (spread.images, spread.mean, spread.median) == (5, 3, 3)
    assert (spread.lower_quartile, spread.upper_quartile, spread.minimum, spread.maximum) == (2, 4, 1, 5)
    assert spread_of([None]) is None


def test_the_reason_names_the_confusion_and_the_largest_region() -> None:
    labels = np.zeros((20, 20), dtype=np.uint8)
    predictions = labels.copy()
    labels[:, 10:] = 1
    predictions[:, 11:] = 1  # a boundary one pixel off: 20 pixels
    predictions[2:5, 2:5] = 2  # 9 pixels where nothing is
    wrong = disagreement(labels, predictions, certain(predictions, 3, 0.9), CLASSES, 2.0)
    assert wrong.wrong_pixels == 29
    assert wrong.near_boundary == pytest.approx(20 / 29)
    assert [(item.labelled, item.predicted, item.pixels) for item in wrong.confusions] == [
        (1, 0, 20),
        (0, 2, 9),
    ]
    region = wrong.largest_region
    assert region is not None
    assert (region.pixels, region.x, region.confidence) == (20, 10, pytest.approx(0.9))
    assert wrong.reason.startswith(
        "solid taken for liquid in 69% of 29 wrong pixels, 69% of them within 2 px"
    )


def test_a_region_of_a_rarer_confusion_can_be_the_largest() -> None:
    labels = np.zeros((12, 12), dtype=np.uint8)
    predictions = labels.copy()
    predictions[::2, ::2] = 1  # 36 pixels apart
    predictions[:5, :5] = 2  # 25 together
    wrong = disagreement(labels, predictions, certain(predictions, 3), CLASSES, 2.0)
    assert wrong.confusions[0].predicted == 1
    assert wrong.largest_region is not None
    assert (wrong.largest_region.predicted, wrong.largest_region.pixels) == (2, 25)
    assert (wrong.largest_region.x, wrong.largest_region.y) == (2, 2)
    assert wrong.near_boundary == 0  # the label has no boundary


def test_ranking_spread_and_table(tmp_path: Path) -> None:
    good = np.zeros((8, 8), dtype=np.uint8)
    good[:, 4:] = 1
    bad = good.copy()
    bad[:, 2:] = 1
    results = [image_result("good", good, good), image_result("bad", good, bad)]
    images = ranked([item for item, _ in results])
    assert [item.disagreement.rank for item in images] == [2, 1]
    assert images[0].disagreement.reason == "no wrong pixel"
    spread = spread_of_images(images)
    assert spread.iou[2] is spread.class_boundary_f1[2] is None
    assert spread.mean_iou is not None
    assert spread.mean_iou.maximum == 1
    total = pool([own for _, own in results])
    document = EvaluationDocument(
        **dict(total.figures()),
        name="set_v1",
        split="test",
        model="m.pth",
        classes=CLASSES,
        boundary_tolerance=2,
        confusion_matrix=total.matrix.tolist(),
        spread=spread,
        reliability=total.calibration.bins(),
        images=images,
    )
    rows = list(csv.DictReader(io.StringIO(image_table(document))))
    assert [row["image"] for row in rows] == ["bad", "good"]
    assert rows[0]["iou 2:pore"] == ""
    assert float(rows[0]["fraction_error 1:solid"]) == 0.25
    (tmp_path / "e.json").write_text(document.model_dump_json(), encoding="utf-8")
    assert read_evaluation(tmp_path / "e.json") == document


@pytest.mark.parametrize("n_class", [2, 3])
def test_unlabelled_pixels_are_in_no_figure(n_class: int) -> None:
    """The figures are those of the labelled rows alone, whatever was predicted below them."""
    random = np.random.default_rng(8)
    labels, predictions = random.integers(0, n_class, (2, 12, 9)).astype(np.uint8)
    probabilities = random.dirichlet(np.ones(n_class), (12, 9)).transpose(2, 0, 1).astype(np.float32)
    rows = accumulate_image(labels[:7], predictions[:7], probabilities[:, :7], 2.0).figures()
    labels[7:] = UNLABELLED
    found = accumulate_image(labels, predictions, probabilities, 2.0).figures()
    assert (found.pixels, found.unlabelled) == (63, 45)
    assert found.labelled_share == pytest.approx(63 / 108)
    assert rows.labelled_share == 1
    assert found.model_copy(update={"unlabelled": 0}) == rows
    wrong = disagreement(labels, predictions, probabilities, CLASSES, 2.0)
    alone = disagreement(labels[:7], predictions[:7], probabilities[:, :7], CLASSES, 2.0)
    assert wrong == alone
    assert pool([accumulate_image(labels, predictions, probabilities, 2.0)] * 2).unlabelled == 90


def test_a_boundary_between_labels_and_none_is_no_boundary() -> None:
    labels = np.zeros((6, 6), np.uint8)
    labels[:, 3:] = UNLABELLED
    predictions = np.zeros((6, 6), np.uint8)
    predictions[:, 3:] = 1
    figures = tally(labels, predictions, 2).figures()
    assert (figures.boundary.labelled, figures.boundary.predicted) == (0, 0)
    assert figures.mean_iou == 1
