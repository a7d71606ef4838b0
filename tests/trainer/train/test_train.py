"""Training does what config.toml says, repeats exactly, survives interruption, and never loses a result."""

from __future__ import annotations

import errno
import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner, Result
from discs import unlabel
from PIL import Image

from matseg_shared.errors import ModelError, OutputError, UnsupportedError
from matseg_shared.installation import install_command
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.dataset import EpochSampler
from matseg_trainer.data.examples import IGNORED, Examples
from matseg_trainer.data.folder import Dataset
from matseg_trainer.data.statistics import SplitStatistics, representative_crop
from matseg_trainer.overview.state import VersionState
from matseg_trainer.overview.survey import survey
from matseg_trainer.predict.checkpoint import Checkpoint, load_checkpoint, save_tensors
from matseg_trainer.train import distributed, loop, training
from matseg_trainer.train.console import Progress
from matseg_trainer.train.device import choose_compute
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.losses import weighted_cross_entropy
from matseg_trainer.train.schedule import LearningRate
from matseg_trainer.train.step import RunningScore
from matseg_trainer.train.training import Training
from matseg_trainer.workspace import Workspace
from models_zoo.build.build import kept_mean_iou


def run(workspace: Path, *arguments: str) -> Result:
    return CliRunner().invoke(train_main, [*arguments, "--workspace", str(workspace)])


