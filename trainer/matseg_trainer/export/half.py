"""The fp16 graph of an fp32 graph, for GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matseg_shared.errors import ExportError
from matseg_trainer.export.index import GraphIndex, constant, layer_name, prune
from matseg_trainer.export.plan import decision_inputs, normalised_image
from matseg_trainer.export.ranges import Samples

if TYPE_CHECKING:
    import onnx

LARGEST = 32752.0
"""Half of what fp16 can hold: images with activations twice those of the calibration crops still fit."""


def to_half(model: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
    """Compute in fp16 between the normalised image and the class scores.

    Normalisation stays in fp32, since raw 16-bit pixels exceed fp16's range, and so does what follows the scores:
    there probabilities lose digits and nothing is gained.

    Args:
        model: the fp32 graph.
        samples: values of `computed_tensors` on calibration crops.

    Raises:
        ExportError: activations come near the largest number of fp16; names them.
    """
    import onnx

    index = GraphIndex.of(model)
    first, scores = normalised_image(index), decision_inputs(index)
    if first is None or not scores:
        raise ExportError(
            "the graph's normalisation or its class scores are not found; fp16 cannot be made of it"
        )
    _require_range(index, samples)
    inner = _between(index, first, scores)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    halves = {name for node in inner for name in node.input if _is_float_constant(node, name, index)}
    result.graph.initializer.extend(
        constant(f"{name}_fp16", index.constants[name].astype(np.float16)) for name in sorted(halves)
    )
    del result.graph.node[:]
    for node in index.nodes:
        if any(node is item for item in inner):
            result.graph.node.append(_halved(node, first, scores, halves))
        else:
            result.graph.node.append(node)
        result.graph.node.extend(_casts(node, first, scores))
    prune(result)
    return result


def _require_range(index: GraphIndex, samples: Samples) -> None:
    wide = {
        name: float(np.abs(samples[name]).max())
        for name in _in_order(index, samples)
        if not float(np.abs(samples[name]).max()) <= LARGEST
    }
    if wide:
        named = ", ".join(f"{_layer_of(name, index)} ({value:.3g})" for name, value in list(wide.items())[:5])
        raise ExportError(
            f"activations come near the largest number of fp16, {np.finfo(np.float16).max:.0f}: {named}; "
            "export this version in fp32 or int8; nothing was written"
        )


def _in_order(index: GraphIndex, samples: Samples) -> list[str]:
    return [name for node in index.nodes for name in node.output if name in samples]


def _layer_of(name: str, index: GraphIndex) -> str:
    node = index.producer[name]
    return layer_name(node) if node.op_type in ("Conv", "ConvTranspose") else name


def _between(index: GraphIndex, first: str, scores: frozenset[str]) -> list[onnx.NodeProto]:
    """The nodes that depend on the normalised image and come before or make the scores."""
    reached, inner = {first}, []
    for node in index.nodes:
        if reached.intersection(node.input) and not scores.intersection(node.input):
            inner.append(node)
            reached.update(node.output)
    return inner


def _is_float_constant(node: onnx.NodeProto, name: str, index: GraphIndex) -> bool:
    if node.op_type == "Resize":  # its scales are float32 whatever it resizes
        return False
    return name in index.constants and index.constants[name].dtype == np.float32


def _halved(node: onnx.NodeProto, first: str, scores: frozenset[str], halves: set[str]) -> onnx.NodeProto:
    import onnx

    result = onnx.NodeProto()
    result.CopyFrom(node)
    names = {first: f"{first}_fp16", **{name: f"{name}_fp16" for name in halves}}
    kept = node.input[1:] if node.op_type == "Resize" else []  # its scales
    result.input[:] = [*(names.get(name, name) for name in node.input[: len(node.input) - len(kept)]), *kept]
    result.output[:] = [f"{name}_fp16" if name in scores else name for name in node.output]
    for item in result.attribute:
        if node.op_type == "Cast" and item.name == "to" and item.i == onnx.TensorProto.FLOAT:
            item.i = onnx.TensorProto.FLOAT16
    return result


def _casts(node: onnx.NodeProto, first: str, scores: frozenset[str]) -> list[onnx.NodeProto]:
    import onnx
    from onnx import helper

    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    casts = []
    if first in node.output:
        casts.append(helper.make_node("Cast", [first], [f"{first}_fp16"], to=half))
    casts += [
        helper.make_node("Cast", [f"{name}_fp16"], [name], to=full) for name in node.output if name in scores
    ]
    return casts
