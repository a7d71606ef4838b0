"""Tensors of an exported graph between which its network lies, and the names of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matseg_shared.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir


def normalised_image(graph: ir.Graph) -> ir.Value:
    """The image after `(image - mean) / std`."""
    value = graph.inputs[0]
    for kind in ("Cast", "Sub", "Div"):
        found = [node for node in value.consumers() if node.op_type == kind]
        if len(found) == 1 and found[0].inputs[0] is value:
            value = found[0].outputs[0]
        elif kind != "Cast":  # which float32 pixels do without
            raise ExportError("the graph's normalisation is not found; it can be exported in fp32 only")
    return value


def class_scores(graph: ir.Graph) -> ir.Value:
    """The tensor that the class is decided by: the logits, or the difference of two."""
    node = graph.outputs[0].producer()
    while node is not None and (value := node.inputs[0]) is not None:
        if node.op_type in ("ArgMax", "Greater"):
            return value
        node = value.producer()
    raise ExportError("the graph's class scores are not found; it can be exported in fp32 only")


def following(value: ir.Value, graph: ir.Graph) -> list[ir.Node]:
    """All nodes that depend on a tensor, in graph order."""
    reached: set[ir.Value | None] = {value}
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
