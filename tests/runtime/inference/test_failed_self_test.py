"""A provider with other labels than the export's is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_models
import pytest
from click.testing import Result

from matseg_runtime.inference.session import Session
from matseg_runtime.model.file import ModelFile
from matseg_shared.contract.onnx_properties import SelfTest, encode

Run = Callable[..., Result]


@pytest.fixture
def deviating(tmp_path: Path) -> Path:
    """An int8 model with another label in its self-test than it gives, in one of 1024 pixels."""
    graph = onnx_models.build_graph()
    test = onnx_models.self_test_of(graph, 1, "uint8")
    labels = test.labels.copy()
    labels[0, 3, 4] = (labels[0, 3, 4] + 1) % 3
    properties = encode(
        onnx_models.build_metadata(precision="int8"),
        SelfTest(image=test.image, labels=labels, margin=test.margin),
    )
    return onnx_models.save(graph, properties, tmp_path / "deviating.onnx")


@pytest.fixture
def cuda_deviates(monkeypatch: pytest.MonkeyPatch, deviating: Path) -> None:
    """`auto` and `cuda` bring up a stand-in for CUDA that gives other labels than the export."""
    real = Session.open.__func__  # type: ignore[attr-defined]

    def open_session(file: ModelFile, *, provider: str, **options: Any) -> Session:
        if provider == "cpu":
            return real(Session, file, provider=provider, **options)  # type: ignore[no-any-return]
        opened = real(Session, deviating, provider="cpu", **options)
        # it is the provider that differs, not the file
        known = dataclasses.replace(opened.model, path=file.model.path, sha256=file.model.sha256)
        return dataclasses.replace(opened, provider="cuda", reason="auto", model=known)

    monkeypatch.setattr(Session, "open", open_session)


def test_a_file_is_refused(run: Run, deviating: Path, slices: Path, tmp_path: Path) -> None:
    result = run(deviating, slices, "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "1 of 1024 pixels get another label" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("cuda_deviates")
def test_auto_goes_on_to_the_cpu_and_says_why(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    result = run(model, slices, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "on cpu (auto; cuda fails the self-test in 1 of 1024 pixels)" in " ".join(result.output.split())


@pytest.mark.usefixtures("cuda_deviates")
def test_a_provider_that_was_named_is_refused(run: Run, model: Path, slices: Path, tmp_path: Path) -> None:
    result = run(model, slices, "-o", tmp_path / "out", "--provider", "cuda")
    assert result.exit_code == 3
    assert "self-test fails on the provider cuda" in result.output
