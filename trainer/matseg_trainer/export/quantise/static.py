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

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import INPUT_NAME
from matseg_trainer.export.graph import strip
from matseg_trainer.export.quantise.index import GraphIndex, class_scores, following, layer_name
from matseg_trainer.export.quantise.upsample import upsample_integers

if TYPE_CHECKING:
    import onnx

METHOD = "onnxruntime quantize_static, smallest and largest value"
WEIGHT_LEVELS = 64
_OPERATORS = [
    "Add",
    "Clip",
    "Concat",
    "Conv",
    "MaxPool",
    "Mul",
    "Relu",
    "Reshape",
    "Resize",
    "Slice",
    "Transpose",
]
"""Operators with integer kernels, or that only move values."""


def quantise(
    model: onnx.ModelProto, crops: Sequence[NDArray[Any]], *, keep: Sequence[str] = ()
) -> onnx.ModelProto:
    """The int8 graph of an fp32 graph.

    Args:
        model: as `in_integer_operators` makes it.
        crops: (N, C, H, W) raw pixels each; the ranges of activations are those on them.
        keep: names of layers that stay in fp32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # or it warns
    for number, node in enumerate(prepared.graph.node):
        node.name = f"node{number}"
    with tempfile.TemporaryDirectory(prefix="matseg-") as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            prepared,
            path,
            CropReader(crops),
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_excluded(prepared, keep),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        result = onnx.load(path)
    strip(result)
    return upsample_integers(result)


class CropReader:
    """Crops one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, crops: Sequence[NDArray[Any]]) -> None:
        self._crops = iter(crops)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next crop; None after the last."""
        crop = next(self._crops, None)
        return None if crop is None else {INPUT_NAME: crop}


def layers_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the layers that can compute in int8, in graph order, each once."""
    return tuple(dict.fromkeys(layer_name(node) for node in model.graph.node if node.op_type == "Conv"))


def _excluded(model: onnx.ModelProto, keep: Sequence[str]) -> list[str]:
    """Nodes that stay in float: layers to keep, what follows the class scores, and sums of class scores.

    Scores that are summed up from several layers would be rounded at every sum.
    """
    index = GraphIndex.of(model)
    scores = class_scores(index)
    excluded = following(scores, index)
    waiting = [scores]
    while waiting:
        node = index.producer.get(waiting.pop())
        if node is not None and node.op_type == "Add":
            excluded.append(node)
            waiting += node.input
    excluded += [node for node in index.nodes if node.op_type == "Conv" and layer_name(node) in keep]
    return [node.name for node in excluded]


def ranges_digest(model: onnx.ModelProto) -> str:
    """SHA-256 (hex) over the scales and zero points of all activations of an int8 graph."""
    index = GraphIndex.of(model)
    digest = hashlib.sha256()
    for node in index.nodes:
        if node.op_type == "QuantizeLinear":
            for name in node.input[1:]:
                digest.update(np.ascontiguousarray(index.constants[name]).tobytes())
    return digest.hexdigest()
