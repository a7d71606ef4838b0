"""The rate of matrix products that this machine reaches in onnxruntime: the limit for every network.

`python _rates.py THREADS SECONDS` prints `{"int8": ..., "fp32": ...}`, operations a second.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
_CONVOLUTIONS = ((64, 256, 3), (128, 128, 3), (256, 96, 3), (512, 48, 3), (256, 128, 1), (1024, 64, 1))
"""(channels in and out, edge of the map, kernel); the best of a range, since no one shape is best everywhere."""
_SQUARES = (512, 1024, 2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One product to time."""

    precision: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    operations: float


def products() -> Iterator[Product]:
    """Convolutions and square matrix products, in fp32 and int8."""
    rng = np.random.default_rng(0)
    for channels, edge, kernel in _CONVOLUTIONS:
        shape = (channels, channels, kernel, kernel)
        operations = 2.0 * edge**2 * math.prod(shape)
        image = rng.standard_normal((1, channels, edge, edge)).astype(np.float32)
        weight = rng.standard_normal(shape).astype(np.float32)
        pads = [kernel // 2] * 4
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads)
        yield _product("fp32", [node], {"w": weight}, {"x": image}, operations)
        nodes, constants = _quantised_convolution(pads)
        codes = rng.integers(0, 256, image.shape, dtype=np.uint8)
        constants["w"] = rng.integers(-127, 128, shape).astype(np.int8)
        yield _product("int8", nodes, constants, {"x": codes}, operations)
    for edge in _SQUARES:
        one, other = (rng.standard_normal((edge, edge)).astype(np.float32) for _ in range(2))
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        yield _product("fp32", [node], {"w": other}, {"x": one}, 2.0 * edge**3)
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
        codes = rng.integers(0, 256, one.shape, dtype=np.uint8)
        levels = rng.integers(-127, 128, other.shape).astype(np.int8)
        yield _product("int8", [node], {"w": levels}, {"x": codes}, 2.0 * edge**3)


def _quantised_convolution(pads: list[int]) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    constants: dict[str, Any] = {
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "weight_scale": np.float32(0.01),
        "weight_zero": np.int8(0),
        "out_scale": np.float32(1.0),
    }
    inputs = ["x", "scale", "zero", "w", "weight_scale", "weight_zero", "out_scale", "zero"]
    return [helper.make_node("QLinearConv", inputs, ["y"], pads=pads)], constants


def _product(
    precision: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    inputs: dict[str, Any],
    operations: float,
) -> Product:
    kinds = {"MatMulInteger": TensorProto.INT32, "QLinearConv": TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "product",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in inputs.items()
        ],
        [helper.make_tensor_value_info("y", kinds.get(nodes[-1].op_type, TensorProto.FLOAT), None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return Product(precision=precision, model=model, inputs=inputs, operations=operations)


def best_rate(product: Product, threads: int, seconds: float) -> float:
    """Operations a second of the quickest call within so many seconds; at least three calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        product.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    times = [_seconds(lambda: session.run(None, product.inputs)) for _ in range(3)]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        times.append(_seconds(lambda: session.run(None, product.inputs)))
    return product.operations / min(times)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Print the best rate of each precision."""
    threads, seconds = int(sys.argv[1]), float(sys.argv[2])
    rates: dict[str, float] = {}
    for product in products():
        rate = best_rate(product, threads, seconds)
        rates[product.precision] = max(rates.get(product.precision, 0.0), rate)
    sys.stdout.write(json.dumps(rates) + "\n")


if __name__ == "__main__":
    main()
