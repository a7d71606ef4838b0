"""Fine-tuning takes over what means the same in both trainings, tells what it did not, and records its origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import NETWORKS, make_checkpoint
from click.testing import CliRunner, Result

from matseg_shared.contract.classes import read_classes, write_classes
from matseg_shared.contract.metadata import ClassInfo, InitInfo
from matseg_shared.errors import ModelError, UsageError
from matseg_trainer.commands.train import train_main
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    save_tensors,
    weights_sha256,
)
from matseg_trainer.predict.exported import load_exported
from matseg_trainer.train.pretrained import PretrainedWeights, origin_changes
from matseg_trainer.train.training import Training
from matseg_trainer.workspace import Workspace

OTHERS = tuple(ClassInfo(index=k, name=f"mineral {k}", colour=(0, 0, k), label_value=k) for k in range(4))


def run(workspace: Path, *arguments: str) -> Result:
    return CliRunner().invoke(train_main, [*arguments, "--workspace", str(workspace)])


def initial(path: Path, name: str, channels: int = 1) -> PretrainedWeights:
    """A checkpoint of three classes, stored and read again."""
    save_checkpoint(path / "noise.pth", make_checkpoint(name, channels=channels))
    return PretrainedWeights.load(Workspace(path), str(path / "noise.pth"))


@pytest.mark.parametrize("name", NETWORKS)
def test_all_but_the_classifier_is_taken_over(tmp_path: Path, name: str) -> None:
    start = initial(tmp_path, name)
    network = build_network(name, in_channels=1, n_class=4, width=4)
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    told = start.copy_into(network, name, OTHERS)
    assert told == f"{start.info.name}; a new classifier, as the classes are others"
    for key, value in network.state_dict().items():
        origin = fresh if key.startswith("classifier.") else start.checkpoint.weights
        assert torch.equal(value, origin[key]), key
    assert any(key.startswith("classifier.") for key in fresh)


def test_the_classifier_stays_where_the_classes_are_the_same(tmp_path: Path) -> None:
    start = initial(tmp_path, "unet")
    network = build_network("unet", in_channels=1, n_class=3, width=4)
    assert start.copy_into(network, "unet", start.checkpoint.classes) == start.info.name
    assert weights_sha256(network.state_dict()) == start.info.sha256
    renamed = build_network("unet", in_channels=1, n_class=3, width=4)
    assert "a new classifier" in start.copy_into(renamed, "unet", OTHERS[:3])


@pytest.mark.parametrize("name", NETWORKS)
def test_grey_stored_as_colour_gives_what_grey_gave(tmp_path: Path, name: str) -> None:
    start = initial(tmp_path, name)
    grey = torch.randn(1, 1, 64, 64)
    colour = build_network(name, in_channels=3, n_class=3, width=4)
    told = start.copy_into(colour, name, start.checkpoint.classes)
    assert "first layer from grey to colour" in told
    with torch.no_grad():
        expected = start.checkpoint.network()(grey)
        torch.testing.assert_close(colour.eval()(grey.expand(-1, 3, -1, -1)), expected, atol=1e-4, rtol=1e-4)


def test_a_network_for_colour_works_on_grey(tmp_path: Path) -> None:
    start = initial(tmp_path, "unet", channels=3)
    network = build_network("unet", in_channels=1, n_class=3, width=4)
    assert "first layer from colour to grey" in start.copy_into(network, "unet", start.checkpoint.classes)
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = start.checkpoint.network()(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(network.eval()(grey), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "width"), [("unet", 8), ("patchunet", 4), ("segnet", 4)])
def test_another_network_or_width_is_refused(tmp_path: Path, name: str, width: int) -> None:
    start = initial(tmp_path, "unet")
    network = build_network(name, in_channels=1, n_class=3, width=width)
    with pytest.raises(
        ModelError, match=r"noise\.pth: expected .* found a unet of width 4; give the version model"
    ):
        start.copy_into(network, name, start.checkpoint.classes)


def test_the_identity_is_that_of_the_weights() -> None:
    weights = {"a": torch.arange(4.0), "b": torch.zeros(2, 2)}
    known = weights_sha256(weights)
    assert weights_sha256(dict(reversed(weights.items()))) == known
    for changed in (
        {**weights, "a": torch.arange(4.0) + 1e-6},
        {**weights, "b": torch.zeros(4)},
        {**weights, "a": torch.arange(4.0).double()},
        {"a": weights["a"], "c": weights["b"]},
    ):
        assert weights_sha256(changed) != known


def new_classes(workspace: Path) -> None:
    """Give the discs' classes other names, so that they are another data set's."""
    names = ("pore", "grain")
    write_classes(
        workspace / "data" / "discs" / "classes.toml",
        [ClassInfo(index=i, name=names[i], colour=(i, 0, 0), label_value=255 * i) for i in (0, 1)],
    )


@pytest.fixture
def fine_tuning(workspace: Path) -> Path:
    """A workspace with the checkpoint `discs_v1` and versions to train from it: v9 (two epochs), v8 (another width)."""
    config = workspace / "config.toml"
    common = 'model = "unet"\nepoch = 2\nprecision = "fp32"\nweight_decay = 0\nlr = 1e-9\n'
    text = config.read_text(encoding="utf-8")
    versions = f"\n[discs.v9]\nwidth = 4\n{common}\n[discs.v8]\nwidth = 5\n{common}"
    config.write_text(text + versions, encoding="utf-8")
    checkpoint = make_checkpoint("unet", n_class=2)
    classes = read_classes(workspace / "data" / "discs" / "classes.toml")
    training = checkpoint.training.model_copy(update={"dataset": "discs", "version": "v1"})
    save_checkpoint(
        workspace / "saved" / "discs_v1.pth", replace(checkpoint, classes=classes, training=training)
    )
    return workspace


def moved(workspace: Path) -> float:
    """The largest change of a weight between `discs_v1` and the fine-tuned `discs_v9`, without the classifier."""
    before, after = (
        load_checkpoint(workspace / "saved" / f"discs_{name}.pth").weights for name in ("v1", "v9")
    )
    names = [
        name for name in before if name.endswith(("weight", "bias")) and not name.startswith("classifier.")
    ]
    return max(float((before[name] - after[name]).abs().max()) for name in names)


def test_a_training_starts_there_and_says_so(fine_tuning: Path) -> None:
    """With a learning rate next to nothing, the weights stay where they started; normalisation is the new images'."""
    new_classes(fine_tuning)
    result = run(fine_tuning, "discs", "v9", "--weights", "discs_v1")
    assert result.exit_code == 0, result.output
    assert "discs_v1; a new classifier, as the classes are others" in result.output
    origin, made = (load_checkpoint(fine_tuning / "saved" / f"discs_{name}.pth") for name in ("v1", "v9"))
    assert moved(fine_tuning) < 1e-6
    assert made.training.init == InitInfo(name="discs_v1", sha256=weights_sha256(origin.weights))
    assert made.input.mean != origin.input.mean
    assert 100 < made.input.mean[0] < 150
    assert run(fine_tuning, "discs", "v9", "--overwrite", "--seed", "5").exit_code == 0
    assert moved(fine_tuning) > 0.1
    assert load_checkpoint(fine_tuning / "saved" / "discs_v9.pth").training.init is None


