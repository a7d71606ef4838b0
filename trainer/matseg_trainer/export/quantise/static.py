"""Static quantisation by onnxruntime: uint8 activations, int8 weights with a scale per output channel.

Weights have 7 bits: the sum of two products with a uint8 value fits 16 bits, where x86 processors without VNNI add
them, so that every processor gives the same labels.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from matseg_shared.contract.metadata import INPUT_NAME
from matseg_trainer.export.graph import strip
from matseg_trainer.export.tensors import class_scores, following, layer_name

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from onnxruntime.quantization.calibrate import TensorsData

METHOD = "onnxruntime quantize_static, smallest and largest value"
WEIGHT_LEVELS = 64
_MOVES = ("Concat", "MaxPool", "Reshape", "Resize", "Slice", "Transpose")
_OPERATORS = ("Add", "Clip", "Conv", "Mul", "Relu", *_MOVES)
"""Operators with integer kernels, or that only move values."""


def activation_ranges(
    model: onnx.ModelProto, crops: Sequence[NDArray[Any]], kinds: Sequence[str] = _OPERATORS
) -> TensorsData:
    """Smallest and largest value of every tensor that operators of some kinds read or make.

    Those of an fp32 graph on crops (N, C, H, W) of raw pixels.
    """
    import onnx
    from onnxruntime.quantization.calibrate import create_calibrator

    with tempfile.TemporaryDirectory(prefix="matseg-") as folder:
        path = Path(folder) / "fp32.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(path, kinds, str(path.with_stem("augmented")))
        calibrator.collect_data(_CropReader(crops))
        return calibrator.compute_data()


def quantise(model: onnx.ModelProto, ranges: TensorsData, *, keep: Sequence[str] = ()) -> onnx.ModelProto:
    """The int8 graph of an fp32 graph; bilinear upsampling is left between integers, in float.

    The fp32 graph is as `in_integer_operators` makes it; the layers named in `keep` stay in fp32.
    """
    import onnx
    import onnx_ir as ir
    from onnxruntime.quantization import QDQQuantizer, QuantType

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"node{number}"
    quantiser = QDQQuantizer(
        prepared,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=_excluded(ir.from_proto(prepared).graph, keep),
        op_types_to_quantize=_OPERATORS,
        extra_options={},
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    result: onnx.ModelProto = quantiser.model.model
    strip(result)
    return result


class _CropReader:
    """Crops one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, crops: Sequence[NDArray[Any]]) -> None:
        self._crops = iter(crops)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        crop = next(self._crops, None)
        return None if crop is None else {INPUT_NAME: crop}


def layers_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the layers that can compute in int8, in graph order, each once."""
    import onnx_ir as ir

    graph = ir.from_proto(model).graph
    return tuple(dict.fromkeys(layer_name(node) for node in graph if node.op_type == "Conv"))


def _excluded(graph: ir.Graph, keep: Sequence[str]) -> list[str]:
    """Nodes that stay in float: layers to keep, what follows the class scores, and sums and enlargements of scores.

    Scores that are summed up from several layers would be rounded at every sum, those between others once more.
    """
    scores = class_scores(graph)
    excluded = following(scores, graph)
    waiting = list(scores)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node.op_type in ("Add", "Resize"):
            excluded.append(node)
            waiting += filter(None, node.inputs)
    excluded += [node for node in graph if node.op_type == "Conv" and layer_name(node) in keep]
    return [str(node.name) for node in excluded]


def ranges_digest(model: onnx.ModelProto) -> str:
    """SHA-256 (hex) over the scales and zero points of all activations of an int8 graph."""
    import onnx_ir as ir

    digest = hashlib.sha256()
    for node in ir.from_proto(model).graph:
        if node.op_type == "QuantizeLinear":
            for value in filter(None, node.inputs[1:]):
                digest.update(value.const_value.tobytes())  # type: ignore[union-attr]  # scales are constants
    return digest.hexdigest()
