"""Nothing but a model of ours reaches onnxruntime, whatever else an ONNX file can hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from matseg_runtime.cli.model import inspect_main
from matseg_runtime.inference import session as session_module
from matseg_runtime.inference.session import Session
from matseg_runtime.model import file, guard
from matseg_runtime.model.file import LIMIT_VARIABLE, read_model_bytes
from matseg_runtime.model.guard import OPERATORS, check_model
from matseg_shared.contract.onnx_properties import encode
from matseg_shared.errors import ModelError, UsageError

PATH = Path("model.onnx")


def whole() -> onnx.ModelProto:
    """A model that is loaded without a word."""
    graph = onnx_models.build_graph()
    properties = encode(onnx_models.build_metadata(), onnx_models.self_test_of(graph, 1, "uint8"))
    helper.set_model_props(graph, properties)
    return graph


WHOLE = whole().SerializeToString()


def external(graph: onnx.ModelProto) -> None:
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def location_alone(graph: onnx.ModelProto) -> None:
    graph.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def external_attribute(graph: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "value")
    tensor.data_location = TensorProto.EXTERNAL
    graph.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def sparse(graph: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    graph.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))


def subgraph(graph: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "body", [], [])
    graph.graph.node[0].attribute.append(helper.make_attribute("body", inner))


def operator(kind: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def add(graph: onnx.ModelProto) -> None:
        graph.graph.node.append(helper.make_node(kind, ["image"], ["more"], domain=domain))

    return add


def foreign_set(graph: onnx.ModelProto) -> None:
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def function(graph: onnx.ModelProto) -> None:
    graph.functions.append(
        helper.make_function("mine", "Relu", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    )


def engine_settings(graph: onnx.ModelProto) -> None:
    graph.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": 1}}')


def enormous(graph: onnx.ModelProto) -> None:
    del graph.graph.initializer[0].dims[:]
    graph.graph.initializer[0].dims.extend([1 << 20, 1 << 20, 64])


def segmented(graph: onnx.ModelProto) -> None:
    graph.graph.initializer[0].segment.begin = 0


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "external data": (external, "another file"),
    "external data without a location flag": (location_alone, "another file"),
    "external data of an attribute": (external_attribute, "another file"),
    "sparse weights": (sparse, "sparse weights"),
    "a subgraph": (subgraph, "a graph within an operator"),
    "a loop": (operator("Loop"), "the operator 'Loop'"),
    "memory from a shape": (operator("ConstantOfShape"), "the operator 'ConstantOfShape'"),
    "memory from repeats": (operator("Tile"), "the operator 'Tile'"),
    "a cached engine": (operator("EPContext", "com.microsoft"), "the foreign domain 'com.microsoft'"),
    "an operator of a custom library": (operator("Relu", "evil"), "the foreign domain 'evil'"),
    "a foreign operator set": (foreign_set, "the foreign domain 'com.microsoft'"),
    "a function": (function, "functions of its own"),
    "training": (lambda graph: graph.training_info.add(), "information to train on"),
    "settings for the engine": (engine_settings, "settings for onnxruntime"),
    "a shape without data": (enormous, "a shape for which it has not the data"),
    "segments": (segmented, "weights in segments"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_export_holds_is_refused_before_it_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("onnxruntime was handed the file")

    monkeypatch.setattr(session_module, "_create", unwanted)
    change, text = HOSTILE[name]
    graph = whole()
    change(graph)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(graph.SerializeToString())
    result = CliRunner().invoke(inspect_main, [str(path)])
    assert result.exit_code == 2, result.output
    assert text in result.stderr
    assert "it is not loaded" in result.stderr


def field(number: int, kind: int, payload: bytes) -> bytes:
    """One field of a message, its length before it where its kind has one."""
    length = varint(len(payload)) if kind == 2 else b""
    return varint(number << 3 | kind) + length + payload


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


FORGED = {
    # readers of protobuf merge two graphs into one: the second could hold anything
    "a second graph": WHOLE + field(7, 2, b""),
    "an unknown field": WHOLE + field(99, 2, b"x"),
    "a group": WHOLE + field(1, 3, b""),
    "a field of another kind": WHOLE + field(2, 0, varint(1)),
    "a number without an end": WHOLE + b"\x80",
    "a number of 70 bits": WHOLE + field(5, 0, b"\xff" * 9 + b"\x7f"),
    "a length beyond the end": WHOLE + field(14, 2, b"")[:-1] + varint(1 << 40),
    "nothing": b"",
    "a text": b"hello",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_encodings_are_no_models(name: str) -> None:
    with pytest.raises(ModelError, match="a damaged file or another format"):
        check_model(PATH, FORGED[name])


def test_a_location_that_another_reader_cuts_to_32_bits_counts() -> None:
    """2 to the 32 plus 1 is `EXTERNAL` to a reader that keeps the lower 32 bits, as onnxruntime's does."""
    tensor = field(1, 0, varint(1)) + field(14, 0, varint((1 << 32) + 1))
    assert TensorProto.FromString(tensor).data_location == TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="another file"):
        check_model(PATH, field(7, 2, field(5, 2, tensor)))


