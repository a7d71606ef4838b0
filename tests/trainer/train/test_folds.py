"""Cross-validation: each image is predicted by trainings that have not seen it, whatever interrupts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from discs import write_discs
from PIL import Image

from matseg_shared.contract.classes import write_classes
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.images.channels import to_channels
from matseg_shared.images.read import read_image
from matseg_shared.pages.page import is_installed
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.commands.report import report_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.evaluate.document import EvaluationDocument, read_evaluation
from matseg_trainer.overview.survey import survey
from matseg_trainer.overview.table import print_state
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.predict.tiled import TorchPredictor
from matseg_trainer.train import folds as folds_module
from matseg_trainer.train.console import Progress
from matseg_trainer.train.device import choose_compute
from matseg_trainer.train.folds import FoldsRequest, share_out
from matseg_trainer.train.step import RunningScore
from matseg_trainer.train.training import Training
from matseg_trainer.workspace import Workspace

CONFIG = """
[discs.v1]
model = "unet"
n_class = 2
width = 2
epoch = 2
lr = 0.01
crop = 32
amp = "fp32"
"""
STEMS = ("slice0", "slice1", "slice2", "slice3", "held0")


def make(root: Path, *, held: int = 1) -> Path:
    """A workspace with four images in train/, and some in validate/ under other names."""
    (root / "config.toml").write_text(CONFIG, encoding="utf-8")
    write_discs(root, {"train": 4, "validate": held, "test": 1})
    for path in [*(root / "data" / "discs" / "validate").glob("*/slice*")]:
        path.rename(path.with_name(path.name.replace("slice", "held")))
    return root


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After two folds with two seeds; not to be changed."""
    place = make(tmp_path_factory.mktemp("finished"))
    result = run(place, "--folds", "2", "--seeds", "2", "--report")
    assert result.exit_code == 0, result.output
    return place


def run(place: Path, *words: str) -> Result:
    return CliRunner().invoke(train_main, ["discs", "v1", *words, "--workspace", str(place)])


def document_of(place: Path) -> EvaluationDocument:
    return read_evaluation(place / "log" / "discs_v1.folds.json")


