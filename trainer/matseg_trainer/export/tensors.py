"""Tensors of an exported graph between which its network lies, and the names of its layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from matseg_shared.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir


def normalised_images(graph: ir.Graph) -> list[ir.Value]:
    """The image after `(image - mean) / std`; of an ensemble, one for each mean and deviation."""
    values = [graph.inputs[0]]
    for kind in ("Cast", "Sub", "Div"):
        found = [
            node.outputs[0]
            for value in values
            for node in value.consumers()
            if node.op_type == kind and node.inputs[0] is value
        ]
        if not found and kind != "Cast":  # which float32 pixels do without
            raise ExportError("the graph's normalisation is not found; it can be exported in fp32 only")
        values = found or values
    return values


def class_scores(graph: ir.Graph) -> list[ir.Value]:
    """The tensors that probabilities are computed from: the logits of each network, or the difference of two."""
    found: dict[ir.Value, None] = {}
    waiting: list[ir.Value | None] = [graph.outputs[1]]
    while waiting:
        value = waiting.pop()
        node = None if value is None else value.producer()
        if node is None:
            continue
        if node.op_type not in ("Exp", "Sigmoid"):
            waiting += node.inputs
            continue
        scores = node.inputs[0]
        if node.op_type == "Exp" and scores is not None and (less := scores.producer()) is not None:
            scores = less.inputs[0]  # of which the largest is subtracted first
        if scores is not None:
            found[scores] = None
    if not found:
        raise ExportError("the graph's class scores are not found; it can be exported in fp32 only")
    return list(found)


def following(values: Collection[ir.Value], graph: ir.Graph) -> list[ir.Node]:
    """All nodes that depend on any of some tensors, in graph order."""
    reached: set[ir.Value | None] = set(values)
    found = []
    for node in graph:
        if reached.intersection(node.inputs):
            found.append(node)
            reached.update(node.outputs)
    return found


def layer_name(layer: ir.Node) -> str:
    """Name of a layer for users: the module in the network, where the exporter kept its name."""
    weight, output = layer.inputs[1], layer.outputs[0]
    name, found, _ = str(weight and weight.name).removeprefix("network.").partition(".weight")
    return name if found else str(output.name)
