"""Time of every node of a graph, and operations of its layers."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from matseg_runtime.inference.providers import exact_options
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME

_WEIGHT_INPUT = {
    "Conv": 1,
    "FusedConv": 1,
    "NhwcFusedConv": 1,
    "ConvTranspose": 1,
    "QLinearConv": 3,
}
"""Position of an operator's weights among its inputs."""
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "QGemm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """One node of the optimised graph."""

    name: str
    operator: str
    layer: str
    """The layer whose weights it has, or the tensor it makes."""
    milliseconds: float
    operations: float
    """Multiplications and additions, two per product, of layers; 0 of everything else."""
    shape: tuple[int, ...]
    """Shape of its first output."""


def profile(model: Path, image: NDArray[Any], *, threads: int, runs: int) -> list[NodeTime]:
    """Time each node of the graph that onnxruntime makes of a model; medians, in the order of execution.

    Args:
        model: the file.
        image: (N, C, H, W) raw pixels.
        threads: of the one call.
        runs: timed ones; one more goes before them.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="matseg-profile-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = _options(threads)
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return _profile_as_it_is(onnx.load(path), image, threads=threads, runs=runs, folder=Path(folder))


def count_operations(model: Path, image: NDArray[Any], *, threads: int) -> float:
    """Multiplications and additions of all layers of a model for one input, as the file has them."""
    with tempfile.TemporaryDirectory(prefix="matseg-profile-") as folder:
        nodes = _profile_as_it_is(onnx.load(model), image, threads=threads, runs=1, folder=Path(folder))
    return sum(node.operations for node in nodes)


def _profile_as_it_is(
    graph: onnx.ModelProto, image: NDArray[Any], *, threads: int, runs: int, folder: Path
) -> list[NodeTime]:
    import onnxruntime

    for number, node in enumerate(graph.graph.node):
        node.name = f"n{number}"  # the profile knows nodes by name only, and many have none
    options = _options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for _ in range(runs + 1):
        session.run([LABELS_NAME], {INPUT_NAME: image})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    shapes: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {}
    for event in events:
        name, found, _ = event["name"].partition("_kernel_time")
        if found and event.get("cat") == "Node":
            times.setdefault(name, []).append(event["dur"] / 1e3)
            arguments = event["args"]
            shapes[name] = (_shapes(arguments, "input_type_shape"), _shapes(arguments, "output_type_shape"))
    weights = _weights(graph)
    return [
        NodeTime(
            name=node.name,
            operator=node.op_type,
            layer=_layer(node, weights),
            milliseconds=statistics.median(times[node.name][1:] or times[node.name]),
            operations=_operations(node, weights, *shapes[node.name]),
            shape=shapes[node.name][1][0] if shapes[node.name][1] else (),
        )
        for node in graph.graph.node
        if node.name in times
    ]


def _weights(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the constants, those that are dequantised before they are used too."""
    weights = {item.name: tuple(item.dims) for item in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def _options(threads: int) -> Any:
    import onnxruntime

    options = exact_options(onnxruntime)
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options


def _shapes(arguments: Mapping[str, Any], key: str) -> list[tuple[int, ...]]:
    return [tuple(shape) for entry in arguments.get(key, []) for shape in entry.values()]


def _layer(node: onnx.NodeProto, weights: Mapping[str, tuple[int, ...]]) -> str:
    position = _WEIGHT_INPUT.get(node.op_type)
    if position is None or node.input[position] not in weights:
        return node.output[0]
    return node.input[position].removeprefix("network.").partition(".weight")[0]


def _operations(
    node: onnx.NodeProto,
    weights: Mapping[str, tuple[int, ...]],
    inputs: Sequence[tuple[int, ...]],
    outputs: Sequence[tuple[int, ...]],
) -> float:
    """Two per product of a layer; what is added to a whole is not counted apart."""
    position = _WEIGHT_INPUT.get(node.op_type)
    if position is not None and node.input[position] in weights:
        per_pixel = math.prod(weights[node.input[position]][1:])  # of a ConvTranspose: of each input pixel
        return 2.0 * math.prod((inputs if node.op_type == "ConvTranspose" else outputs)[0]) * per_pixel
    if node.op_type in _PRODUCTS and inputs and outputs:
        return 2.0 * math.prod(outputs[0]) * inputs[0][-1]
    return 0.0


def grey_image(size: int) -> NDArray[np.uint8]:
    """(1, 1, size, size) noise: how long a layer takes does not depend on what it sees."""
    return np.random.default_rng(0).integers(0, 256, (1, 1, size, size), dtype=np.uint8)
