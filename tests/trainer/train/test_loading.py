"""A training is the same from memory and from files, and its steps do not wait for the device."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data import examples
from matseg_trainer.data.dataset import Batch
from matseg_trainer.networks.registry import build_network
from matseg_trainer.train.device import ComputeChoice
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.step import RunningScore, TrainStep


def test_a_training_from_files_is_that_from_memory(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Because they do not fit, or for several workers; where they lie is said, and nothing stays there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    logs = []
    for limit, workers, words in ((1 << 30, 0, None), (0, 0, "memory that is free"), (1 << 30, 1, "workers")):
        monkeypatch.setattr(examples, "CACHE_BYTES", limit)
        config = (workspace / "config.toml").read_text(encoding="utf-8")
        config = config.replace("crop = 32", f"workers = {workers}\ncrop = 32").replace(
            "epoch = 3", "epoch = 1"
        )
        (workspace / "config.toml").write_text(config, encoding="utf-8")
        result = CliRunner().invoke(train_main, ["discs", "v1", "--overwrite", "--workspace", str(workspace)])
        assert result.exit_code == 0, result.output
        assert (f"images lie decoded in {disk}" in result.output) == (words is not None)
        assert words is None or words in result.output
        assert not list(disk.glob("matseg-*"))
        lines = (workspace / "log" / "discs_v1.jsonl").read_text(encoding="utf-8").splitlines()
        logs.append([{**json.loads(line), "seconds": 0} for line in lines])
        (workspace / "config.toml").write_text(config.replace(f"workers = {workers}\n", ""), encoding="utf-8")
    assert logs[0] == logs[1] == logs[2]


@pytest.mark.parametrize("balance", [False, True])
def test_a_step_does_not_wait_for_the_device(balance: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without data, where whatever would fetch a value is an error."""
    device = torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it knows none for it
    compute = ComputeChoice(device=device, device_reason="", autocast=None, precision_reason="")
    config = VersionConfig.model_validate({"model": "unet", "n_class": 2, "width": 2, "loss": "dice"})
    histogram = Histogram(low=0, high=255, counts=(1,))
    info = InputInfo(channels=1, dtype="uint8", mean=(9.0,), std=(5.0,), histogram=histogram)
    with device:
        network = build_network("unet", in_channels=1, n_class=2, width=2)
        weights = torch.ones(2) if balance else None
        batch = Batch(
            images=torch.zeros(1, 1, 32, 32, dtype=torch.uint8),
            labels=torch.zeros(1, 32, 32, dtype=torch.int64),
            pixels=torch.zeros(1, 1, dtype=torch.int64),
        )
    step = TrainStep(network, config, info, compute, DistributedContext(), weights)
    score = RunningScore(n_class=2, device=device)
    step.step(batch, score)
    # torch's own error; this fetches, and nothing before
    with pytest.raises(Exception, match="meta tensor"):
        score.fetch()


def test_figures_are_those_of_all_batches_when_they_are_fetched() -> None:
    score = RunningScore(n_class=2)
    logits = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    labels = torch.tensor([[0, 0, 255]])
    for _ in range(2):
        score.add(logits, labels, torch.tensor(3.0), torch.tensor(2.0))
    assert score.loss == 0
    score.fetch()
    assert score.loss == 1.5
    assert score.matrix.tolist() == [[2, 2], [0, 0]]
