"""SegNet's unpooling as moves of whole lines, with the channels last.

Every second pixel, put back in the layout of torch, is a move of single bytes; with the channels last it is one of as
many bytes as there are channels. The transpositions that are written here meet those that onnxruntime puts
around integer convolutions, and cancel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matseg_trainer.export.quantise.index import GraphIndex, attribute
from matseg_trainer.export.quantise.replacement import FIRST, LAST, Replacement

if TYPE_CHECKING:
    import onnx


def interleave_lines(node: onnx.NodeProto, index: GraphIndex) -> Replacement | None:
    """A Reshape that ends the interleaving of four maps to one of twice the height and width.

    Columns are interleaved by joining channels, rows by joining lines.
    """
    corners = _corners(node, index)
    if corners is None:
        return None
    new = Replacement(node.output[0])
    turned = [new.node("Transpose", corner, perm=LAST) for corner in corners]
    channels = new.node("Shape", turned[0], start=3, end=4)
    line = new.node("Concat", new.integers(0, 0, -1), channels, axis=0)
    lines = [new.node("Reshape", new.node("Concat", *turned[row : row + 2], axis=3), line) for row in (0, 2)]
    joined = new.node("Concat", *lines, axis=2)
    width = new.node("Shape", lines[0], start=2, end=4)
    whole = new.node("Reshape", joined, new.node("Concat", new.integers(0, -1), width, axis=0))
    return new.end("Transpose", whole, perm=FIRST)


def _corners(node: onnx.NodeProto, index: GraphIndex) -> list[str] | None:
    """Upper left, upper right, lower left, lower right."""
    rows = _joined(node, -2, index)
    if rows is None:
        return None
    makers = [index.producer.get(name) for name in rows]
    columns = [None if made is None else _joined(made, -1, index) for made in makers]
    return None if None in columns else [name for pair in columns if pair is not None for name in pair]


def _joined(node: onnx.NodeProto, axis: int, index: GraphIndex) -> list[str] | None:
    """Inputs of `torch.stack([a, b], axis).flatten(axis - 1, axis)`, where the node is the end of that."""
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