def test_the_other_format_of_onnxruntime_is_not_guessed_from_the_bytes(tmp_path: Path) -> None:
    """Bytes 4 to 8 `ORTM` make onnxruntime take a file for its own format, in which nobody has looked."""
    content = field(1, 0, varint(8)) + field(2, 2, b"ORTM")
    rest = onnx.ModelProto.FromString(WHOLE)
    rest.ClearField("ir_version")
    rest.ClearField("producer_name")
    path = tmp_path / "both.onnx"
    path.write_bytes(content + rest.SerializeToString())
    assert path.read_bytes()[4:8] == b"ORTM"
    assert Session.open(path, provider="cpu", threads=1).self_test().passed


def test_the_engine_prints_nothing_of_its_own(tmp_path: Path) -> None:
    """A name that is no UTF-8 made it try again on the CPU, and tell so on standard output."""
    path = tmp_path / "x.onnx"
    before, _, after = WHOLE.rpartition(b"cast_0")  # where it is used: an error names it
    path.write_bytes(before + b"cast\xff0" + after)
    program = f"from matseg_runtime.cli.model import inspect_main; inspect_main([{str(path)!r}, '--json'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "ModelError"
    assert "cannot load this model" in done.stderr
    assert "EP Error" not in done.stdout + done.stderr


def test_a_file_of_a_million_empty_parts_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be an object in this process, and in onnxruntime's."""
    monkeypatch.setattr(guard, "_MOST_FIELDS", 100)
    nodes = field(1, 2, field(4, 2, b"Relu"))
    with pytest.raises(ModelError, match="more operators"):
        check_model(PATH, field(7, 2, nodes * 60))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_other_readers_see_nothing_else_in_what_passes(data: Any) -> None:
    """Bytes changed at random are refused in our words, or pass and are harmless to onnx's own reader, too."""
    start = WHOLE.index(b"Cast") - 40  # not within megabytes of weights only
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, 60) | st.integers(start, len(content) - 1))
        content[where] = data.draw(st.integers(0, 255))
    try:
        check_model(PATH, bytes(content))
    except ModelError:
        return
    require_harmless(bytes(content))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_inserted_fields_are_seen_as_other_readers_see_them(data: Any) -> None:
    """Whole fields of any number and kind put into a weight, an operator or the graph."""
    number, kind = data.draw(st.integers(1, 30)), data.draw(st.sampled_from([0, 1, 2, 5]))
    payload = {
        0: varint(data.draw(st.integers(0, (1 << 64) - 1))),
        1: b"\0" * 8,
        2: data.draw(st.binary(max_size=12)),
        5: b"\0" * 4,
    }
    extra = field(number, kind, payload[kind])
    tensor = field(1, 0, varint(1)) + field(2, 0, varint(1)) + field(9, 2, b"\0" * 4)
    node = field(4, 2, b"Relu")
    place = data.draw(st.sampled_from(["model", "graph", "weight", "operator"]))
    graph = field(5, 2, tensor + extra * (place == "weight")) + field(
        1, 2, node + extra * (place == "operator")
    )
    content = field(7, 2, graph + extra * (place == "graph")) + extra * (place == "model")
    try:
        check_model(PATH, content)
    except ModelError:
        return
    require_harmless(content)


def require_harmless(content: bytes) -> None:
    try:
        found = onnx.ModelProto.FromString(content)
    except Exception:  # what protobuf cannot read, onnxruntime cannot either
        return
    assert not found.functions
    assert not found.training_info
    assert not found.graph.sparse_initializer
    assert {entry.domain for entry in found.opset_import} <= {"", "ai.onnx"}
    for tensor in found.graph.initializer:
        assert tensor.data_location == TensorProto.DEFAULT
        assert not tensor.external_data
    for node in found.graph.node:
        assert node.op_type in OPERATORS
        assert node.domain in ("", "ai.onnx")
        for attribute in node.attribute:
            assert not attribute.HasField("g")
            assert not attribute.graphs
            assert not attribute.t.external_data


def test_models_have_a_size_limit_that_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(b"x" * 5000)
    monkeypatch.setattr(file, "DEFAULT_LIMIT", 4999)
    with pytest.raises(
        ModelError, match=r"at most 5 kB, found a larger file; .* set MATSEG_MODEL_LIMIT to a larger"
    ):
        read_model_bytes(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "5kB")
    assert len(read_model_bytes(path)) == 5000
    monkeypatch.setenv(LIMIT_VARIABLE, "plenty")
    with pytest.raises(UsageError, match="MATSEG_MODEL_LIMIT plenty: expected a size"):
        read_model_bytes(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no device files")
def test_devices_and_pipes_are_no_models(tmp_path: Path) -> None:
    """They hand out bytes for ever, or wait for them for ever."""
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), pipe):
        with pytest.raises(ModelError, match="found a pipe or device"):
            read_model_bytes(path)


def test_names_that_no_file_can_have_are_told() -> None:
    for name in ("a\0b.onnx", "x" * 5000):
        with pytest.raises(ModelError):
            read_model_bytes(Path(name))
