"""matseg-inspect and matseg-verify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from click.testing import CliRunner
from PIL import Image

from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.inference import timing
from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import segment_image
from matseg_shared.contract.metadata import InitInfo
from matseg_shared.contract.onnx_properties import SelfTest, encode


def test_inspect_prints_what_a_user_looks_for(model: Path) -> None:
    result = CliRunner().invoke(inspect_main, [str(model)])
    assert result.exit_code == 0
    for text in (
        "alloy_v1",
        "phase 2",
        "(86, 180, 233)",
        "1 channel(s) of uint8",
        "4, 16 pixels",
        "fp32, 17",
    ):
        assert text in result.output


def test_inspect_as_json_is_the_document(model: Path) -> None:
    document = json.loads(CliRunner().invoke(inspect_main, [str(model), "--json"]).stdout)
    assert document["schema_version"] == 2
    assert document["tiling"] == {"stride": 4, "halo": 16}
    assert len(document["sha256"]) == 64


def test_inspect_names_the_weights_that_a_training_started_from(tmp_path: Path) -> None:
    metadata = onnx_models.build_metadata()
    start = InitInfo(name="steel_v3", sha256="ab" * 32)
    training = metadata.training.model_copy(update={"init": start})
    metadata = metadata.model_copy(update={"training": training})
    graph = onnx_models.build_graph()
    properties = encode(metadata, onnx_models.self_test_of(graph, 1, "uint8"))
    path = onnx_models.save(graph, properties, tmp_path / "m.onnx")
    printed = " ".join(CliRunner().invoke(inspect_main, [str(path)], terminal_width=200).output.split())
    assert "started from │ steel_v3 (weights with SHA-256 abab" in printed


def test_verify_passes_on_the_cpu(model: Path) -> None:
    result = CliRunner().invoke(verify_main, [str(model), "--provider", "cpu"])
    assert result.exit_code == 0
    assert "passed on cpu" in result.output
    result = CliRunner().invoke(verify_main, [str(model), "--json"])
    assert json.loads(result.stdout)["passed"] is True


def test_verify_fails_aloud(tmp_path: Path) -> None:
    graph = onnx_models.build_graph()
    test = onnx_models.self_test_of(graph, 1, "uint8")
    wrong = SelfTest(image=test.image, labels=2 - test.labels, margin=np.ones_like(test.margin))
    path = onnx_models.save(graph, encode(onnx_models.build_metadata(), wrong), tmp_path / "m.onnx")
    result = CliRunner().invoke(verify_main, [str(path), "--json"])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["passed"] is False
    assert "its self-test fails on the provider cpu" in result.stderr


def test_bad_model_files_end_with_2(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("hello")
    for command in (inspect_main, verify_main):
        for argument in (path, tmp_path / "none.onnx", tmp_path):
            result = CliRunner().invoke(command, [str(argument)])
            assert result.exit_code == 2
            assert result.stderr.startswith("Error: ")
            assert "Traceback" not in result.output


def test_a_precision_that_gains_nothing_is_told(tmp_path: Path) -> None:
    """fp16 is for GPUs: on the CPU verify and run say so, and inspect says where it pays."""
    path = onnx_models.save_model(tmp_path / "half.onnx", precision="fp16")
    verified = CliRunner().invoke(verify_main, [str(path), "--provider", "cpu"])
    assert verified.exit_code == 0
    assert "warning: fp16 does not pay on the provider cpu" in verified.output
    assert "cuda, tensorrt" in CliRunner().invoke(inspect_main, [str(path)]).output
    folder = tmp_path / "scan"
    folder.mkdir()
    Image.fromarray(onnx_models.random_pixels((20, 20), "uint8")).save(folder / "a.png")
    done = CliRunner().invoke(run_main, [str(path), str(folder), "--provider", "cpu"])
    assert "warning: fp16 does not pay on the provider cpu" in done.output


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of one slice each, of small images."""
    monkeypatch.setattr(timing, "_LEAST", 0.0)
    monkeypatch.setattr(timing, "EDGE", 64)


