"""A teacher's probabilities reach the views, unlabelled images are learned from, and a resume needs the same ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from matseg_trainer.commands.cli import train_main
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.augment import IGNORED
from matseg_trainer.data.dataset import Batch, LabelledImages, input_statistics
from matseg_trainer.data.folder import Dataset
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.predict.tiled import TorchPredictor
from matseg_trainer.train.device import choose_compute
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.step import RunningScore, TrainStep
from matseg_trainer.train.teacher import TaughtImages, Teacher
from matseg_trainer.workspace import Workspace

STUDENTS = """
[discs.student]
model = "{network}"
width = 2
crop = 32
epoch = 2
aug = true
samples = 100
precision = "fp32"
"""


def run(workspace: Path, *arguments: str) -> Result:
    return CliRunner().invoke(train_main, [*arguments, "--workspace", str(workspace)])


@pytest.fixture
def taught(workspace: Path) -> Path:
    """A workspace with a trained teacher, and a folder of raw images."""
    assert run(workspace, "discs", "v1").exit_code == 0
    raw = workspace / "raw"
    raw.mkdir()
    for image in (workspace / "data" / "discs" / "validate" / "images").iterdir():
        shutil.copy2(image, raw)
    return workspace


def add_student(workspace: Path, network: str = "unet") -> None:
    with (workspace / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write(STUDENTS.format(network=network))


@pytest.mark.parametrize("network", ["unet", "pixelnet"])
def test_a_student_learns_from_labels_and_raw_images(taught: Path, network: str) -> None:
    add_student(taught, network)
    words = ["discs", "student", "--teacher", "discs_v1", "--unlabelled", str(taught / "raw")]
    result = run(taught, *words)
    assert result.exit_code == 0, result.output
    teacher = load_checkpoint(taught / "saved" / "discs_student.pth").training.teacher
    assert teacher is not None
    assert teacher.name == "discs_v1"
    assert teacher.unlabelled == len(list((taught / "raw").iterdir()))
    alone = run(taught, "discs", "student", "--overwrite")
    assert alone.exit_code == 0
    assert load_checkpoint(taught / "saved" / "discs_student.pth").training.teacher is None


def test_raw_images_have_probabilities_and_no_labels(taught: Path) -> None:
    dataset = Dataset.open(taught / "data" / "discs")
    labelled = LabelledImages(dataset.samples("train"), channels=1, n_class=2)
    teacher = Teacher.load(Workspace.find(taught), "discs_v1", torch.device("cpu"), taught / "raw")
    images = TaughtImages(labelled, teacher, input_statistics(labelled))
    assert len(images) == len(labelled) + len(teacher.unlabelled)
    first, last = images[0], images[len(images) - 1]
    assert (first.labels == labelled[0].labels).all()
    assert (last.labels == IGNORED).all()
    for image in (first, last):
        assert image.soft.shape == (2, *image.pixels.shape[1:])
        np.testing.assert_allclose(image.soft.astype(np.float32).sum(axis=0), 1, atol=2e-3)


def test_a_teacher_alone_can_teach(workspace: Path) -> None:
    """Of pixels without labels only the teacher's probabilities say what they are."""
    dataset = Dataset.open(workspace / "data" / "discs")
    image = LabelledImages(dataset.samples("train"), channels=1, n_class=2)[0]
    truth = torch.from_numpy(image.labels.astype(np.int64)).unsqueeze(0)
    batch = Batch(
        images=torch.from_numpy(image.pixels).unsqueeze(0),
        labels=torch.full_like(truth, IGNORED),
        pixels=torch.zeros(1, 1, dtype=torch.int64),
        soft=torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).half(),
    )
    config = VersionConfig.model_validate({"model": "unet", "n_class": 2, "width": 4, "lr": 0.01})
    torch.manual_seed(0)
    network = build_network("unet", in_channels=1, n_class=2, width=4)
    info = input_statistics([image])
    stepper = TrainStep(
        network,
        config,
        info,
        choose_compute(gpu=False, precision="fp32"),
        DistributedContext(rank=0, size=1),
        None,
    )
    score = RunningScore(n_class=2)
    for _ in range(40):
        stepper.step(batch, score)
    assert score.matrix.sum() == 0
    result = TorchPredictor.of(stepper.network.eval(), info, torch.device("cpu"))
    assert np.mean(result.predict(image.pixels)[0] == image.labels) > 0.9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--teacher", "discs_v9"), "expected the checkpoint of --teacher discs_v9"),
        (("--unlabelled", "raw"), "--unlabelled needs a --teacher"),
        (("--teacher", "discs_v1", "--unlabelled", "nowhere"), "expected a folder of raw images"),
        (("--teacher", "missing.onnx"), "missing.onnx"),
    ],
)
def test_what_cannot_be_used_is_named(taught: Path, words: tuple[str, ...], told: str) -> None:
    result = run(taught, "discs", "v2", *words)
    assert result.exit_code != 0
    assert told in " ".join(result.output.split())


def test_a_teacher_of_other_images_is_refused(taught: Path) -> None:
    for split in ("train", "validate"):
        for path in (taught / "data" / "discs" / split / "images").iterdir():
            grey = np.asarray(Image.open(path))
            Image.fromarray(np.stack([grey, grey // 2, grey], axis=-1)).save(path)
    result = run(taught, "discs", "v2", "--teacher", "discs_v1")
    assert result.exit_code == 2
    assert "1 and uint8" in " ".join(result.output.split())


def test_a_resume_needs_the_same_teacher(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matseg_trainer.train.loop import Training

    add_student(taught)
    original = Training._train_epoch

    def interrupted(self, epoch, progress):  # type: ignore[no-untyped-def]
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    monkeypatch.setattr(Training, "_train_epoch", interrupted)
    run(taught, "discs", "student", "--teacher", "discs_v1")
    monkeypatch.setattr(Training, "_train_epoch", original)
    refused = run(taught, "discs", "student", "--resume")
    assert refused.exit_code == 2
    assert "teacher: was discs_v1" in " ".join(refused.output.split())
    assert run(taught, "discs", "student", "--resume", "--teacher", "discs_v1").exit_code == 0
