"""Every model of the zoo works on this machine, and its file, card and index say the same of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from matseg_runtime.inference.session import Session
from matseg_runtime.model.file import choose_model
from matseg_runtime.model.zoo import ZOO_VARIABLE, ZooModel, read_index
from matseg_trainer.config.load import load_config
from matseg_trainer.config.versions import VersionConfig, config_differences, current_names
from models_zoo.build.build import LARGEST_MODEL
from models_zoo.build.checkout import ZooCheckout
from models_zoo.build.pages import pages

ROOT = Path(__file__).parents[2]
MODELS = read_index().models
each_model = pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])


@pytest.fixture(autouse=True)
def _only_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ZOO_VARIABLE, raising=False)


@each_model
def test_its_self_test_passes_on_the_cpu(model: ZooModel) -> None:
    path = choose_model(f"zoo:{model.name}")[0]
    assert path == ROOT / "models_zoo" / model.file
    result = Session.open(path, provider="cpu", threads=1).self_test()
    assert result.passed
    assert result.pixels > 0


@each_model
def test_it_is_small(model: ZooModel) -> None:
    size = (ROOT / "models_zoo" / model.file).stat().st_size
    assert size == model.bytes
    assert size <= LARGEST_MODEL == 8_000_000


@each_model
def test_config_toml_still_makes_it(model: ZooModel) -> None:
    """Hyperparameters that came later have their defaults; those that are gone since cannot be compared."""
    training = Session.open(
        choose_model(f"zoo:{model.name}")[0], provider="cpu", threads=1
    ).model.metadata.training
    now = load_config(ROOT / "config.toml").version(model.dataset, model.version)
    known = VersionConfig.model_fields
    then = {key: value for key, value in current_names(training.config).items() if key in known}
    assert config_differences(then, now) == []


def test_cards_and_indexes_are_what_the_files_say() -> None:
    for page in pages(ZooCheckout.find()):
        assert page.path.read_text(encoding="utf-8") == page.text, (
            f"{page.path}: python -m models_zoo.build cards"
        )


def test_the_index_lists_every_model_file() -> None:
    files = {path.parent.name for path in (ROOT / "models_zoo").glob("*/model.onnx")}
    assert files == {model.name for model in MODELS}
    assert "dendrites" in files
