"""Loading a model on a provider, or saying in one sentence why not."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest

from matseg_runtime.inference import providers
from matseg_runtime.inference.session import Session
from matseg_shared.contract.onnx_properties import DOCUMENT_KEY, SelfTest, encode
from matseg_shared.errors import (
    MetadataError,
    MissingExtraError,
    ModelError,
    ProviderError,
    UnsupportedError,
)


def test_it_says_what_it_runs_on(session: Session) -> None:
    assert session.provider == "cpu"
    assert session.threads == 1
    assert len(session.model.sha256) == 64


def test_auto_says_why_it_took_the_cpu(model: Path) -> None:
    opened = Session.open(model)
    assert opened.provider == "cpu"
    assert "no cuda" in opened.reason


def test_only_the_outputs_needed_are_computed(session: Session) -> None:
    asked: list[list[str]] = []
    inner = session._session

    class Recording:
        def run(self, names: list[str], feed: dict[str, Any]) -> Any:
            asked.append(names)
            return inner.run(names, feed)

    opened = Session(
        model=session.model, provider="cpu", reason="", threads=1, runtime_version="", _session=Recording()
    )
    opened.predict(session.model.self_test.image)
    opened.predict_with_probabilities(session.model.self_test.image)
    assert asked == [["labels"], ["labels", "probabilities"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found a damaged file or another format"),
        (b"this is a text file", "found a damaged file or another format"),
        (bytes(range(256)) * 20, "found a damaged file or another format"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        Session.open(path, provider="cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model(tmp_path: Path, model: Path, share: float) -> None:
    content = model.read_bytes()
    path = tmp_path / "short.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"short\.onnx"):
        Session.open(path, provider="cpu")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file"):
        Session.open(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="found a folder"):
        Session.open(tmp_path)


def test_a_foreign_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(onnx_models.build_graph().SerializeToString())
    with pytest.raises(MetadataError, match="written by matseg-export"):
        Session.open(path, provider="cpu")


def test_an_unknown_schema_version(tmp_path: Path, model: Path) -> None:
    graph = onnx.load(model)
    properties = {item.key: item.value for item in graph.metadata_props}
    properties[DOCUMENT_KEY] = properties[DOCUMENT_KEY].replace('"schema_version":2', '"schema_version":7')
    with pytest.raises(MetadataError, match="schema version 7"):
        Session.open(onnx_models.save(graph, properties, tmp_path / "new.onnx"), provider="cpu")


@pytest.mark.parametrize(
    ("graph_options", "metadata_options", "message"),
    [
        ({"dtype": "uint16"}, {"dtype": "uint8"}, r"expected 'image' to be a tensor\(uint8\)"),
        ({"channels": 3}, {"channels": 1}, "speak of 1 channels, its 'image' has 3"),
        ({"n_class": 4}, {"n_class": 2}, "speak of 2 classes, its 'probabilities' has 4"),
    ],
)
def test_a_graph_that_breaks_its_metadata(
    tmp_path: Path, graph_options: dict[str, Any], metadata_options: dict[str, Any], message: str
) -> None:
    graph = onnx_models.build_graph(**graph_options)
    metadata = onnx_models.build_metadata(**metadata_options)
    test = SelfTest(
        image=np.zeros((1, metadata.input.channels, 8, 8), metadata.input.dtype),
        labels=np.zeros((1, 8, 8), np.uint8),
        margin=np.ones((1, 8, 8), np.float32),
    )
    path = onnx_models.save(graph, encode(metadata, test), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        Session.open(path, provider="cpu")


def test_outputs_of_other_names(tmp_path: Path) -> None:
    graph = onnx_models.build_graph()
    graph.graph.output.pop()
    test = onnx_models.self_test_of(onnx_models.build_graph(), 1, "uint8")
    path = onnx_models.save(graph, encode(onnx_models.build_metadata(), test), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="expected the outputs labels, probabilities, found labels"):
        Session.open(path, provider="cpu")


def _model_with_wrong_self_test(path: Path, precision: str, margin: float) -> Path:
    graph = onnx_models.build_graph()
    test = onnx_models.self_test_of(graph, 1, "uint8")
    labels, margins = test.labels.copy(), test.margin.copy()
    labels[0, 3, 4] = (labels[0, 3, 4] + 1) % 3
    margins[0, 3, 4] = margin
    metadata = onnx_models.build_metadata(precision=precision)
    return onnx_models.save(
        graph, encode(metadata, SelfTest(image=test.image, labels=labels, margin=margins)), path
    )


@pytest.mark.parametrize(
    ("precision", "margin", "passes"),
    [
        ("fp32", 0.5, False),
        ("fp32", 0.002, False),
        ("fp32", 0.0005, True),
        ("fp16", 0.0005, True),
        ("int8", 0.0005, False),
    ],
)
def test_only_rounding_ties_of_floating_point_models_may_deviate(
    tmp_path: Path, precision: str, margin: float, passes: bool
) -> None:
    opened = Session.open(_model_with_wrong_self_test(tmp_path / "m.onnx", precision, margin), provider="cpu")
    result = opened.self_test()
    assert result.passed is passes
    assert (result.mismatches, result.ties) == ((0, 1) if passes else (1, 0))
    if not passes:
        with pytest.raises(ProviderError, match="1 of 1024 pixels get another label"):
            opened.require_self_test()


def test_a_wrong_batch_is_one_sentence(session: Session) -> None:
    with pytest.raises(ProviderError, match="failed on a batch of 1 x 2 x 8 x 8"):
        session.predict(np.zeros((1, 2, 8, 8), np.uint8))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_here_is_refused(model: Path, provider: Any) -> None:
    runtime = providers.load_onnxruntime()
    if providers.EXECUTION_PROVIDERS[provider] in runtime.get_available_providers():
        pytest.skip(f"this onnxruntime was built with {provider}")
    with pytest.raises(ProviderError, match=f"provider {provider}: expected .* found only .* --provider cpu"):
        Session.open(model, provider=provider)


def _pretend_installed(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    def distribution(name: str) -> object:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_two_onnxruntimes_side_by_side(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    _pretend_installed(monkeypatch, {"onnxruntime", "onnxruntime-gpu"})
    with pytest.raises(UnsupportedError, match="pip uninstall --yes onnxruntime onnxruntime-gpu"):
        Session.open(model)


def test_no_onnxruntime_at_all(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    _pretend_installed(monkeypatch, set())
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"`cuda13` or `cuda12`.*`cpu`: pip install .*cpu"):
        Session.open(model)


def test_an_onnxruntime_that_does_not_load(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    _pretend_installed(monkeypatch, {"onnxruntime-gpu"})
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UnsupportedError, match="onnxruntime-gpu is installed but cannot be loaded"):
        Session.open(model)


def test_int8_products_are_exact_on_every_processor() -> None:
    """The largest sums that uint8 codes and int8 weights can have; 16 bits would cut them off."""
    import onnxruntime

    make, constants = onnx.helper.make_node, onnx.numpy_helper.from_array
    weights = np.random.default_rng(0).choice([-127, 127], (16, 16, 3, 3)).astype(np.int8)
    codes = np.random.default_rng(1).choice([0, 255], (1, 16, 12, 12)).astype(np.uint8)
    scales = {"one": np.float32(1), "coarse": np.float32(1000), "zero": np.uint8(0), "middle": np.uint8(128)}
    scales["weight_zero"] = np.int8(0)
    names = ["codes", "one", "zero", "weights", "one", "weight_zero", "coarse", "middle"]
    graph = onnx.helper.make_graph(
        [make("QLinearConv", names, ["sums"])],
        "products",
        [onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.UINT8, codes.shape)],
        [onnx.helper.make_tensor_value_info("sums", onnx.TensorProto.UINT8, None)],
        [constants(weights, "weights"), *(constants(np.asarray(v), k) for k, v in scales.items())],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers.exact_options(onnxruntime), providers=["CPUExecutionProvider"]
    )
    windows = np.lib.stride_tricks.sliding_window_view(codes[0].astype(np.int64), (3, 3), axis=(1, 2))
    sums = np.einsum("cyxij,ocij->oyx", windows, weights.astype(np.int64))
    expected = (np.rint(sums / 1000) + 128).clip(0, 255)
    np.testing.assert_array_equal(session.run(None, {"codes": codes})[0][0], expected)
