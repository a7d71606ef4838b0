"""Strokes say how frequent classes are labelled; the kept network knows how frequent they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.data.examples import IGNORED, Example
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.train import training
from matseg_trainer.train.class_shares import estimate_shares, logit_shift
from matseg_trainer.train.log import read_log

_SHARES = np.array([0.9, 0.07, 0.03])
_EVEN = np.full(3, 1 / 3)


def measurements(shares: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Classes drawn with these shares, and logits (K, N) of the best decision if all were as frequent."""
    rng = np.random.default_rng(0)
    classes = rng.choice(len(shares), size=count, p=shares)
    values = classes * 2.0 + rng.normal(size=count)
    return classes, -0.5 * np.square(values - 2.0 * np.arange(len(shares))[:, np.newaxis]).astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers: NDArray[np.float32] = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def test_shares_are_found_of_what_nobody_labelled() -> None:
    _, logits = measurements(_SHARES, 50_000)
    found = estimate_shares(softmax(logits), np.zeros(3), _EVEN)
    np.testing.assert_allclose(found, _SHARES, atol=0.01)


def test_what_is_labelled_counts_as_it_is() -> None:
    _, logits = measurements(_SHARES, 1000)
    found = estimate_shares(softmax(logits), np.array([0.0, 0.0, 9000.0]), _EVEN)
    assert found[2] > 0.9
    assert found.sum() == pytest.approx(1)


def test_a_class_that_is_labelled_nowhere_stays_as_it_is() -> None:
    """Also where the network is sure of it."""
    trained = np.array([0.5, 0.5, 0.0])
    logits = np.array([[0, 0], [1, 0], [2, 90]], np.float32)[:, :, np.newaxis]
    labels = np.array([[0], [IGNORED]], np.uint8)
    shift = logit_shift([(logits, Example(pixels=np.zeros((1, 2, 1), np.uint8), labels=labels))], trained, 2)
    assert shift[2] == 0
    assert np.isfinite(shift).all()


def test_fewer_pixels_are_wrong_with_the_shift_and_no_data_is_not_looked_at() -> None:
    classes, logits = measurements(_SHARES, 40_000)
    logits = logits.reshape(3, 200, 200)
    labels = np.full((200, 200), IGNORED, np.uint8)
    absent = np.zeros((200, 200), bool)
    absent[:100] = True
    shown = np.where(absent, np.array([0, 0, 30], np.float32)[:, np.newaxis, np.newaxis], logits)
    example = Example(pixels=np.zeros((1, 200, 200), np.uint8), labels=labels, absent=absent)
    shift = logit_shift([(shown, example)], _EVEN, labels.size)
    np.testing.assert_allclose(np.exp(shift) / 3, _SHARES, atol=0.02)
    wrong = np.mean(logits.argmax(axis=0).ravel() != classes)
    right = (logits + shift[:, np.newaxis, np.newaxis]).argmax(axis=0).ravel()
    assert np.mean(right != classes) < 0.6 * wrong


def test_parts_of_an_image_tell_what_the_whole_tells() -> None:
    _, logits = measurements(_SHARES, 40_000)
    logits = logits.reshape(3, 200, 200)
    labels = np.full((200, 200), IGNORED, np.uint8)
    labels[:, 50] = 1
    absent = np.zeros((200, 200), bool)
    absent[:100, :30] = True
    whole = Example(pixels=np.zeros((1, 200, 200), np.uint8), labels=labels, absent=absent)
    places = [
        (rows, columns) for rows in (slice(0, 96), slice(96, 200)) for columns in (slice(60), slice(60, 200))
    ]
    parts = [(logits[:, *place], whole.part(place)) for place in places]
    np.testing.assert_allclose(
        logit_shift(parts, _EVEN, labels.size), logit_shift([(logits, whole)], _EVEN, labels.size), atol=1e-4
    )


@pytest.fixture
def strokes(tmp_path: Path) -> Path:
    """Noisy pictures with 5 % of a brighter class, of which as much is labelled as of the other."""
    rng = np.random.default_rng(0)
    for split in ("train", "validate", "test"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / "noise" / split / kind).mkdir(parents=True)
        bright = np.zeros((64, 64), np.uint8)
        bright[::8, ::3] = 1
        bright[1::8, ::3] = 1
        pixels = np.clip(rng.normal(100 + 30.0 * bright, 30), 0, 255).astype(np.uint8)
        labels = bright.copy()
        if split == "train":
            places = [rng.choice(np.flatnonzero(bright == index), 150, replace=False) for index in (0, 1)]
            labels[:] = 255
            for index, place in enumerate(places):
                labels.flat[place] = index
        for kind, array in (("images", pixels), ("labels", labels)):
            Image.fromarray(array).save(tmp_path / "data" / "noise" / split / kind / "a.png")
    (tmp_path / "data" / "noise" / "classes.toml").write_text(
        "".join(
            f'[[class]]\nname = "{index}"\ncolour = [{index}, 0, 0]\nlabel_value = {index}\n'
            for index in (0, 1)
        )
        + "[unlabelled]\nlabel_value = 255\n"
    )
    common = 'n_class = 2\nmodel = "unet"\nwidth = 2\nepoch = 8\nsteps = 4\nlr = 0.02\namp = "fp32"\n'
    common += 'checkpoint = "last"\n'
    (tmp_path / "config.toml").write_text(f"[noise.v1]\n{common}[noise.v2]\n{common}balance = true\n")
    return tmp_path


def trained(workspace: Path, version: str, *options: str) -> str:
    result = CliRunner().invoke(train_main, ["noise", version, *options, "--workspace", str(workspace)])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_kept_network_knows_how_frequent_classes_are(strokes: Path) -> None:
    """The log, and an evaluation of what is kept, have one figure: the shift is in both."""
    assert "how frequent each class is where nothing is labelled is estimated, and used" in trained(
        strokes, "v1"
    )
    logged = read_log(strokes / "log" / "noise_v1.jsonl").epochs[-1].validate_
    words = ["noise", "v1", "--test-folder", "validate", "--json", "--workspace", str(strokes)]
    result = CliRunner().invoke(evaluate_main, words)
    assert result.exit_code == 0, result.output
    assert f'"mean_iou": {logged.mean_iou:.4f}'[:-1] in result.stdout
    shifted = load_checkpoint(strokes / "saved" / "noise_v1.pth").weights["classifier.bias"]
    assert float(shifted[0] - shifted[1]) > 1


def test_a_balanced_loss_is_left_alone(strokes: Path) -> None:
    assert "how frequent" not in trained(strokes, "v2")


def test_a_shift_that_harms_is_not_taken(strokes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "logit_shift", lambda *_: np.array([-30, 30], np.float32))
        trained(strokes, "v1")
    wrong = read_log(strokes / "log" / "noise_v1.jsonl").epochs[-1].validate_
    labels = strokes / "data" / "noise" / "validate" / "labels" / "a.png"
    assert wrong is not None
    assert wrong.loss < 5
    bias = load_checkpoint(strokes / "saved" / "noise_v1.pth").weights["classifier.bias"]
    assert float((bias[0] - bias[1]).abs()) < 5
    strokes_alone = np.full((64, 64), 255, np.uint8)
    strokes_alone[:8] = np.asarray(Image.open(labels))[:8]
    Image.fromarray(strokes_alone).save(labels)
    assert "how frequent" not in trained(strokes, "v1", "--overwrite")