def said(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(("count", "folds"), [(2, 2), (7, 3), (20, 5)])
def test_folds_are_of_nearly_one_size_and_hold_each_image_once(
    count: int, folds: int, *, blocks: bool
) -> None:
    shared = share_out(count, FoldsRequest(folds=folds, blocks=blocks), seed=3)
    assert sorted(index for part in shared for index in part) == list(range(count))
    assert max(map(len, shared)) - min(map(len, shared)) <= 1
    if blocks:
        assert [index for part in shared for index in part] == list(range(count))


def test_folds_are_those_of_the_seed() -> None:
    request = FoldsRequest(folds=5)
    assert share_out(20, request, 1) == share_out(20, request, 1) != share_out(20, request, 2)


def test_every_image_is_predicted_by_who_has_not_seen_it(finished: Path) -> None:
    document, log = document_of(finished), finished / "log"
    folds = document.folds
    assert folds is not None
    assert [(one.fold, one.seed) for one in folds.trainings] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    assert sorted(stem for stems in folds.images for stem in stems) == sorted(STEMS)
    assert sorted(image.stem for image in document.images) == sorted(STEMS)
    assert sorted(image.disagreement.rank for image in document.images) == [1, 2, 3, 4, 5]
    device = choose_compute(gpu=False, amp="fp32").device
    for number, stems in enumerate(folds.images, start=1):
        trainings = [load_checkpoint(log / one.checkpoint) for one in folds.trainings if one.fold == number]
        assert [one.training.seed for one in trainings] == [0, 1]
        assert all(tuple(one.training.config["validation_images"]) == stems for one in trainings)
        predictors = [TorchPredictor.of(one.network(), one.input, device) for one in trainings]
        for image in (image for image in document.images if image.stem in stems):
            pixels = to_channels(read_image(log / image.image), 1, log / image.image)
            mean = np.mean([one.predict(pixels)[1] for one in predictors], axis=0)
            predicted = np.asarray(Image.open(log / image.prediction))
            assert (predicted == mean.argmax(axis=0)).mean() > 0.999
            assert image.label is not None


def test_the_summary_is_of_the_last_epoch_of_each_training(finished: Path) -> None:
    folds = document_of(finished).folds
    assert folds is not None
    for one in folds.trainings:
        log = finished / "log" / f"discs_v1.fold{one.fold}.seed{one.seed}.jsonl"
        last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        assert (one.epoch, one.mean_iou, one.accuracy) == (
            2,
            last["validate"]["mean_iou"],
            last["validate"]["accuracy"],
        )
        assert list(one.iou) == last["validate"]["iou"]
    values = [one.mean_iou for one in folds.trainings]
    spread = folds.mean_iou
    assert (spread.images, spread.minimum, spread.maximum) == (4, min(values), max(values))
    assert spread.median == pytest.approx(np.median(values))


@pytest.mark.parametrize("named", [{}, {"checkpoint": "best"}])
def test_no_epoch_is_chosen_by_the_images_that_measure(named: dict[str, str]) -> None:
    version = VersionConfig.model_validate({"model": "unet", "n_class": 2, **named})
    assert version.of_fold(["a"]).checkpoint == "last"


@pytest.mark.skipif(not is_installed(), reason="needs the extra report")
def test_one_page_shows_the_folds_and_is_made_again_from_the_document(finished: Path) -> None:
    page = finished / "plots" / "discs_v1.folds.html"
    text = page.read_text(encoding="utf-8")
    assert all(word in text for word in ("cross-validated", "fold 2, seed 1", *STEMS))
    page.unlink()
    log = finished / "log" / "discs_v1.folds.json"
    result = CliRunner().invoke(report_main, [str(log), "--json"])
    assert json.loads(result.stdout)["kind"] == "evaluation"
    assert page.exists()


def test_matseg_shows_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    state = survey(Workspace(finished))
    found = [item for item in state.datasets[0].versions[0].evaluations if item.split == "folds"]
    assert [item.is_stale for item in found] == [False]
    print_state(Console(width=120), state)
    out = capsys.readouterr().out
    assert "folds IoU" in out
    assert f"{found[0].mean_iou:.4f}" in out


def test_a_training_of_a_fold_is_evaluated_and_exported_by_its_name(finished: Path) -> None:
    words = ["discs", "v1.fold2.seed1", "--workspace", str(finished)]
    result = CliRunner().invoke(evaluate_main, [*words, "--test-folder", "validate", "--json", "--no-report"])
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.stderr
    folds = document_of(finished).folds
    assert folds is not None
    one = folds.trainings[3]
    assert json.loads(result.stdout)["mean_iou"] == pytest.approx(one.mean_iou)
    result = CliRunner().invoke(export_main, [*words, "--json", "--overwrite"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["name"] == "discs_v1.fold2.seed1"


def test_an_interruption_in_the_middle_of_a_fold_costs_nothing(
    finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training.train_epoch

    def interrupted(self: Training, epoch: int, progress: Progress) -> RunningScore:
        if epoch == 2 and self.job.version == "v1.fold2.seed0":
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    monkeypatch.setattr(Training, "train_epoch", interrupted)
    result = run(place, "--folds", "2")
    assert (result.exit_code, "--resume" in result.output) == (130, True)
    assert not (place / "log" / "discs_v1.folds.json").exists()
    monkeypatch.setattr(Training, "train_epoch", original)
    refused = run(place, "--folds", "2")
    assert (refused.exit_code, "--resume to keep what is trained" in said(refused)) == (2, True)
    first = place / "saved" / "discs_v1.fold1.seed0.pth"
    before = first.stat().st_mtime_ns
    result = run(place, "--folds", "2", "--resume")
    assert result.exit_code == 0, result.output
    assert first.stat().st_mtime_ns == before
    mine, whole = document_of(place).folds, document_of(finished).folds
    assert mine is not None
    assert whole is not None
    assert mine.images == whole.images
    scores = [(one.fold, one.mean_iou, one.iou) for one in mine.trainings]
    assert scores == [(one.fold, one.mean_iou, one.iou) for one in whole.trainings[:2]]
    assert not list((place / "saved").glob("*.resume.pth"))


def test_seeds_are_added_to_what_is_trained_and_other_data_are_not(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(finished, place)
    names = [f"discs_v1.fold{fold}.seed1" for fold in (1, 2)]
    for name in names:
        (place / "saved" / f"{name}.pth").unlink()
    assert run(place, "--folds", "2", "--seeds", "2", "--resume").exit_code == 0
    assert all((place / "saved" / f"{name}.pth").exists() for name in names)
    array = place / "data" / "discs" / "train" / "labels_npy" / "slice0.npy"
    np.save(array, 1 - np.load(array))
    result = run(place, "--folds", "2", "--resume")
    assert (result.exit_code, "images or labels have changed" in said(result)) == (2, True)
    result = run(place, "--folds", "3", "--resume")
    assert (result.exit_code, "validation_images: trained with" in said(result)) == (2, True)


def test_an_interruption_after_the_trainings_is_told_how_to_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "copy"
    shutil.copytree(finished, place)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folds_module, "evaluate_parts", interrupted)
    result = run(place, "--folds", "2", "--resume")
    assert (result.exit_code, "go on with --resume" in result.output) == (130, True)


def test_two_processes_train_all_folds_and_one_evaluates(place: Path) -> None:
    for split in ("train", "validate"):
        shutil.rmtree(place / "data" / "discs" / split / "labels_npy")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    program = "from matseg_trainer.commands.train import train_main; train_main()"
    done = subprocess.run(
        [sys.executable, *torchrun, sys.executable, "-c", program, "discs", "v1", "--folds", "2"],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 process(es)") == 2
    assert done.stdout.count("worst images first") == 1
    document = document_of(place)
    assert document.folds is not None
    assert [(one.fold, one.seed) for one in document.folds.trainings] == [(1, 0), (2, 0)]


def test_a_class_that_only_one_fold_has_is_told(place: Path) -> None:
    root = place / "data" / "discs"
    array = root / "train" / "labels_npy" / "slice2.npy"
    labels = np.load(array)
    labels[:5, :5] = 2
    np.save(array, labels)
    for path in (root / "train" / "labels").iterdir():
        path.unlink()
    shutil.rmtree(root / "validate")
    names = ("matrix", "disc", "crack")
    classes = [ClassInfo(index=i, name=name, colour=(i, i, i), label_value=i) for i, name in enumerate(names)]
    write_classes(root / "classes.toml", classes)
    config = CONFIG.replace("n_class = 2", "n_class = 3").replace("epoch = 2", "epoch = 1")
    (place / "config.toml").write_text(config, encoding="utf-8")
    result = run(place, "--folds", "2")
    assert result.exit_code == 0, result.output
    folds = document_of(place).folds
    assert folds is not None
    number = next(index for index, stems in enumerate(folds.images, start=1) if "slice2" in stems)
    assert [f"fold {number} is trained without crack" in note for note in folds.notes] == [True]
    assert folds.notes[0] in said(result)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds", "6"], "an image for each of 6 folds, found 5 in train/ and validate/; give --folds 5"),
        (["--seeds", "2"], "--seeds applies with --folds only"),
        (["--folds", "2", "--no-save"], "--folds and --no-save cannot be combined"),
        (["--folds", "1"], "1 is not in the range x>=2"),
    ],
)
def test_what_cannot_be_done(place: Path, words: list[str], told: str) -> None:
    result = run(place, *words)
    assert result.exit_code == 2
    assert told in said(result)
    assert not (place / "saved").exists()


def test_one_image_has_no_folds(place: Path) -> None:
    shutil.rmtree(place / "data" / "discs" / "validate")
    for path in (place / "data" / "discs" / "train").glob("*/slice[123]*"):
        path.unlink()
    result = run(place, "--folds", "2")
    assert (result.exit_code, "found 1 in train/ and validate/; label more" in said(result)) == (2, True)


def test_two_images_of_one_name_are_told(place: Path) -> None:
    for path in (place / "data" / "discs" / "validate").glob("*/held0*"):
        path.rename(path.with_name(path.name.replace("held", "slice")))
    result = run(place, "--folds", "2")
    assert (result.exit_code, "train/slice0.png and validate/slice0.png" in said(result)) == (2, True)
