"""`matseg-train DATASET` alone: a plan is made, written, told and trained; and kept when it is run again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from discs import write_discs

from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.commands.prep import main as prep_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.overview.survey import survey
from matseg_trainer.pages.training import write_training_page
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.prepare import plan
from matseg_trainer.train import cost
from matseg_trainer.train.cost import time_words
from matseg_trainer.workspace import Workspace

Run = Callable[..., Result]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with `data/discs/train` of three images and nothing else, and plans of two epochs of one step."""
    monkeypatch.setattr(plan, "EPOCHS", 2)
    monkeypatch.setattr(plan, "STEPS", (2, 2))
    monkeypatch.setattr(plan, "WIDTH", 2)
    monkeypatch.setattr(plan, "has_encoder", lambda: False)
    write_discs(tmp_path, {"train": 3})
    root = tmp_path / "data" / "discs"
    shutil.rmtree(root / "train" / "labels_npy")
    (root / "classes.toml").unlink()
    return tmp_path


@pytest.fixture
def train(bare: Path) -> Run:
    return lambda *words: CliRunner().invoke(
        train_main, ["discs", *words, "--workspace", str(bare), "--no-report"]
    )


def keep_one(root: Path) -> None:
    for kind in ("images", "labels"):
        for path in (root / "train" / kind).glob("slice[12]*"):
            path.unlink()


def test_images_and_label_images_are_enough(bare: Path, train: Run) -> None:
    result = train()
    assert result.exit_code == 0, result.output
    for words in (
        "version 'auto' of discs",
        "no class is rare",
        "validation_images",
        "1 to validate",
        "on this CPU",
    ):
        assert words in result.output
    checkpoint = load_checkpoint(bare / "saved" / "discs_auto.pth")
    assert checkpoint.config.validation_images == ("slice1",)
    config = (bare / "config.toml").read_text(encoding="utf-8")
    (bare / "config.toml").write_text(config.replace("lr = 0.002", "lr = 0.003"), encoding="utf-8")
    again = train("--overwrite")
    assert again.exit_code == 0, again.output
    assert "version 'auto' of discs" not in again.output
    assert load_checkpoint(bare / "saved" / "discs_auto.pth").config.lr == 0.003


