"""A model of the zoo is made by one call, with a card whose every figure comes from the file it describes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from click.testing import CliRunner

from matseg_runtime.inference.session import Session
from matseg_runtime.model.zoo import ZooIndex
from matseg_shared.contract.metadata import InitInfo, PretrainedInfo
from matseg_shared.errors import ConfigError, MatsegError, ModelError, UsageError
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.workspace import Workspace
from models_zoo.build import build, commands, speed
from models_zoo.build.build import Builder, build_models, kept_mean_iou, time_again
from models_zoo.build.card import origins
from models_zoo.build.checkout import ZooCheckout
from models_zoo.build.figures import read_figures
from models_zoo.build.pages import pages, write_pages

DESCRIPTION = """
summary = "Dark discs in noise"
dataset = "discs"
version = "v4"
prepare = ["matseg-prep labels discs train"]
[data]
source = "Drawn by a test"
licence = "none needed"
[use]
intended = "To test."
limits = ["Nothing but discs."]
"""
VERSION = """
[discs.v4]
model = "unet"
width = 2
lr = 0.01
epoch = 1
amp = "fp32"
"""
MAINS = {"matseg-train": train_main, "matseg-export": export_main, "matseg-evaluate": evaluate_main}


@pytest.fixture
def ran(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Commands run in this process instead of one each, in the order of the list; timing is short."""
    calls: list[tuple[str, ...]] = []

    def run(words: Sequence[str], folder: Path) -> None:
        assert folder == workspace
        calls.append(tuple(words))
        if words[0] in MAINS:
            result = CliRunner().invoke(MAINS[words[0]], list(words[1:]))
            assert result.exit_code == 0, result.output

    monkeypatch.chdir(workspace)
    monkeypatch.setattr(build, "run_command", run)
    for name, value in (("_EDGE", 64), ("_FEWEST_CALLS", 2), ("_SECONDS", 0.0), ("_WARM_UP", 0)):
        monkeypatch.setattr(speed, name, value)
    return calls


@pytest.fixture
def zoo(tmp_path: Path) -> ZooCheckout:
    """A checkout in which `discs` is described and nothing is built."""
    root = tmp_path / "checkout"
    folder = root / "models_zoo" / "discs"
    folder.mkdir(parents=True)
    (root / "runtime" / "matseg_runtime").mkdir(parents=True)
    (folder / "model.toml").write_text(DESCRIPTION, encoding="utf-8")
    return ZooCheckout(root)


@pytest.fixture
def builder(zoo: ZooCheckout, workspace: Path, ran: list[tuple[str, ...]]) -> Builder:
    """For `discs`, with the version that its description names."""
    assert not ran
    config = workspace / "config.toml"
    config.write_text(config.read_text(encoding="utf-8") + VERSION, encoding="utf-8")
    return Builder.of(zoo, "discs", Workspace(workspace))


def test_one_call_makes_model_figures_card_and_indexes(builder: Builder, ran: list[tuple[str, ...]]) -> None:
    files, pages = build_models(builder.zoo, [builder], seeds=2)
    entry, zoo = builder.entry, builder.zoo
    assert files == (entry.model, entry.figures)
    assert pages == (entry.card, zoo.readme, zoo.sums, zoo.index)
    assert [words[0] for words in ran] == [
        "matseg-prep",
        *["matseg-train"] * 2,
        "matseg-export",
        "matseg-evaluate",
    ]
    assert ran[1][-3:] == ("--no-save", "--seed", "1")
    figures, index = read_figures(entry.figures), ZooIndex.model_validate_json(zoo.index.read_bytes())
    assert (index.models[0].sha256, index.models[0].bytes) == (
        figures.model_sha256,
        entry.model.stat().st_size,
    )
    assert len(figures.seeds) == 1
    model = Session.open(entry.model, provider="cpu", threads=1)
    assert model.self_test().passed
    evaluation = json.loads((builder.workspace.log / "discs_v4_test_onnx.json").read_text(encoding="utf-8"))
    card = entry.card.read_text(encoding="utf-8")
    for text in (
        figures.model_sha256,
        f"mean IoU {evaluation['mean_iou']:.4f}",
        f"mean IoU {model.model.metadata.training.metrics['mean_iou']:.4f}",
        "2 trainings with different seeds",
        "Drawn by a test",
        "Nothing but discs.",
        "matseg-train discs v4 --overwrite",
    ):
        assert text in card
    assert "zoo:discs" in zoo.readme.read_text(encoding="utf-8")
    assert zoo.sums.read_text(encoding="utf-8") == f"{figures.model_sha256}  discs/model.onnx\n"
    _nothing_changes_without_a_reason(builder)
    _parts_that_do_not_belong_together_are_told(builder)