def log_of(workspace: Path, version: str) -> list[dict]:
    lines = (workspace / "log" / f"discs_{version}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def weights_of(workspace: Path, version: str) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(workspace / "saved" / f"discs_{version}.pth").weights)


def test_label_images_are_read_without_arrays(workspace: Path) -> None:
    assert run(workspace, "discs", "v1").exit_code == 0
    expected = log_of(workspace, "v1")
    root = workspace / "data" / "discs"
    for split in ("train", "validate"):
        shutil.rmtree(root / split / "labels_npy")
    (root / "classes.toml").unlink()
    result = run(workspace, "discs", "v1", "--overwrite")
    assert result.exit_code == 0, result.output
    assert log_of(workspace, "v1") == expected
    assert [item.label_value for item in Dataset.open(root).classes] == [0, 255]


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_each_network_trains(workspace: Path, version: str) -> None:
    result = run(workspace, "discs", version)
    assert result.exit_code == 0, result.output
    records = log_of(workspace, version)
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    assert all(0 <= record[split]["accuracy"] <= 1 for record in records for split in ("train", "validate"))
    checkpoint = load_checkpoint(workspace / "saved" / f"discs_{version}.pth")
    best = max(records, key=lambda record: record["validate"]["mean_iou"])
    assert checkpoint.training.epoch == best["epoch"]
    assert checkpoint.training.metrics == best["validate"]
    assert checkpoint.sample.dtype == np.uint8
    assert (workspace / "plots" / f"discs_{version}.png").stat().st_size > 10_000
    assert not (workspace / "saved" / f"discs_{version}.resume.pth").exists()


def test_images_that_are_named_validate_and_all_others_train(workspace: Path) -> None:
    """Evaluation and overview know whether they lie in train/ or in validate/."""
    root = workspace / "data" / "discs"
    shutil.rmtree(root / "validate")
    settings = "model = 'unet'\nwidth = 4\nepoch = 2\ncrop = 32\n"
    with (workspace / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write(f"[discs.held]\n{settings}validation_images = ['slice1', 'slice3']\n")
        stream.write(f"[discs.folder]\n{settings}")
    result = run(workspace, "discs", "held", "--no-report")
    assert result.exit_code == 0, result.output
    assert "3 to train, 2 to validate" in result.output
    evaluated = ["discs", "held", "--test-folder", "validate", "--workspace", str(workspace), "--json"]
    result = CliRunner().invoke(evaluate_main, [*evaluated, "--no-report"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert sorted(image["stem"] for image in document["images"]) == ["slice1", "slice3"]
    kept = load_checkpoint(workspace / "saved" / "discs_held.pth").training
    assert document["mean_iou"] == pytest.approx(kept.metrics["mean_iou"])
    assert not version_state_of(workspace, "held").is_stale

    for split in ("images", "labels", "labels_npy"):
        (root / "validate" / split).mkdir(parents=True)
        for path in [*(root / "train" / split).glob("slice[13]*")]:
            path.rename(root / "validate" / split / path.name)
    result = run(workspace, "discs", "folder", "--no-report")
    assert result.exit_code == 0, result.output
    assert log_of(workspace, "folder") == log_of(workspace, "held")
    assert run(workspace, "discs", "held", "--overwrite").exit_code == 0
    assert log_of(workspace, "held") == log_of(workspace, "folder")


def version_state_of(workspace: Path, version: str) -> VersionState:
    states = {item.version: item for item in survey(Workspace(workspace)).datasets[0].versions}
    return states[version]


@pytest.mark.parametrize(("choice", "epoch"), [("best", 1), ("last", 3)])
def test_the_epoch_that_checkpoint_names_is_kept(
    workspace: Path, choice: str, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All epochs but the first are made to look as if everything were labelled the wrong way round."""
    original = Training.validate

    def worse_and_worse(self: Training, number: int, progress: Progress) -> RunningScore:
        score = original(self, number, progress)
        if number > 1:
            score.matrix[:] = np.diag(score.matrix.sum(axis=1))[::-1]
        else:
            score.matrix[:] = np.diag(score.matrix.sum(axis=1))
        return score

    monkeypatch.setattr(Training, "validate", worse_and_worse)
    text = f"[discs.kept]\nmodel = 'unet'\nwidth = 4\nepoch = 3\ncheckpoint = '{choice}'\n"
    with (workspace / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write(text)
    result = run(workspace, "discs", "kept", "--json")
    assert result.exit_code == 0, result.output
    records = log_of(workspace, "kept")
    assert [record["validate"]["mean_iou"] for record in records] == [1, 0, 0]
    said = json.loads(result.stdout)
    assert (said["kept_epoch"], said["validation"]["mean_iou"]) == (epoch, float(epoch == 1))
    kept = load_checkpoint(workspace / "saved" / "discs_kept.pth")
    assert kept.training.epoch == epoch
    assert int(kept.weights["encoder.0.1.num_batches_tracked"]) == epoch * steps_of(workspace)
    assert kept_mean_iou(workspace / "log" / "discs_kept.jsonl") == float(epoch == 1)


def steps_of(workspace: Path) -> int:
    """Steps of an epoch that shows each training image once, four at a time."""
    images = len(Dataset.open(workspace / "data" / "discs").samples("train"))
    return len(EpochSampler(VersionConfig(model="unet", n_class=2), images))


def test_the_crop_that_travels_with_a_checkpoint_is_chosen_once(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where every epoch is kept."""
    chosen: list[np.ndarray] = []

    def choose(*arguments: object) -> np.ndarray:
        chosen.append(representative_crop(*arguments))  # type: ignore[arg-type]
        return chosen[-1]

    monkeypatch.setattr(training, "representative_crop", choose)
    with (workspace / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write("[discs.last]\nmodel = 'unet'\nwidth = 2\nepoch = 3\ncheckpoint = 'last'\n")
    assert run(workspace, "discs", "last").exit_code == 0
    assert len(chosen) == 1
    sample = load_checkpoint(workspace / "saved" / "discs_last.pth").sample
    np.testing.assert_array_equal(sample, chosen[0])


def test_it_learns(workspace: Path) -> None:
    run(workspace, "discs", "v1")
    records = log_of(workspace, "v1")
    assert records[-1]["train"]["loss"] < 0.7 * records[0]["train"]["loss"]


def test_a_seeded_run_repeats_exactly_and_another_seed_does_not(workspace: Path) -> None:
    run(workspace, "discs", "v1", "--seed", "5")
    first, log = weights_of(workspace, "v1"), log_of(workspace, "v1")
    run(workspace, "discs", "v1", "--seed", "5", "--overwrite")
    assert log_of(workspace, "v1") == log
    assert all(torch.equal(tensor, first[name]) for name, tensor in weights_of(workspace, "v1").items())
    run(workspace, "discs", "v1", "--seed", "6", "--overwrite")
    assert log_of(workspace, "v1") != log


EVERYTHING = """
[discs.everything]
model = "patchunet"
width = 8
crop = 32
batch_size = 4
crops_per_image = 2
lr = 0.01
epoch = 3
oversample_classes = 0.5
loss = "dice"
aug = "turns"
balance = true
schedule = "polynomial"
optimizer = "SGD"
amp = "bf16"
"""


@pytest.mark.parametrize("version", ["v1", "v3", "everything"])
def test_resume_is_bit_for_bit(workspace: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = (workspace / "config.toml").read_text(encoding="utf-8").replace("epoch = 1\n", "epoch = 3\n")
    config += EVERYTHING
    (workspace / "config.toml").write_text(config, encoding="utf-8")
    run(workspace, "discs", version)
    expected, log = weights_of(workspace, version), log_of(workspace, version)

    original = Training.train_epoch

    def interrupted(self: Training, epoch: int, progress: Progress) -> RunningScore:
        if epoch == 3:
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    monkeypatch.setattr(Training, "train_epoch", interrupted)
    result = run(workspace, "discs", version, "--overwrite")
    assert result.exit_code == 130
    assert "--resume" in result.output
    assert len(log_of(workspace, version)) == 2
    monkeypatch.setattr(Training, "train_epoch", original)
    refused = run(workspace, "discs", version)
    assert refused.exit_code == 2
    assert "--resume" in refused.output
    assert run(workspace, "discs", version, "--resume").exit_code == 0
    assert log_of(workspace, version) == log
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(workspace, version).items())


def test_a_lost_process_that_loads_images_is_told(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the system ends it for want of memory; a training goes on with another number of them."""
    original = Training.validate

    def lost(self: Training, epoch: int, progress: Progress) -> RunningScore:
        if epoch == 2:
            worker = multiprocessing.active_children()[0].pid
            os.kill(worker, signal.SIGKILL)
            os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)  # the training is to find it, too
        return original(self, epoch, progress)

    monkeypatch.setattr(Training, "validate", lost)
    config = workspace / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(
        f"{text}\n[discs.led]\nmodel = 'unet'\nwidth = 4\nepoch = 3\nworkers = 1\n", encoding="utf-8"
    )
    result = run(workspace, "discs", "led")
    assert result.exit_code == 1
    assert "lower `workers` of discs_led in config.toml (now 1)" in result.output
    assert "unexpected" not in result.output
    assert len(log_of(workspace, "led")) == 2, (
        "the epoch in which it was lost has all its batches, and is saved"
    )
    assert weights_of(workspace, "led")
    config.write_text(
        config.read_text(encoding="utf-8").replace("workers = 1", "workers = 0"), encoding="utf-8"
    )
    monkeypatch.setattr(Training, "validate", original)
    result = run(workspace, "discs", "led", "--resume")
    assert result.exit_code == 0, result.output


def test_resume_refuses_what_has_changed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Training.train_epoch

    def interrupted(self: Training, epoch: int, progress: Progress) -> RunningScore:
        if epoch > 1:
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    monkeypatch.setattr(Training, "train_epoch", interrupted)
    run(workspace, "discs", "v1")
    config = (workspace / "config.toml").read_text(encoding="utf-8").replace("lr = 0.01", "lr = 0.02")
    (workspace / "config.toml").write_text(config, encoding="utf-8")
    label = workspace / "data" / "discs" / "train" / "labels_npy" / "slice0.npy"
    np.save(label, 1 - np.load(label))
    result = run(workspace, "discs", "v1", "--resume", "--seed", "9")
    assert result.exit_code == 2
    for fact in ("lr: trained with 0.01, now 0.02", "seed: was 0, now 9", "data: "):
        assert fact in result.output


def test_two_trainings_of_one_version(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second would write over the checkpoint of the first, and leave a log that is not that of the weights."""
    run(workspace, "discs", "v1")
    expected, log = weights_of(workspace, "v1"), log_of(workspace, "v1")
    original = Training.train_epoch
    seconds: list[Result] = []

    def joined(self: Training, epoch: int, progress: Progress) -> RunningScore:
        if not seconds:
            for options in ((), ("--overwrite",), ("--resume",)):
                seconds.append(run(workspace, "discs", "v1", "--seed", "1", *options))
            seconds.append(run(workspace, "discs", "v2"))  # another version is nobody's business
        return original(self, epoch, progress)

    monkeypatch.setattr(Training, "train_epoch", joined)
    result = run(workspace, "discs", "v1", "--overwrite")
    assert result.exit_code == 0, result.output
    for second in seconds[:3]:
        assert second.exit_code == 2
        assert "another matseg-train works on this version at this moment; wait for it" in second.output
    assert seconds[3].exit_code == 0, seconds[3].output
    assert log_of(workspace, "v1") == log
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(workspace, "v1").items())
    assert run(workspace, "discs", "v1", "--overwrite").exit_code == 0  # nobody holds the lock any more


def test_nothing_to_resume(workspace: Path) -> None:
    result = run(workspace, "discs", "v1", "--resume")
    assert result.exit_code == 2
    assert "no interrupted training" in result.output


@pytest.mark.parametrize(("failing", "code"), [("interrupted", 130), ("diverging", 2), ("full", 1)])
def test_overwrite_keeps_the_earlier_result_until_the_first_epoch_is_done(
    workspace: Path, failing: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace, "discs", "v2")
    files = [path for folder in ("saved", "log", "plots") for path in sorted((workspace / folder).iterdir())]
    before = {path: path.read_bytes() for path in files}
    if failing == "interrupted":

        def interrupt(_self: Training, _epoch: int, _progress: Progress) -> RunningScore:
            raise KeyboardInterrupt

        monkeypatch.setattr(Training, "validate", interrupt)
    elif failing == "full":

        def full(path: Path, _checkpoint: Checkpoint) -> None:
            raise OutputError(f"{path}: cannot be written: no space is left on that disk")

        monkeypatch.setattr(loop, "save_checkpoint", full)
    else:
        config = (workspace / "config.toml").read_text(encoding="utf-8").replace("lr = 0.01", "lr = 1e30")
        (workspace / "config.toml").write_text(config, encoding="utf-8")
    result = run(workspace, "discs", "v2", "--overwrite")
    assert result.exit_code == code
    assert "--resume" not in result.output
    assert {path: path.read_bytes() for path in files} == before


def test_curves_are_drawn_at_the_end_and_in_a_long_training_meanwhile(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        loop, "plot_training", lambda _path, _title, log, _classes: drawn.append(len(log.epochs))
    )
    run(workspace, "discs", "v1")
    assert drawn == [3]
    monkeypatch.setattr(loop, "_DRAWN_AGAIN", 0.0)
    run(workspace, "discs", "v1", "--overwrite")
    assert drawn == [3, 1, 2, 3, 3]


def test_an_existing_result_is_kept_without_overwrite(workspace: Path) -> None:
    run(workspace, "discs", "v2")
    before = (workspace / "saved" / "discs_v2.pth").read_bytes()
    result = run(workspace, "discs", "v2")
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert (workspace / "saved" / "discs_v2.pth").read_bytes() == before


@pytest.mark.parametrize("folder", ["saved", "plots"])
def test_a_folder_that_cannot_be_written_is_told_before_the_first_epoch(
    workspace: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    monkeypatch.setattr(Training, "run_epoch", lambda self, _: epochs.append(len(self.records)))
    (workspace / folder).write_text("in the way", encoding="utf-8")
    result = run(workspace, "discs", "v2")
    assert result.exit_code == OutputError.exit_code
    assert f"{workspace / folder / 'discs_v2'}" in result.stderr
    assert "cannot be written: a file stands where a folder is needed" in result.stderr
    assert epochs == []


def test_no_save_keeps_no_checkpoint(workspace: Path) -> None:
    assert run(workspace, "discs", "v2", "--no-save").exit_code == 0
    assert not (workspace / "saved").exists()
    assert (workspace / "log" / "discs_v2.jsonl").exists()


def test_two_processes_train_one_network(workspace: Path, tmp_path: Path) -> None:
    config = (
        (workspace / "config.toml").read_text(encoding="utf-8").replace("batch_size = 2", "batch_size = 4")
    )
    (workspace / "config.toml").write_text(config, encoding="utf-8")
    run(workspace, "discs", "v1")
    alone = log_of(workspace, "v1")
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(workspace / "data", other / "data")
    shutil.copy(workspace / "config.toml", other)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--no-python",
    ]
    command = [
        *torchrun,
        sys.executable,
        "-c",
        "from matseg_trainer.commands.train import train_main; train_main()",
        "discs",
        "v1",
    ]
    done = subprocess.run(
        command,
        cwd=other,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es)" in done.stdout
    together = log_of(other, "v1")
    # The same steps on the same samples: they part by batch norm, of which each process sees its own half
    assert together[0]["train"]["loss"] == pytest.approx(alone[0]["train"]["loss"], rel=0.2)
    assert together[-1]["train"]["loss"] < 0.8 * together[0]["train"]["loss"]
    assert [record["lr"] for record in together] == [record["lr"] for record in alone]


def test_a_step_shared_by_three_processes_is_the_step_of_one(tmp_path: Path) -> None:
    """But for batch norm; two samples leave a process without one, four are shared unevenly, three change nothing."""
    import shared_steps

    processes = torch.multiprocessing.get_context("spawn")
    workers = [processes.Process(target=shared_steps.together, args=(rank, 3, tmp_path)) for rank in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(timeout=300)
        assert process.exitcode == 0
    shared = torch.load(tmp_path / "changes.pt")
    for (case, expected), found in zip(shared_steps.alone(), shared, strict=True):
        apart = sum(float((tensor - found[name]).square().sum()) for name, tensor in expected.items())
        size = sum(float(tensor.square().sum()) for tensor in expected.values())
        assert apart**0.5 <= 1e-3 * size**0.5, case
        assert (size == 0) == (case == ("dice", 3)), "nothing is learned where nothing is labelled"


def test_without_a_gpu_it_says_so_and_trains(workspace: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run(workspace, "discs", "v2", "--gpu")
    assert result.exit_code == 0
    assert "Warning: training on the CPU: no GPU" in result.output


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(UnsupportedError, match="needs a GPU"):
        choose_compute(gpu=False, amp="fp16")


def test_a_missing_data_set_shows_layout_and_source(workspace: Path) -> None:
    (workspace / "config.toml").write_text('[tomography.v7]\nmodel = "unet"\nn_class = 2\n', encoding="utf-8")
    result = run(workspace, "tomography", "v7")
    assert result.exit_code == 2
    for fact in ("train/images", "labels", "10.18126/M2RM08", "10.18126/M2W93J"):
        assert fact in result.output


def test_bad_data_is_named(workspace: Path) -> None:
    images = workspace / "data" / "discs" / "train" / "images"
    arrays = workspace / "data" / "discs" / "train" / "labels_npy"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(images / "slice1.png")
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "slice1" in result.output
    np.save(arrays / "slice1.npy", np.zeros((20, 20), np.uint8))
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "slice1.png (20 x 20)" in result.output
    assert "`size`" in result.output
    np.save(arrays / "slice1.npy", np.full((20, 20), 7, np.uint8))
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "slice1.npy" in result.output
    assert "7" in result.output
    np.save(arrays / "slice1.npy", np.zeros((20, 20), np.uint8))
    (images / "slice1.png").write_text("not an image", encoding="utf-8")
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "slice1.png" in result.output
    assert "Traceback" not in result.output


def test_images_of_one_value_are_refused(workspace: Path) -> None:
    for path in (workspace / "data" / "discs" / "train" / "images").iterdir():
        Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "found one and the same value in all their pixels" in " ".join(result.output.split())


def test_the_main_process_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(distributed.dist, "barrier", lambda: done.append("met"))
    for rank in (0, 1):
        with DistributedContext(rank=rank, size=2).main_first():
            done.append(f"through {rank}")
    assert done == ["through 0", "met", "met", "through 1"]


def test_validation_images_have_the_size_of_the_version_too(workspace: Path) -> None:
    folder = workspace / "data" / "discs" / "validate"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "images" / "slice1.png")
    np.save(folder / "labels_npy" / "slice1.npy", np.zeros((20, 20), np.uint8))
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "validate" in result.output
    assert (
        "expected images of 48 x 64 pixels (`size` of this version), found slice1.png (20 x 20)"
        in result.output
    )


def test_grey_and_colour_do_not_mix(workspace: Path) -> None:
    path = workspace / "data" / "discs" / "train" / "images" / "slice1.png"
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(path)
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "slice1.png: colour" in result.output


def test_colour_and_16_bit_images_train(workspace: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "validate"):
        for path in sorted((workspace / "data" / "discs" / split / "images").iterdir()):
            path.unlink()
            tifffile.imwrite(path.with_suffix(".tif"), rng.integers(0, 4000, (48, 64, 3), dtype=np.uint16))
    assert run(workspace, "discs", "v1").exit_code == 0
    info = load_checkpoint(workspace / "saved" / "discs_v1.pth").input
    assert (info.channels, info.dtype) == (3, "uint16")


def test_class_count_must_agree(workspace: Path) -> None:
    config = (workspace / "config.toml").read_text(encoding="utf-8").replace("n_class = 2", "n_class = 3")
    (workspace / "config.toml").write_text(config, encoding="utf-8")
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "n_class" in result.output


def test_a_diverging_training_stops(workspace: Path) -> None:
    config = (workspace / "config.toml").read_text(encoding="utf-8").replace("lr = 0.01", "lr = 1e30")
    (workspace / "config.toml").write_text(config, encoding="utf-8")
    result = run(workspace, "discs", "v2")
    assert result.exit_code == 2
    assert "diverged" in result.output


@pytest.mark.parametrize("patience", [1, 2])
def test_the_log_has_the_rate_at_which_an_epoch_was_trained(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """Also of the epoch after which it falls, here because the validation loss never gets better."""
    config = (workspace / "config.toml").read_text(encoding="utf-8")
    config = config.replace("patience = 1", f"patience = {patience}").replace("epoch = 1\n", "epoch = 5\n")
    (workspace / "config.toml").write_text(config, encoding="utf-8")
    rates: list[float] = []
    before, after = LearningRate.before_step, LearningRate.after_epoch

    def step(self: LearningRate, number: int) -> None:
        before(self, number)
        rates.append(self.now)

    monkeypatch.setattr(LearningRate, "before_step", step)
    monkeypatch.setattr(LearningRate, "after_epoch", lambda self, _loss: after(self, 1.0))
    assert run(workspace, "discs", "v2").exit_code == 0
    assert rates[0] == pytest.approx(0.01)
    assert len(set(rates)) > 1
    steps = len(rates) // 5
    assert [record["lr"] for record in log_of(workspace, "v2")] == rates[steps - 1 :: steps]


def test_weights_that_a_last_step_ruined_are_not_kept(workspace: Path) -> None:
    """One step an epoch, whose own loss is still finite: only the validation shows what it did."""
    config = (workspace / "config.toml").read_text(encoding="utf-8")
    config = config.replace("lr = 0.01", "lr = 1e30").replace("batch_size = 3", "batch_size = 5")
    (workspace / "config.toml").write_text(config, encoding="utf-8")
    result = run(workspace, "discs", "v2")
    assert result.exit_code == 2, result.output
    assert "diverged in epoch 1: the validation loss is nan" in result.output
    assert not (workspace / "saved" / "discs_v2.pth").exists()


def test_a_validation_without_any_weighted_pixel_is_refused(workspace: Path) -> None:
    for split, value in (("train", 0), ("validate", 1)):
        for path in (workspace / "data" / "discs" / split / "labels_npy").iterdir():
            np.save(path, np.full((48, 64), value, np.uint8))
    result = run(workspace, "discs", "v2")
    assert result.exit_code == 2, result.output
    assert "expected some pixels of the classes that the training images have, found none" in result.output


def test_balance_weights_are_reciprocal_shares(workspace: Path) -> None:
    dataset = Dataset.open(workspace / "data" / "discs")
    images = Examples(dataset.samples("train"), n_class=2)
    everything = np.concatenate([np.load(sample.labels).ravel() for sample in dataset.samples("train")])
    np.testing.assert_allclose(SplitStatistics(images, 2).class_shares[1], everything.mean())
    logits, labels = torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, IGNORED]])
    loss, weight = weighted_cross_entropy(logits, labels, torch.tensor([0.5, 2.0]))
    assert float(weight) == 3.0
    assert float(loss) == pytest.approx(3 * math.log(2))


def test_learning_rates() -> None:
    def rate(**values: object) -> tuple[LearningRate, torch.optim.Optimizer]:
        config = VersionConfig.model_validate(
            {"model": "unet", "n_class": 2, "lr": 1.0, "epoch": 4, **values}
        )
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return LearningRate(optimizer, config, steps_per_epoch=5), optimizer

    plateau, _ = rate(patience=1)
    values = []
    for loss in (1.0, 1.0, 1.0, 0.5):
        plateau.after_epoch(loss)
        values.append(plateau.now)
    assert values == pytest.approx([1.0, 1.0, 0.1, 0.1])
    cosine, _ = rate(schedule="cosine")
    polynomial, _ = rate(schedule="polynomial")
    for schedule, middle in ((cosine, 0.5), (polynomial, 0.5**0.9)):
        schedule.before_step(0)
        assert schedule.now == pytest.approx(1.0)
        schedule.before_step(10)
        assert schedule.now == pytest.approx(middle)


def test_a_damaged_or_foreign_checkpoint_is_named(workspace: Path, tmp_path: Path) -> None:
    run(workspace, "discs", "v2")
    path = workspace / "saved" / "discs_v2.pth"
    content = path.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"discs_v2\.pth"):
            load_checkpoint(path)
    foreign = tmp_path / "foreign.pth"
    save_tensors(foreign, {"state_dict": {}})
    with pytest.raises(ModelError, match="something else"):
        load_checkpoint(foreign)


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "executed"),))

    path = tmp_path / "evil.pth"
    torch.save({"matseg_checkpoint": 1, "weights": Evil()}, path)
    with pytest.raises(ModelError):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_loses_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the second version of a checkpoint is written: the first stays whole."""
    assert run(workspace, "discs", "v1").exit_code == 0
    path = workspace / "saved" / "discs_v1.pth"
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space is left"):
        save_tensors(path, {"weights": {}})
    result = run(workspace, "discs", "v2")
    assert result.exit_code == 1
    assert "no space is left" in result.output
    assert path.read_bytes() == before
    assert sorted(item.name for item in path.parent.iterdir()) == ["discs_v1.pth"]


def test_without_torch_the_extra_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else original(name, *rest)
    )
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 3
    assert install_command("train") in result.output


@pytest.mark.parametrize(
    ("has_bf16", "asked", "expected"),
    [(True, "auto", "bf16"), (False, "auto", "fp16"), (True, "fp16", "fp16"), (True, "fp32", "fp32")],
)
def test_precision_on_a_gpu(
    has_bf16: bool, asked: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for CUDA: the logic, not the hardware."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "stand-in")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    choice = choose_compute(gpu=True, amp=asked, local_rank=1)
    assert choice.device == torch.device("cuda", 1)
    assert choice.precision == expected
    assert choice.device_reason == "stand-in"
    assert choose_compute(gpu=False, amp="fp32").device.type == "cpu"


def test_a_named_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken or refused, never replaced; with a stand-in for CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    choice = choose_compute(gpu=False, amp="auto", device="cuda:1")
    assert (choice.device, choice.precision) == (torch.device("cuda", 1), "bf16")
    assert choose_compute(gpu=False, amp="fp32", device="cpu").device.type == "cpu"
    with pytest.raises(UnsupportedError, match="expected cuda:0 to cuda:1"):
        choose_compute(gpu=False, amp="auto", device="cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="--device cuda: "):
        choose_compute(gpu=False, amp="auto", device="cuda")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "gpu"], "expected cpu, cuda or cuda:N"),
        (["--device", "cpu", "--gpu"], "cannot be combined"),
    ],
)
def test_devices_that_are_none_are_refused(workspace: Path, arguments: list[str], words: str) -> None:
    result = run(workspace, "discs", "v2", *arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("version", ["v1", "v2", "v3", "everything"])
def test_strokes_are_enough_to_train(workspace: Path, version: str) -> None:
    """Cross-entropy, balanced, on sampled pixels, and with the Dice term; the share of labels is told."""
    unlabel(workspace / "data" / "discs")
    with (workspace / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write(EVERYTHING)
    result = run(workspace, "discs", version)
    assert result.exit_code == 0, result.output
    assert "% of the pixels to train" in result.output
    for record in log_of(workspace, version):
        for split in ("train", "validate"):
            figures = record[split]
            assert all(math.isfinite(figures[name]) for name in ("loss", "accuracy", "mean_iou"))
    again = log_of(workspace, version)
    assert run(workspace, "discs", version, "--overwrite").exit_code == 0
    assert log_of(workspace, version) == again


def test_one_labelled_pixel_does_not_make_a_loss_of_nan(workspace: Path) -> None:
    unlabel(workspace / "data" / "discs")
    for path in (workspace / "data" / "discs").glob("*/labels_npy/*.npy"):
        labels = np.full((48, 64), IGNORED, np.uint8)
        labels[0, 0] = int(path.stem[-1]) % 2
        np.save(path, labels)
    for version in ("v1", "v2"):
        assert run(workspace, "discs", version).exit_code == 0
        assert all(math.isfinite(record["train"]["loss"]) for record in log_of(workspace, version))


def test_an_image_that_nobody_labelled_is_named(workspace: Path) -> None:
    unlabel(workspace / "data" / "discs")
    path = workspace / "data" / "discs" / "train" / "labels_npy" / "slice2.npy"
    np.save(path, np.full((48, 64), IGNORED, np.uint8))
    result = run(workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "slice2.npy: expected labels, found no labelled pixel" in result.output