def test_the_trial_step_changes_nothing_of_the_training(
    bare: Path, train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train().exit_code == 0
    timed = load_checkpoint(bare / "saved" / "discs_auto.pth").weights
    monkeypatch.setattr("matseg_trainer.train.loop.expected_seconds", lambda _training: 1.0)
    assert train("--overwrite").exit_code == 0
    plain = load_checkpoint(bare / "saved" / "discs_auto.pth").weights
    assert all(np.array_equal(timed[name].numpy(), plain[name].numpy()) for name in plain)


def test_one_image_trains_without_validation_and_everything_says_so(bare: Path, train: Run) -> None:
    keep_one(bare / "data" / "discs")
    result = CliRunner().invoke(train_main, ["discs", "--workspace", str(bare)])
    assert result.exit_code == 0, result.output
    assert "nothing measures what the network does" in result.output
    assert "epoch 2 is kept: validation none: no image measures it" in result.output
    page = write_training_page(bare / "log" / "discs_auto.jsonl")
    assert "No image validates" in page.read_text(encoding="utf-8")
    lines = (bare / "log" / "discs_auto.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["validate"] for line in lines] == [None, None]
    assert json.loads(train("--overwrite", "--json").stdout)["validation"] is None
    (state,) = survey(Workspace(bare)).datasets
    assert [(item.progress, item.mean_iou, item.is_stale) for item in state.versions] == [
        ("trained", None, False)
    ]
    place = ["discs", "auto", "--workspace", str(bare)]
    assert CliRunner().invoke(export_main, place).exit_code == 0
    lower = CliRunner().invoke(export_main, [*place, "--precision", "int8", "--overwrite"])
    assert (lower.exit_code, "is measured on validation images, and auto was" in lower.output) == (2, True)
    on_none = CliRunner().invoke(evaluate_main, [*place, "--test-folder", "validate"])
    assert (on_none.exit_code, "expected images that validate, found none named" in on_none.output) == (
        2,
        True,
    )


def test_what_validated_is_evaluated_where_there_is_no_test_folder(bare: Path, train: Run) -> None:
    assert train().exit_code == 0
    place = ["discs", "auto", "--workspace", str(bare), "--no-report"]
    result = CliRunner().invoke(evaluate_main, [*place, "--overlay", "--json"])
    assert (result.exit_code, "has no test/" in result.stderr) == (0, True)
    found = json.loads(result.stdout)
    assert (found["split"], [image["stem"] for image in found["images"]]) == ("validate", ["slice1"])
    assert [path.name for path in (bare / "data" / "discs").iterdir() if path.is_dir()] == ["train"]
    shutil.copytree(bare / "data" / "discs" / "train", bare / "data" / "discs" / "test")
    result = CliRunner().invoke(evaluate_main, [*place, "--json"])
    assert (json.loads(result.stdout)["split"], "has no test/" in result.stderr) == ("test", False)


def test_a_class_of_the_validation_images_alone_is_told(bare: Path, train: Run) -> None:
    arrays = bare / "data" / "discs" / "train" / "labels_npy"
    assert train().exit_code == 0
    for stem, value in (("slice0", 0), ("slice1", 1), ("slice2", 0)):
        np.save(arrays / f"{stem}.npy", np.full((48, 64), value, np.uint8))
    for path in (bare / "data" / "discs" / "train" / "labels").iterdir():
        path.unlink()
    result = train("--overwrite")
    assert result.exit_code == 0, result.output
    assert (
        "class 1, of which the training images have no pixel; class 1 occurs in the validation"
        in result.output
    )


def test_a_validate_folder_that_came_later_is_told(bare: Path, train: Run) -> None:
    assert train().exit_code == 0
    for kind in ("images", "labels"):
        (bare / "data" / "discs" / "validate" / kind).mkdir(parents=True)
        for path in (bare / "data" / "discs" / "train" / kind).glob("slice0*"):
            path.rename(path.parents[2] / "validate" / kind / path.name)
    result = train("--overwrite")
    assert result.exit_code == 0, result.output
    assert "made before there was a validate/, whose images train now" in result.output
    assert "`matseg-prep config discs --overwrite` makes it anew" in result.output


def test_an_image_of_the_plan_that_is_gone_is_told_with_the_remedy(bare: Path, train: Run) -> None:
    assert train().exit_code == 0
    for kind in ("images", "labels"):
        for path in (bare / "data" / "discs" / "train" / kind).glob("slice1*"):
            path.unlink()
    result = train("--overwrite")
    assert result.exit_code == 2
    assert "found none of slice1" in result.output
    assert "`matseg-prep config discs --overwrite`" in result.output


def test_what_cannot_be_learned_leaves_no_plan(bare: Path, train: Run) -> None:
    shutil.rmtree(bare / "data" / "discs" / "train" / "labels")
    result = train()
    assert result.exit_code == 2
    assert "expected label images, or a classes.toml, that tell the classes, found none" in result.output
    assert not (bare / "config.toml").exists()


def test_long_trainings_are_told_how_to_be_shortened() -> None:
    assert time_words(20, "CPU") == "under a minute on this CPU"
    assert time_words(540, "CPU") == "about 9 min on this CPU"
    assert time_words(cost.LONG + 60, "CPU").startswith("about 21 min on this CPU; `epoch`, `steps`")


def test_a_plan_of_other_classes_than_the_labels_have_now_is_to_be_made_anew(bare: Path, train: Run) -> None:
    prep = ["labels", "discs", "train", "--workspace", str(bare)]
    assert CliRunner().invoke(prep_main, prep).exit_code == 0
    (bare / "config.toml").write_text(
        '[discs.auto]\nmodel = "unet"\nwidth = 2\nn_class = 9\nvalidation_images = []\n', encoding="utf-8"
    )
    result = train()
    assert result.exit_code == 2
    assert "the version's n_class is 9; `matseg-prep config discs --overwrite` makes it anew" in result.output
