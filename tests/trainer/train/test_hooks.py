"""Hooks after each epoch: a table, events for TensorBoard, a function of the user's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from matseg_trainer.commands.train import train_main


def run(workspace: Path, *arguments: str) -> Result:
    with (workspace / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write("\n[discs.k]\nmodel = 'unet'\nwidth = 2\nbatch_size = 2\nlr = 0.01\nepoch = 2\n")
    return CliRunner().invoke(train_main, ["discs", "k", *arguments, "--workspace", str(workspace)])


def test_a_table_and_events_have_the_figures_of_the_log(workspace: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(workspace, "--on-epoch", "csv", "--on-epoch", "tensorboard")
    assert result.exit_code == 0, result.output
    log = workspace / "log"
    epochs = [json.loads(line) for line in (log / "discs_k.jsonl").read_text(encoding="utf-8").splitlines()]
    with (log / "discs_k.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert [float(row["validate/mean_iou"]) for row in rows] == [
        epoch["validate"]["mean_iou"] for epoch in epochs
    ]
    assert [float(row["train/iou_1"]) for row in rows] == [epoch["train"]["iou"][1] for epoch in epochs]
    events = EventAccumulator(str(log / "tensorboard" / "discs_k"))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("validate/loss")]
    assert told == [(epoch["epoch"], pytest.approx(epoch["validate"]["loss"])) for epoch in epochs]


def test_a_function_of_the_user(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets every epoch; one that fails is told, and the training goes on."""
    (tmp_path / "my_hooks.py").write_text(
        "seen = []\n"
        "def note(log, epochs):\n    seen.append((log.name, [epoch['epoch'] for epoch in epochs]))\n"
        "def fail(log, epochs):\n    raise OSError('the tracker is down')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = run(workspace, "--on-epoch", "my_hooks:note", "--on-epoch", "my_hooks:fail")
    assert result.exit_code == 0, result.output
    import my_hooks  # type: ignore[import-not-found]

    assert my_hooks.seen == [("discs_k.jsonl", [1]), ("discs_k.jsonl", [1, 2])]
    assert "--on-epoch my_hooks:fail failed after epoch 2, and the training goes on" in result.output
    assert "the tracker is down" in result.output


@pytest.mark.parametrize("text", ["no_such_module:f", "json:no_such_function", "json", "json:__doc__", ":"])
def test_what_is_no_function_is_refused_before_the_training(workspace: Path, text: str) -> None:
    result = run(workspace, "--on-epoch", text)
    assert result.exit_code == 2
    assert "--on-epoch: expected" in result.output
    assert not (workspace / "saved" / "discs_k.pth").exists()
