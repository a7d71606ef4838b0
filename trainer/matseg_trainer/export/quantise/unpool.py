"""SegNet's pooling and unpooling as moves of whole lines, with the channels last.

Every second pixel, taken or put back in the layout of torch, is a move of single bytes; with the channels last it is
one of as many bytes as there are channels. The transpositions that are written here meet those that onnxruntime puts
around integer convolutions, and cancel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matseg_trainer.export.quantise.index import GraphIndex, attribute, constant

if TYPE_CHECKING:
    import onnx

_LAST = [0, 2, 3, 1]
_FIRST = [0, 3, 1, 2]


def takes_every_second(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """Whether a Slice takes every second row or column of feature maps."""
    if node.op_type != "Slice" or len(node.input) != 5:
        return False
    constants = [index.constants.get(name) for name in node.input[1:]]
    if any(value is None for value in constants) or node.output[0] not in index.floats:
        return False
    axes, steps = (value.tolist() for value in constants[2:] if value is not None)
    return axes in ([2], [3]) and steps == [2]


def with_channels_last(
    node: onnx.NodeProto, index: GraphIndex
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The same Slice between two transpositions."""
    from onnx import helper

    name = node.output[0]
    axis = int(index.constants[node.input[3]][0]) - 1
    bounds = [node.input[1], node.input[2], f"{name}_axis", node.input[4]]
    nodes = [
        helper.make_node("Transpose", [node.input[0]], [f"{name}_last"], perm=_LAST),
        helper.make_node("Slice", [f"{name}_last", *bounds], [f"{name}_taken"]),
        helper.make_node("Transpose", [f"{name}_taken"], [name], perm=_FIRST),
    ]
    return nodes, [constant(f"{name}_axis", np.array([axis], np.int64))]


def interleaves(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """Whether a Reshape ends the interleaving of four maps to one of twice the height and width."""
    return _corners(node, index) is not None


def _corners(node: onnx.NodeProto, index: GraphIndex) -> list[str] | None:
    """Upper left, upper right, lower left, lower right."""
    rows = _joined(node, -2, index)
    if rows is None:
        return None
    corners = []
    for name in rows:
        made = index.producer.get(name)
        columns = None if made is None else _joined(made, -1, index)
        if columns is None:
            return None
        corners += columns
    return corners


def _joined(node: onnx.NodeProto, axis: int, index: GraphIndex) -> list[str] | None:
    """What `torch.stack([a, b], axis).flatten(axis - 1, axis)` joins, where the node is the end of that."""
    stack = index.producer.get(node.input[0]) if node.op_type == "Reshape" else None
    if stack is None or stack.op_type != "Concat" or attribute(stack, "axis", 0) != axis:
        return None
    parts = [index.producer.get(name) for name in stack.input]
    if len(parts) != 2 or any(part is None or part.op_type != "Unsqueeze" for part in parts):
        return None
    axes = [index.constants.get(part.input[1]) for part in parts if part is not None]
    if any(value is None or value.tolist() != [axis] for value in axes):
        return None
    return [part.input[0] for part in parts if part is not None]


def interleave_lines(
    node: onnx.NodeProto, index: GraphIndex
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Columns are interleaved by joining channels, rows by joining lines."""
    from onnx import helper

    corners = _corners(node, index)
    assert corners is not None
    name = node.output[0]
    constants = [
        constant(f"{name}_columns", np.array([0, 0, -1], np.int64)),
        constant(f"{name}_rows", np.array([0, -1], np.int64)),
    ]
    nodes = [
        helper.make_node("Transpose", [corner], [f"{name}_corner{number}"], perm=_LAST)
        for number, corner in enumerate(corners)
    ]
    nodes += [
        helper.make_node("Shape", [f"{name}_corner0"], [f"{name}_channels"], start=3, end=4),
        helper.make_node("Concat", [f"{name}_columns", f"{name}_channels"], [f"{name}_line"], axis=0),
    ]
    for row in range(2):
        pair = [f"{name}_corner{2 * row}", f"{name}_corner{2 * row + 1}"]
        nodes += [
            helper.make_node("Concat", pair, [f"{name}_pair{row}"], axis=3),
            helper.make_node("Reshape", [f"{name}_pair{row}", f"{name}_line"], [f"{name}_line{row}"]),
        ]
    nodes += [
        helper.make_node("Concat", [f"{name}_line0", f"{name}_line1"], [f"{name}_lines"], axis=2),
        helper.make_node("Shape", [f"{name}_line0"], [f"{name}_width"], start=2, end=4),
        helper.make_node("Concat", [f"{name}_rows", f"{name}_width"], [f"{name}_shape"], axis=0),
        helper.make_node("Reshape", [f"{name}_lines", f"{name}_shape"], [f"{name}_whole"]),
        helper.make_node("Transpose", [f"{name}_whole"], [name], perm=_FIRST),
    ]
    return nodes, constants
