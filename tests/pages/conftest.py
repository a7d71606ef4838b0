"""A browser for the whole session, and pages made by the commands themselves, of inputs whose names are markup."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromium
import onnx_models
import pytest
from click.testing import CliRunner
from html_pages import HOSTILE_CLASS, HOSTILE_STEM, PATIENCE, OpenPage, write_labelled, write_slices

from matseg_runtime.cli.run import run_main
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.contract.onnx_properties import encode
from matseg_trainer.commands.report import report_main

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium.find_chromium()
    if path is None:
        pytest.skip(f"no Chromium here: install one, or name it with {chromium.VARIABLE}")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=list(chromium.ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., OpenPage]]:
    """Open a file and wait until its charts are drawn."""
    from playwright.sync_api import expect

    contexts = []

    def open_(path: Path, **options: Any) -> OpenPage:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        )
        contexts.append(context)
        opened = OpenPage(context.new_page())
        opened.page.goto(path.as_uri())
        expect(opened.page.locator("figure.chart:not([data-drawn])")).to_have_count(0, timeout=PATIENCE)
        return opened

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-channel uint8 model of three classes, one of which has markup for a name."""
    graph = onnx_models.build_graph()
    metadata = onnx_models.build_metadata()
    names = ["matrix", HOSTILE_CLASS, "pore"]
    colours = [(0, 0, 0), (230, 159, 0), (86, 180, 233)]
    classes = tuple(
        ClassInfo(index=index, name=name, colour=colour, label_value=index)
        for index, (name, colour) in enumerate(zip(names, colours, strict=True))
    )
    metadata = metadata.model_copy(update={"classes": classes})
    path = tmp_path_factory.mktemp("model") / "alloy_v1.onnx"
    test = onnx_models.self_test_of(graph, 1, "uint8")
    return onnx_models.save(graph, encode(metadata, test), path)


@pytest.fixture
def run(model: Path) -> Callable[..., tuple[int, str]]:
    """matseg-run with a page, unless said otherwise; (exit code, what it printed)."""

    def call(*arguments: object, page: str = "--report") -> tuple[int, str]:
        words = [str(model), *map(str, arguments), "--provider", "cpu", page]
        result = CliRunner().invoke(run_main, words)
        return result.exit_code, result.output

    return call


@pytest.fixture
def labelled(tmp_path: Path, run: Callable[..., tuple[int, str]]) -> Path:
    """The output folder of a run."""
    code, text = run(write_slices(tmp_path / "scan"), "-o", tmp_path / "labels")
    assert code == 4, text  # one slice is excluded
    return tmp_path / "labels"


@pytest.fixture
def report() -> Callable[..., tuple[int, str]]:
    """matseg-report; (exit code, what it printed)."""

    def call(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(report_main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    return call


@pytest.fixture
def training_log(tmp_path: Path) -> Path:
    """`log/alloy_v1.jsonl` of four epochs, the third of them the best."""
    scores = [0.5, 0.7, 0.9, 0.8]
    lines = []
    for epoch, score in enumerate(scores, start=1):
        split = {"loss": 1.5 - score, "accuracy": score, "mean_iou": score, "iou": [score, None]}
        lines.append({"epoch": epoch, "lr": 0.01 / epoch, "train": split, "validate": split, "seconds": 2.0})
    path = tmp_path / "log" / "alloy_v1.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which an exported model was evaluated, on two images of which one has markup for a name."""
    from matseg_trainer.commands.evaluate import evaluate_main

    root = tmp_path_factory.mktemp("evaluated")
    (root / "config.toml").write_text('[discs.v1]\nmodel = "unet"\nn_class = 2\n')
    write_labelled(root / "data" / "discs", ["slice0", "slice1", HOSTILE_STEM])
    model = onnx_models.save_model(root / "discs_v1.onnx", n_class=2, name="discs_v1")
    words = ["discs", "v1", "--model", str(model), "--workspace", str(root), "--report"]
    result = CliRunner().invoke(evaluate_main, words)
    assert result.exit_code == 0, result.output
    assert f"report       {root / 'plots' / 'discs_v1_test_onnx.html'}" in result.output
    return root


@pytest.fixture
def evaluation(evaluated: Path, tmp_path: Path) -> Path:
    """The document of an evaluation, in a workspace that a test may spoil."""
    shutil.copytree(evaluated, tmp_path / "workspace")
    return tmp_path / "workspace" / "log" / "discs_v1_test_onnx.json"


@pytest.fixture
def evaluation_page(evaluated: Path) -> Path:
    """The page that matseg-evaluate made."""
    return evaluated / "plots" / "discs_v1_test_onnx.html"