def test_a_model_of_several_views_says_so(
    builder: Builder, ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made of the training of the one without."""
    zoo = builder.zoo
    described = DESCRIPTION.replace('version = "v4"', 'version = "v4"\ntta = 4')
    (zoo.folder / "views").mkdir()
    (zoo.folder / "views" / "model.toml").write_text(described, encoding="utf-8")
    builders = [builder, Builder.of(zoo, "views", builder.workspace)]
    list(build_models(zoo, builders))
    assert [words[0] for words in ran].count("matseg-train") == 1
    entry = builders[1].entry
    assert "--tta 4" in " ".join([words for words in ran if words[0] == "matseg-export"][1])
    assert Session.open(entry.model, provider="cpu").model.metadata.export.tta == 4
    card = entry.card.read_text(encoding="utf-8")
    assert "mean of 4 views" in card
    assert "- validation, one view" in card
    assert "--tta 4" in card
    assert "unet, fp32, 4 views" in zoo.readme.read_text(encoding="utf-8")
    assert _views_in_the_index(zoo) == [1, 4]
    # both described anew: while the first is made, the second is still what it was
    builder.entry.description.write_text(described, encoding="utf-8")
    entry.description.write_text(DESCRIPTION, encoding="utf-8")
    monkeypatch.setattr(Builder, "train", lambda _self, _seeds: ())
    list(build_models(zoo, [Builder.of(zoo, name, builder.workspace) for name in ("discs", "views")]))
    assert _views_in_the_index(zoo) == [4, 1]


def _views_in_the_index(zoo: ZooCheckout) -> list[int]:
    return [model.tta for model in ZooIndex.model_validate_json(zoo.index.read_bytes()).models]


@pytest.mark.parametrize("change", ["classes", "version", "prepare"])
def test_models_of_different_trainings_are_trained_each(
    builder: Builder, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(build, "run_command", lambda words, _folder: calls.append(tuple(words)))
    monkeypatch.setattr(Builder, "publish", lambda _self, _seeds: ())
    other = builder.zoo.folder / "other"
    other.mkdir()
    changes = {"version": ('"v4"', '"v1"'), "prepare": ("labels discs train", "labels discs train test")}
    described = DESCRIPTION.replace(*changes.get(change, ("", "")))
    (other / "model.toml").write_text(described, encoding="utf-8")
    if change == "classes":
        (other / "classes.toml").write_bytes(builder.workspace.dataset("discs").classes_path.read_bytes())
    # the third, like the first, would find the second's data and checkpoint
    list(build_models(builder.zoo, [builder, Builder.of(builder.zoo, "other", builder.workspace), builder]))
    assert [words[0] for words in calls] == ["matseg-prep", "matseg-train"] * 3


def _nothing_changes_without_a_reason(builder: Builder) -> None:
    assert write_pages(builder.zoo) == ()
    time_again(builder.entry)
    assert read_figures(builder.entry.figures).accuracy.split == "test"
    toml = builder.entry.description
    toml.write_text(DESCRIPTION.replace("Nothing but", "Only"), encoding="utf-8")
    write_pages(builder.zoo)
    assert "Only discs." in builder.entry.card.read_text(encoding="utf-8")


def _parts_that_do_not_belong_together_are_told(builder: Builder) -> None:
    entry = builder.entry
    for path, old, new, text in (
        (entry.figures, read_figures(entry.figures).model_sha256, "0" * 64, "found those of another file"),
        (entry.description, 'version = "v4"', 'version = "v1"', "expected a model of discs_v1 in fp32"),
        (entry.description, 'dataset = "discs"', 'dataset = "discs"\nprecision = "int8"', "discs_v4 in int8"),
        (entry.description, 'version = "v4"', 'version = "v4"\ntta = 8', "discs_v4 in fp32, 8 views"),
        (entry.description, "licence", "license", "Field required"),
    ):
        kept = path.read_text(encoding="utf-8")
        path.write_text(kept.replace(old, new), encoding="utf-8")
        with pytest.raises(MatsegError, match=text):
            pages(builder.zoo)
        path.write_text(kept, encoding="utf-8")
    entry.figures.unlink()
    with pytest.raises(ModelError, match="expected the figures of the model"):
        pages(builder.zoo)


def test_a_large_model_does_not_get_in(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(_words: Sequence[str], folder: Path) -> None:
        (folder / "saved").mkdir(exist_ok=True)
        (folder / "saved" / "zoo_discs.onnx").write_bytes(bytes(8_000_001))

    monkeypatch.setattr(build, "run_command", train)
    with pytest.raises(ModelError, match=r"expected a model of at most 8 MB, found 8\.0 MB"):
        list(build_models(builder.zoo, [builder]))
    assert not builder.entry.model.exists()
    assert not builder.zoo.index.exists()


def test_a_model_is_trained_after_the_one_it_starts_from(
    builder: Builder, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(build, "run_command", lambda words, _folder: calls.append(tuple(words)))
    monkeypatch.setattr(Builder, "publish", lambda _self, _seeds: ())
    tuned = builder.zoo.folder / "tuned" / "model.toml"
    tuned.parent.mkdir()
    further = 'after = ["discs"]\ninit = "discs_v4"\nversion = "v1"'
    tuned.write_text(DESCRIPTION.replace('version = "v4"', further), encoding="utf-8")
    first = ("matseg-train", "discs", "v4", "--overwrite")
    second = ("matseg-train", "discs", "v1", "--weights", "discs_v4", "--overwrite")
    list(build_models(builder.zoo, [Builder.of(builder.zoo, "tuned", Workspace(workspace))]))
    assert calls[1:] == [first, second]
    (workspace / "saved").mkdir()
    (workspace / "saved" / "discs_v4.pth").touch()
    calls.clear()
    list(build_models(builder.zoo, [Builder.of(builder.zoo, "tuned", Workspace(workspace))]))
    assert calls[1:] == [second]


def test_a_card_names_where_the_weights_come_from() -> None:
    training = make_checkpoint("unet").training
    assert origins(training) == []
    further = training.model_copy(update={"init": InitInfo(name="steel_v1", sha256="1" * 64)})
    assert origins(further) == [("fine-tuned from", "steel_v1 (weights `1111111111111111`)")]
    begun = training.model_copy(
        update={"pretrained": PretrainedInfo(origin="lite0 1.0", licence="Apache-2.0")}
    )
    assert origins(begun) == [("encoder begun from", "lite0 1.0, licence Apache-2.0")]


def test_wrong_names_are_told_before_any_work(
    zoo: ZooCheckout, workspace: Path, ran: list[tuple[str, ...]]
) -> None:
    with pytest.raises(UsageError, match="did you mean 'discs'"):
        Builder.of(zoo, "disks", Workspace(workspace))
    with pytest.raises(ConfigError, match="has no version 'v4'"):
        Builder.of(zoo, "discs", Workspace(workspace))
    assert ran == []


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    split = {"loss": 1, "accuracy": 0.5, "mean_iou": 0.5, "iou": [0.5, 0.5]}
    line = json.dumps({"epoch": 1, "lr": 1e-4, "train": split, "validate": split})
    (tmp_path / "log.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "torn.jsonl").write_text(f"{line}\n{line[:20]}", encoding="utf-8")
    for name in ("log.jsonl", "torn.jsonl", "absent.jsonl"):
        with pytest.raises(UsageError, match=rf"{name}: expected the log of (a|one) training"):
            kept_mean_iou(tmp_path / name)


def test_a_failing_command_ends_the_build(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.run_command(("matseg-inspect", "none.onnx"), tmp_path)
    assert ended.value.code == 2
    with pytest.raises(MatsegError, match="matseg-nothing: not installed"):
        commands.run_command(("matseg-nothing",), tmp_path)