@pytest.mark.usefixtures("brief")
def test_verify_times_several_models(model: Path, slices: Path, tmp_path: Path) -> None:
    """Each is timed in every round, and its labels are compared with those of the first, slice by slice."""
    other = onnx_models.save_model(tmp_path / "other.onnx", seed=3)
    words = [str(model), str(model), str(other), "--time", "--input", str(slices), "--provider", "cpu"]
    result = CliRunner().invoke(verify_main, [*words, "--threads", "2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["models"]
    assert [item["model"] for item in found] == [str(model), str(model), str(other)]
    assert all(item["passed"] and len(item["milliseconds"]) == timing.ROUNDS for item in found)
    images = [np.array(Image.open(path))[np.newaxis] for path in sorted(slices.iterdir())]
    first, second = (
        [segment_image(Session.open(path, provider="cpu", threads=1), image).labels for image in images]
        for path in (model, other)
    )
    unlike = sum(int((one != two).sum()) for one, two in zip(first, second, strict=True))
    assert unlike > 0
    assert [item["unlike"] for item in found] == [0, 0, unlike]
    assert {item["compared"] for item in found} == {sum(image.size for image in images)}


@pytest.mark.usefixtures("brief")
def test_times_are_printed_fastest_first(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = (
        timing.Timed(milliseconds=times, pixels=10_000, unlike=wrong)
        for times, wrong in (((30.0, 31.0, 39.0), 0), ((10.0, 10.5, 29.0), 3))
    )
    monkeypatch.setattr(timing, "time_side_by_side", lambda *_, **__: [slow, fast])
    printed = CliRunner().invoke(verify_main, [str(model), str(model), "--time"]).stdout
    assert printed.index("10.5 (10.0 to 29.0)") < printed.index("31.0 (30.0 to 39.0)")
    assert "0.0300%" in printed
    assert "2.95" in printed
    assert f"fastest here: {model}" in printed
    monkeypatch.setattr(timing, "time_side_by_side", lambda *_, **__: [slow, slow])
    printed = CliRunner().invoke(verify_main, [str(model), str(model), "--time"]).stdout
    assert "no difference that these rounds could show" in printed


@pytest.mark.usefixtures("brief")
def test_one_model_alone_is_timed_on_its_own_image(model: Path) -> None:
    result = CliRunner().invoke(verify_main, [str(model), "--time", "--json"])
    document = json.loads(result.stdout)
    assert document["compared"] == 64 * 64
    assert document["unlike"] == 0


@pytest.mark.usefixtures("brief")
def test_a_model_with_neighbours_is_timed(tmp_path: Path) -> None:
    path = onnx_models.save_model(tmp_path / "m.onnx", channels=3, context=1)
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((4, 20, 24), "uint8"))
    words = [str(path), "--time", "--input", str(tmp_path / "scan.npy"), "--json"]
    assert json.loads(CliRunner().invoke(verify_main, words).stdout)["compared"] == 2 * 20 * 24
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((2, 20, 24), "uint8"))
    result = CliRunner().invoke(verify_main, words)
    assert result.exit_code == 2
    assert "expected at least 3 slice(s), found 2" in result.stderr


def test_what_cannot_be_compared_is_refused(model: Path, tmp_path: Path) -> None:
    for name, options, text in (
        ("two", {"n_class": 2}, "expected the classes of"),
        ("deep", {"dtype": "uint16"}, "expected the input of"),
    ):
        other = onnx_models.save_model(tmp_path / f"{name}.onnx", **options)
        result = CliRunner().invoke(verify_main, [str(model), str(other), "--time"])
        assert result.exit_code == 2
        assert text in result.stderr
    np.save(tmp_path / "deep.npy", np.zeros((2, 20, 24), np.uint16))
    for words, text in (
        (("--input", str(tmp_path / "deep.npy")), "--input applies with --time only"),
        (("--time", "--input", str(tmp_path / "deep.npy")), "uint16"),
        (("--time", "--input", str(tmp_path / "none")), "none"),
    ):
        result = CliRunner().invoke(verify_main, [str(model), *words])
        assert result.exit_code == 2
        assert text in result.stderr
        assert "Traceback" not in result.output
