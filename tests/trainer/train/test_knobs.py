"""Options of optimiser, loss and schedule that are off by default do what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pydantic import ValidationError

from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.dataset import Batch
from matseg_trainer.data.examples import IGNORED
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.train.device import choose_compute
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.losses import focal_loss, tversky
from matseg_trainer.train.schedule import LearningRate
from matseg_trainer.train.step import RunningScore, TrainStep
from matseg_trainer.train.training import Training


def config_of(**values: object) -> VersionConfig:
    return VersionConfig.model_validate({"model": "unet", "n_class": 2, "width": 2, **values})


def step_of(**values: object) -> TrainStep:
    """One of a small network with fixed weights, batch norm as in evaluation."""
    info = InputInfo(
        channels=1,
        dtype="uint8",
        mean=(100.0,),
        std=(50.0,),
        histogram=Histogram(low=0, high=255, counts=(1,)),
    )
    torch.manual_seed(0)
    network = build_network("unet", in_channels=1, n_class=2, width=2)
    step = TrainStep(
        network, config_of(**values), info, choose_compute(gpu=False, amp="fp32"), DistributedContext(), None
    )
    network.eval()
    return step


def batch_of(count: int, first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (8, 1, 32, 32), generator=generator, dtype=torch.uint8)
    labels = (images[:, 0] > 128).long()
    part = slice(first, first + count)
    return Batch(images=images[part], labels=labels[part], pixels=torch.zeros(count, 1, dtype=torch.int64))


def weights_of(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


SGD = {"optimizer": "SGD", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def test_the_optimiser_decays_weights_by_themselves() -> None:
    assert type(step_of(optimizer="adamw").optimizer) is torch.optim.AdamW
    assert type(step_of().optimizer) is torch.optim.Adam


def test_accumulated_batches_are_one_update_by_their_mean() -> None:
    whole, parts = step_of(**SGD), step_of(**SGD, accumulate=2)
    before = weights_of(parts.network)
    whole.step(batch_of(4), RunningScore(n_class=2))
    score = RunningScore(n_class=2)
    parts.step(batch_of(2), score, number=0, batches=2)
    assert torch.equal(weights_of(parts.network), before)
    parts.step(batch_of(2, first=2), score, number=1, batches=2)
    assert not torch.equal(weights_of(parts.network), before)
    torch.testing.assert_close(weights_of(parts.network), weights_of(whole.network), rtol=1e-4, atol=1e-6)
    # an epoch ends with an update of what is left, by its own mean
    single, rest = step_of(**SGD), step_of(**SGD, accumulate=4)
    single.step(batch_of(2), RunningScore(n_class=2))
    rest.step(batch_of(2), RunningScore(n_class=2), number=4, batches=5)
    assert torch.equal(weights_of(single.network), weights_of(rest.network))


def test_gradients_are_clipped_to_their_norm() -> None:
    free, clipped = step_of(**SGD), step_of(**SGD, clip_gradient=0.01)
    before = weights_of(free.network)
    for step in (free, clipped):
        step.step(batch_of(4), RunningScore(n_class=2))
    moved, less = (weights_of(step.network) - before for step in (free, clipped))
    assert float(less.norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert float(torch.nn.functional.cosine_similarity(moved, less, dim=0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_the_rate_warms_up(schedule: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rate = LearningRate(
        optimizer, config_of(lr=1.0, epoch=2, warmup=4, schedule=schedule), steps_per_epoch=50
    )
    found = []
    for step in range(6):
        rate.before_step(step)
        found.append(rate.now)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1], abs=0.01)


def test_focal_loss_and_tversky_term_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 5)), rng.integers(0, 3, (2, 5))
    labels[0, 0] = IGNORED
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    known = labels != IGNORED
    wanted = np.stack([labels == index for index in range(3)], axis=1)
    own = (odds * wanted).sum(axis=1)[known]
    class_weights = np.array([1.0, 2.0, 0.5])
    mine = class_weights[labels[known]]
    tensors = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    found = focal_loss(*tensors, torch.tensor(class_weights, dtype=torch.float32))
    assert float(found) == pytest.approx(float((mine * (1 - own) ** 2 * -np.log(own)).sum()), rel=1e-5)
    given = odds * known[:, None]
    hit, false, missed = (
        (a * b).sum(axis=(0, 2))
        for a, b in ((given, wanted), (given, ~wanted), (known[:, None] - given, wanted))
    )
    expected = 1 - ((hit + 1) / (hit + 0.3 * false + 0.7 * missed + 1)).mean()
    assert float(tversky(*tensors)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", ["focal", "tversky"])
def test_every_loss_learns(loss: str) -> None:
    step = step_of(loss=loss, lr=0.01)
    losses = []
    for _ in range(15):
        score = RunningScore(n_class=2)
        step.step(batch_of(4), score)
        score.fetch()
        losses.append(score.loss)
    assert losses[-1] < 0.9 * losses[0]


def test_the_average_follows_the_weights() -> None:
    step = step_of(**SGD, ema=0.3)
    assert step.kept is not step.network
    expected = None
    for updates in range(6):
        step.step(batch_of(4), RunningScore(n_class=2))
        now, decay = weights_of(step.network), min(0.3, (1 + updates) / (10 + updates))
        expected = now if expected is None else decay * expected + (1 - decay) * now
    assert expected is not None
    torch.testing.assert_close(weights_of(step.kept), expected)
    assert not torch.equal(weights_of(step.kept), weights_of(step.network))
    plain = step_of()
    assert plain.kept is plain.network


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"class_weights": [1.0]}, "expected a weight for each of the 2 classes"),
        ({"class_weights": [0.0, 0.0]}, "some above 0"),
        ({"class_weights": [1.0, -1.0]}, "greater than or equal to 0"),
        ({"class_weights": [1.0, 2.0], "balance": True}, "`balance`"),
        ({"ema": 1.0}, "less than 1"),
        ({"clip_gradient": 0.0}, "greater than 0"),
        ({"accumulate": 0}, "greater than or equal to 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config_of(**values)


def run(workspace: Path, *arguments: str) -> Result:
    return CliRunner().invoke(train_main, ["discs", "k", *arguments, "--workspace", str(workspace)])


def log_of(workspace: Path) -> list[dict]:
    lines = (workspace / "log" / "discs_k.jsonl").read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def add_version(workspace: Path, text: str) -> None:
    with (workspace / "config.toml").open("a", encoding="utf-8") as stream:
        stream.write(f"\n[discs.k]\nmodel = 'unet'\nwidth = 2\nbatch_size = 2\nlr = 0.01\n{text}\n")


def test_all_of_them_resume_bit_for_bit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_version(
        workspace,
        "epoch = 4\nema = 0.9\naccumulate = 2\nwarmup = 5\nclip_gradient = 1.0\nstop_after = 2\n"
        "optimizer = 'AdamW'\nloss = 'tversky'\nclass_weights = [1.0, 3.0]\namp = 'fp32'",
    )
    assert run(workspace).exit_code == 0
    expected, log = load_checkpoint(workspace / "saved" / "discs_k.pth").weights, log_of(workspace)
    original = Training.train_epoch

    def interrupted(self: Training, epoch: int, *rest: object) -> RunningScore:
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "train_epoch", interrupted)
    assert run(workspace, "--overwrite").exit_code == 130
    monkeypatch.setattr(Training, "train_epoch", original)
    result = run(workspace, "--resume")
    assert result.exit_code == 0, result.output
    assert log_of(workspace) == log
    found = load_checkpoint(workspace / "saved" / "discs_k.pth").weights
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_it_stops_when_the_validation_gets_no_better(workspace: Path) -> None:
    """At a rate that changes nothing."""
    add_version(
        workspace, "epoch = 9\nstop_after = 2\noptimizer = 'SGD'\nmomentum = 0.0\n".replace("lr = 0.01", "")
    )
    text = (workspace / "config.toml").read_text(encoding="utf-8")
    head, tail = text.split("[discs.k]")
    (workspace / "config.toml").write_text(
        head + "[discs.k]" + tail.replace("lr = 0.01", "lr = 1e-30"), "utf-8"
    )
    result = run(workspace)
    assert result.exit_code == 0, result.output
    records = log_of(workspace)
    best = max(records, key=lambda record: record["validate"]["mean_iou"])["epoch"]
    assert len(records) == best + 2 < 9
    assert not (workspace / "saved" / "discs_k.resume.pth").exists()