def test_a_training_starts_from_the_zoo(workspace: Path) -> None:
    width = load_exported("zoo:dendrites")[1].config.width
    version = f'[discs.v9]\nmodel = "unet"\nwidth = {width}\nepoch = 1\nlr = 1e-9\namp = "fp32"\n'
    config = workspace / "config.toml"
    config.write_text(config.read_text(encoding="utf-8") + version, encoding="utf-8")
    result = run(workspace, "discs", "v9", "--weights", "zoo:dendrites")
    assert result.exit_code == 0, result.output
    assert "demo_v1; a new classifier, as the classes are others" in result.output
    made = load_checkpoint(workspace / "saved" / "discs_v9.pth")
    assert made.training.init is not None
    assert made.training.init.name == "demo_v1"


def test_resume_goes_on_from_the_same_start(fine_tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Training, "validate", _once(Training.validate))
            assert run(fine_tuning, "discs", "v9", "--weights", "discs_v1", "--overwrite").exit_code == 130

    interrupt()
    other = run(fine_tuning, "discs", "v9", "--resume", "--weights", str(_changed(fine_tuning)))
    assert other.exit_code == 2
    assert "init: was discs_v1 (" in other.output
    assert run(fine_tuning, "discs", "v9", "--resume").exit_code == 0
    assert moved(fine_tuning) < 1e-6
    resumed = load_checkpoint(fine_tuning / "saved" / "discs_v9.pth").training.init
    assert resumed is not None
    assert resumed.name == "discs_v1"


def _once(method):  # type: ignore[no-untyped-def]
    """A method that works once and is then interrupted."""
    calls = []

    def wrapped(self, *arguments):  # type: ignore[no-untyped-def]
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return method(self, *arguments)

    return wrapped


def _changed(workspace: Path) -> Path:
    """The same checkpoint with one other weight, under another name."""
    document = torch.load(workspace / "saved" / "discs_v1.pth", weights_only=True)
    document["weights"]["classifier.bias"] += 1
    path = workspace / "other.pth"
    save_tensors(path, document)
    return path


def test_origins_of_a_resumed_training() -> None:
    one, two = (InitInfo(name="a_v1", sha256=digit * 64) for digit in "12")
    assert origin_changes(None, None) == origin_changes(one, None) == origin_changes(one, one) == []
    assert origin_changes(None, one) == ["init: was random weights, now a_v1 (111111111111)"]
    assert origin_changes(one, two) == ["init: was a_v1 (111111111111), now a_v1 (222222222222)"]


def test_what_cannot_be_started_from_is_named(fine_tuning: Path) -> None:
    for choice, text in (
        ("dics_v1", "did you mean 'discs_v1'?"),
        ("steel.pth", r"steel\.pth: expected the checkpoint of --weights"),
        ("saved/discs_v1.onnx", "there is no such model file"),
        (
            "zoo:uhcs-fast",
            "found int8, whose weights are rounded; name its checkpoint, or zoo:uhcs, the fp32",
        ),
    ):
        with pytest.raises(UsageError, match=text):
            PretrainedWeights.load(Workspace(fine_tuning), choice)
    wider = run(fine_tuning, "discs", "v8", "--weights", "discs_v1")
    assert wider.exit_code == 2
    assert 'give the version model = "unet" and width = 4' in wider.stderr
    assert "Traceback" not in wider.output
    assert not (fine_tuning / "saved" / "discs_v8.pth").exists()
