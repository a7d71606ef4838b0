"""Pages of trainings and evaluations, whatever became of the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import page_data
from PIL import Image

from matseg_shared.pages.pictures import (
    GreyWindow,
    distinct,
    shrink,
    shrink_labels,
    visible_colours,
)

Call = Callable[..., tuple[int, str]]


def test_a_training_log_is_enough_for_a_page(training_log: Path, report: Call) -> None:
    code, said = report(training_log)
    assert code == 0, said
    path = training_log.parent.parent / "plots" / "alloy_v1.html"
    text = path.read_text(encoding="utf-8")
    assert "nothing was noted when the training started" in text.lower()
    charts = {chart["id"]: chart for chart in page_data(path)["charts"]}
    assert charts["mean-iou"]["marks"] == [{"x": 3, "text": "best: 3"}]
    assert charts["class-iou"]["series"][1]["y"] == [None] * 4
    with training_log.open("a") as stream:
        stream.write('{"epoch": 5, "lr"')
    assert report(training_log)[0] == 0
    assert "1 of its lines cannot be read" in path.read_text(encoding="utf-8")


def test_the_page_shows_the_epoch_that_is_kept(training_log: Path, report: Call) -> None:
    root = training_log.parent.parent
    (root / "config.toml").write_text("[alloy.v1]\nmodel = 'unet'\nn_class = 2\nkeep = 'last'\n")
    assert report(training_log)[0] == 0
    path = root / "plots" / "alloy_v1.html"
    charts = {chart["id"]: chart for chart in page_data(path)["charts"]}
    assert charts["mean-iou"]["marks"] == [{"x": 4, "text": "last: 4"}]
    text = path.read_text(encoding="utf-8")
    assert "Classes in the last epoch" in text
    assert "in the last epoch, which is kept" in text
    assert "Epoch 4, the one that is kept." in text


def test_a_loss_that_overflowed_is_a_gap_in_its_chart(training_log: Path, report: Call) -> None:
    lines = [json.loads(line) for line in training_log.read_text().splitlines()]
    lines[1]["validate"]["loss"] = float("inf")
    lines[2]["validate"]["accuracy"] = float("nan")
    training_log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = report(training_log)
    assert code == 0, said
    path = training_log.parent.parent / "plots" / "alloy_v1.html"
    charts = {chart["id"]: chart for chart in page_data(path)["charts"]}
    assert [y is None for y in charts["loss"]["series"][1]["y"]] == [False, True, False, False]
    assert "nan" not in path.read_text(encoding="utf-8").partition("<script")[0]


def test_a_log_that_is_none_is_refused(tmp_path: Path, report: Call) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("hello\n")
    code, said = report(path)
    assert code == 2
    assert f"{path}: expected the log of one training" in said


def test_an_evaluation_of_another_version_is_refused(tmp_path: Path, report: Call) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"confusion_matrix": [[1]]}))
    code, said = report(path)
    assert code == 2
    assert "matseg-evaluate" in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda document: document["iou"].append(0.5),
            "iou: expected one value for each of 2 classes, found 3",
        ),
        (lambda document: document["confusion_matrix"][0].pop(), "confusion_matrix: expected one value"),
        (lambda document: document["classes"].pop(), "expected one value for each of 1 classes"),
        (lambda document: document["spread"]["iou"].pop(), "spread.iou: expected one value"),
        (lambda document: document["images"][0]["f1"].pop(), "f1: expected one value"),
        (
            lambda document: document["images"][0]["disagreement"]["confusions"][0].update(labelled=7),
            "confuses a class beyond the 2 that there are",
        ),
    ],
)
def test_an_evaluation_whose_figures_do_not_belong_together_is_refused(
    evaluation: Path, report: Call, spoil: Callable[[Any], object], message: str
) -> None:
    document = json.loads(evaluation.read_text(encoding="utf-8"))
    spoil(document)
    evaluation.write_text(json.dumps(document), encoding="utf-8")
    code, said = report(evaluation)
    assert code == 2, said
    assert message in said


def test_an_evaluation_says_what_became_of_its_files(evaluation: Path, report: Call) -> None:
    folder = evaluation.parent.parent / "data" / "discs" / "test"
    (folder / "images" / "slice0.png").unlink()
    (prediction,) = (folder / "predictions").rglob("slice1.png")
    Image.fromarray(np.ones((48, 64), np.uint8)).save(prediction)
    assert report(evaluation)[0] == 0
    path = evaluation.parent.parent / "plots" / evaluation.with_suffix(".html").name
    shown = {item["stem"]: item for item in page_data(path)["page"]["images"]}
    assert "there is no such file" in shown["slice0"]["problems"][0]
    assert shown["slice0"]["image"] == ""
    assert shown["slice0"]["wrong"]
    assert "have changed since the evaluation" in shown["slice1"]["problems"][0]


def test_a_small_label_picture_shows_the_class_that_covers_most() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 3::4] = 2  # every fourth column: a quarter of each pixel of a quarter of the size
    assert not shrink_labels(labels, 10).any()
    labels[:, 1::2] = 2
    labels[:, 2::4] = 2
    assert (shrink_labels(labels, 10) == 2).all()
    assert shrink_labels(labels, 40) is labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_shrunk_pictures_are_means(dtype: type) -> None:
    pixels = np.arange(64, dtype=dtype).reshape(8, 8)
    small = shrink(pixels, 4)
    assert small.shape == (4, 4)
    assert small[0, 0] == pytest.approx(pixels[:2, :2].astype(float).mean(), abs=0.6)
    assert shrink(np.dstack([pixels] * 3), 4).shape == (4, 4, 3)


def test_a_constant_picture_has_a_window() -> None:
    window = GreyWindow.of([np.full((4, 4), 7, np.uint16)])
    assert window.apply(np.full((4, 4), 7, np.uint16)).max() == 0


def test_label_pictures_have_no_colour_twice() -> None:
    colours = distinct([(1, 2, 3), (1, 2, 3), (1, 2, 4), (255, 255, 255), (255, 255, 255)])
    assert len(set(colours)) == 5
    assert colours[0] == (1, 2, 3)


def test_grey_class_colours_give_way_to_ones_that_can_be_seen() -> None:
    assert visible_colours([(0, 0, 0), (255, 255, 255)]) == ((0, 0, 0), (230, 159, 0))
    assert visible_colours([(0, 0, 0), (200, 0, 0)]) == ((0, 0, 0), (200, 0, 0))
