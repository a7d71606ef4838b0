"""A search ranks trials by what they were trained to, ends the worse ones early, and goes on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from discs import write_discs

from matseg_trainer.commands.prep import main
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.load import load_config
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.train import search
from matseg_trainer.train.console import Progress
from matseg_trainer.train.log import EpochRecord, SplitScore, TrainingLog, write_log
from matseg_trainer.train.outputs import Outputs
from matseg_trainer.train.search import SearchRequest, draw_trials, parse_try, rungs_of, usual_values
from matseg_trainer.train.step import RunningScore
from matseg_trainer.train.training import DivergedError, Training, TrainingJob

CONFIG = """
[discs.v1]
model = "unet"
n_class = 2
width = 2
epoch = 3
lr = 0.01
crop = 32
schedule = "cosine"
amp = "fp32"
"""
VERSION = VersionConfig(model="unet", n_class=2, lr=0.01, crop=32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    write_discs(tmp_path, {"train": 2, "validate": 1})
    return tmp_path


def run(place: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["search", "discs", "v1", *words, "--workspace", str(place)])


def log_of(path: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "seconds": 0} for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("lr=0.001,0.003", "lr", (0.001, 0.003)),
        ("crop=256", "crop", (256,)),
        ("aug=true,turns", "aug", (True, "turns")),
        ("loss=cross_entropy, dice", "loss", ("cross_entropy", "dice")),
    ],
)
def test_values_are_read_as_in_the_configuration(text: str, key: str, values: tuple[object, ...]) -> None:
    assert parse_try(text) == (key, values)


@pytest.mark.parametrize(
    ("trials", "epochs", "rungs"),
    [
        (20, 30, [(20, 4), (6, 10), (2, 30)]),
        (1, 5, [(1, 5)]),
        (8, 1, [(8, 1)]),
        (9, 9, [(9, 1), (3, 3), (1, 9)]),
        (243, 243, [(243, 1), (81, 3), (27, 9), (9, 27), (3, 81), (1, 243)]),
    ],
)
def test_a_third_goes_on_three_times_as_far(trials: int, epochs: int, rungs: list[tuple[int, int]]) -> None:
    assert rungs_of(trials, epochs) == rungs


def test_trials_begin_with_the_version_and_are_all_different() -> None:
    request = SearchRequest(values=usual_values(VERSION), trials=30)
    drawn = draw_trials(VERSION, request, 0)
    assert drawn[0] == {}
    assert len(drawn) == 30
    assert len({json.dumps(trial, sort_keys=True) for trial in drawn}) == 30
    fewer = draw_trials(VERSION, SearchRequest(values=usual_values(VERSION), trials=10), 0)
    assert fewer == drawn[:10]
    assert draw_trials(VERSION, request, 1) != drawn


def test_there_are_no_more_trials_than_values_to_try() -> None:
    request = SearchRequest(values={"lr": (0.01, 0.02), "loss": ("cross_entropy", "dice")}, trials=50)
    drawn = draw_trials(VERSION, request, 0)
    assert sorted(map(json.dumps, drawn)) == sorted(
        ["{}", '{"lr": 0.02}', '{"loss": "dice"}', '{"lr": 0.02, "loss": "dice"}']
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("losss=dice", "--try losss: is no key of a version; did you mean 'loss'?"),
        ("n_class=3", "--try n_class: cannot be searched over"),
        ("epoch=3,9", "--try epoch: cannot be searched over"),
        ("lr=0.1,fast", "--try lr: "),
        ("lr=-1", "greater than 0, found -1"),
        ("lr", "expected a key and values, as in lr=0.001,0.003"),
    ],
)
def test_what_cannot_be_tried(place: Path, words: str, told: str) -> None:
    result = run(place, "--try", words)
    assert result.exit_code == 2, result.output
    assert told in " ".join(result.output.split())
    assert not (place / "search").exists()


def scored(number: int, mean_iou: float) -> EpochRecord:
    score = SplitScore(loss=1, accuracy=mean_iou, mean_iou=mean_iou, iou=(mean_iou, mean_iou))
    return EpochRecord(epoch=number, lr=0.1, train=score, validate=score)


def test_the_best_at_each_rung_go_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials with a learning rate near 5 are better; one beyond 8 diverges."""
    seen: list[tuple[float, int]] = []

    def trained(job: TrainingJob, *_: object, until: int) -> TrainingLog:
        seen.append((job.config.lr, until))
        if job.config.lr > 8:
            raise DivergedError("training diverged")
        epochs = [scored(number, 1 / (1 + abs(job.config.lr - 5))) for number in range(1, until + 1)]
        outputs = Outputs(job.workspace, job.name)
        outputs.log.parent.mkdir(exist_ok=True)
        write_log(outputs.log, epochs)
        return TrainingLog(epochs=epochs, checkpoint=job.config.checkpoint)

    monkeypatch.setattr(search, "run_training", trained)
    result = run(place, "--try", "lr=1,2,3,4,5,6,7,8,9", "--trials", "10", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert sorted(lr for lr, until in seen if until == 1) == [0.01, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert sorted(lr for lr, until in seen if until == 3) == [4, 5, 6]
    trials = document["trials"]
    assert (trials[0]["changes"], trials[0]["epochs"], trials[0]["mean_iou"]) == ({"lr": 5}, 3, 1)
    assert (trials[-1]["changes"], trials[-1]["epochs"], trials[-1]["mean_iou"]) == ({"lr": 9}, 0, None)
    assert [trial["epochs"] for trial in trials] == [3, 3, 3, 1, 1, 1, 1, 1, 1, 0]
    seen.clear()
    run(place, "--try", "lr=1,2,3,4,5,6,7,8,9", "--trials", "10")
    assert seen == [(9, 1)]  # of which there is no log
    with (place / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write(document["table"])
    assert load_config(place / "config.toml").version("discs", "v1b").lr == 5


def test_a_search_in_which_all_diverge(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(*_: object, **__: object) -> TrainingLog:
        raise DivergedError("training diverged")

    monkeypatch.setattr(search, "run_training", diverged)
    result = run(place, "--try", "lr=1", "--trials", "2")
    assert (result.exit_code, "every trial diverged" in result.output) == (2, True)


def test_an_interrupted_search_goes_on_and_a_trial_is_the_training_of_its_version(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training.train_epoch

    def interrupted(self: Training, epoch: int, progress: Progress) -> RunningScore:
        if self.job.version == "v1.trial2":
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    words = ("--try", "lr=0.02,0.001", "--trials", "3", "--seed", "4")
    monkeypatch.setattr(Training, "train_epoch", interrupted)
    result = run(place, *words)
    assert (result.exit_code, "run the same command again to go on" in result.output) == (130, True)
    monkeypatch.setattr(Training, "train_epoch", original)
    root = place / "search" / "discs_v1"
    first = (root / "log" / "discs_v1.trial1.jsonl").stat().st_mtime_ns
    result = run(place, *words, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [trial["epochs"] for trial in document["trials"]] == [3, 1, 1]
    best = document["trials"][0]
    if best["trial"] != 1:
        assert (root / "log" / "discs_v1.trial1.jsonl").stat().st_mtime_ns == first
    assert [path.name for path in (root / "saved").iterdir()] == [f"discs_v1.trial{best['trial']}.pth"]
    version = "v1" if document["table"] is None else "v1b"
    with (place / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write(document["table"] or "")
    trained = ["discs", version, "--seed", "4", "--workspace", str(place)]
    assert CliRunner().invoke(train_main, trained).exit_code == 0
    mine = root / "log" / f"discs_v1.trial{best['trial']}.jsonl"
    assert log_of(mine) == log_of(place / "log" / f"discs_{version}.jsonl")
    other = run(place, "--try", "lr=0.5", "--seed", "4")
    assert (other.exit_code, "--overwrite to search anew" in " ".join(other.output.split())) == (2, True)
