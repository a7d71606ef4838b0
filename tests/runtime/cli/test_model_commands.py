"""matseg-inspect and matseg-verify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_models
from click.testing import CliRunner
from PIL import Image

from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.cli.run import run_main
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
