"""The fp16 graph of an fp32 graph, for GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import ExportError
from matseg_trainer.export.quantise.static import activation_ranges
from matseg_trainer.export.tensors import class_scores, following, layer_name, normalised_images

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

LARGEST = 32752.0
"""Half of what fp16 can hold: images with activations twice those of the calibration crops still fit."""
_COMPUTED = ("Add", "Conv", "ConvTranspose", "Resize")
_NAMED = 5


def to_half(model: onnx.ModelProto, crops: Sequence[NDArray[Any]]) -> onnx.ModelProto:
    """Compute in fp16 between the normalised image and the class scores.

    Normalisation stays in fp32, since raw 16-bit pixels exceed fp16's range, and so does what follows the scores:
    there probabilities lose digits and nothing is gained. The crops, (N, C, H, W) raw pixels each, show the ranges.

    Raises:
        ExportError: activations come near the largest number of fp16; names them.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    result = ir.from_proto(model)
    graph = result.graph
    _require_range(graph, activation_ranges(model, crops, _COMPUTED).data)
    images, scores = normalised_images(graph), class_scores(graph)
    behind = following(scores, graph)
    inner = [node for node in following(images, graph) if node not in behind]
    for values, kind in ((images, ir.DataType.FLOAT16), (scores, ir.DataType.FLOAT)):
        for each in values:
            _cast(each, kind, graph)
    halves: dict[ir.Value, ir.Value] = {}
    for node in inner:
        for place, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
                continue
            if node.op_type == "Resize":  # whose scales are float32 in any case
                continue
            if value not in halves:
                half = ir.tensor(value.const_value.numpy().astype(np.float16), name=f"{value.name}_fp16")
                halves[value] = ir.Value(name=half.name, const_value=half)
                graph.register_initializer(halves[value])
            node.replace_input_with(place, halves[value])
        if node.op_type == "Cast" and node.attributes.get_int("to") == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
    RemoveUnusedNodesPass()(result)
    return ir.to_proto(result)


def _cast(value: ir.Value, kind: ir.DataType, graph: ir.Graph) -> None:
    """Cast what a node makes, for all that read it."""
    import onnx_ir as ir

    uses = tuple(value.uses())
    cast = ir.node("Cast", [value], {"to": kind})
    graph.insert_after(value.producer(), cast)  # type: ignore[arg-type]  # neither is an input of the graph
    for node, place in uses:
        node.replace_input_with(place, cast.outputs[0])


def _require_range(graph: ir.Graph, found: Any) -> None:
    wide = []
    for node in graph:
        output = node.outputs[0].name
        if node.op_type in _COMPUTED and output in found:
            largest = float(np.abs(found[output].range_value).max())
            if not largest <= LARGEST:
                name = layer_name(node) if node.op_type.startswith("Conv") else output
                wide.append(f"{name} ({largest:.3g})")
    if wide:
        raise ExportError(
            f"activations come near the largest number of fp16, {np.finfo(np.float16).max:.0f}: "
            f"{', '.join(wide[:_NAMED])}; export this version in fp32 or int8; nothing was written"
        )
