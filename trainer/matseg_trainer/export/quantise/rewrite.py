"""The same function in operators that have integer kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matseg_trainer.export.quantise.index import GraphIndex, attribute, prune
from matseg_trainer.export.quantise.replacement import FIRST, LAST, Replacement
from matseg_trainer.export.quantise.unpool import interleave_lines

if TYPE_CHECKING:
    import onnx


def in_integer_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write what has no fast integer kernel in operators that have one; every move of values is one of whole lines.

    Transposed convolutions whose kernel is their stride become 1 x 1 convolutions; patches of pixels, as a strided
    convolution reads them or a shuffle writes them, and every second pixel, as SegNet puts them back, become moves with
    the channels last.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    index = GraphIndex.of(model)
    del result.graph.node[:]
    for node in index.nodes:
        replacement = next((made for make in _REPLACEMENTS if (made := make(node, index)) is not None), None)
        result.graph.node.extend([node] if replacement is None else replacement.nodes)
        result.graph.initializer.extend([] if replacement is None else replacement.constants)
    prune(result)
    return result


def _kernel_is_stride(node: onnx.NodeProto, kind: str, index: GraphIndex) -> bool:
    """True where a layer with constant weights maps blocks of pixels that neither overlap nor leave gaps."""
    return (
        node.op_type == kind
        and node.input[1] in index.constants
        and list(attribute(node, "strides", [1, 1])) == list(index.constants[node.input[1]].shape[2:])
        and attribute(node, "group", 1) == 1
        and not any(attribute(node, "pads", [0]))
        and not any(attribute(node, "output_padding", [0]))
        and all(step == 1 for step in attribute(node, "dilations", [1]))
    )


def _upward(node: onnx.NodeProto, index: GraphIndex) -> Replacement | None:
    """A transposed convolution, in which every input pixel makes k x k output pixels of its own.

    One 1 x 1 convolution per row of the k x k block makes the k pixels of that row, and rows of whole lines are then
    interleaved.
    """
    if not _kernel_is_stride(node, "ConvTranspose", index):
        return None
    new = Replacement(node.output[0])
    weight = index.constants[node.input[1]]  # (C in, C out, k, k)
    inputs, channels, rows, columns = weight.shape
    bias = index.constants[node.input[2]] if len(node.input) > 2 else np.zeros(channels, np.float32)
    biases = new.constant(np.tile(bias, columns), f"{node.input[1]}_bias")
    lines = []
    for row in range(rows):
        matrix = weight[:, :, row, :].transpose(2, 1, 0).reshape(-1, inputs, 1, 1)  # column after column
        layer = [node.input[0], new.constant(matrix, f"{node.input[1]}_row{row}"), biases]
        made = new.node("Conv", *layer, kernel_shape=[1, 1])
        lines.append(
            new.node("Reshape", new.node("Transpose", made, perm=LAST), new.integers(0, 0, -1, channels))
        )
    joined = new.node("Concat", *lines, axis=2)
    width = new.node("Shape", lines[0], start=2, end=4)
    whole = new.node("Reshape", joined, new.node("Concat", new.integers(0, -1), width, axis=0))
    return new.end("Transpose", whole, perm=FIRST)


def _patch_reader(node: onnx.NodeProto, index: GraphIndex) -> Replacement | None:
    """A strided convolution of one channel: the pixels of a patch as channels, and a 1 x 1 convolution of them."""
    if not _kernel_is_stride(node, "Conv", index):
        return None
    weight = index.constants[node.input[1]]
    _, channels, edge, width = weight.shape
    if channels != 1 or edge != width or edge == 1:
        return None
    new = Replacement(node.output[0])
    by_row = new.node("Reshape", node.input[0], new.integers(0, -1, edge, 0))
    by_column = new.node("Reshape", by_row, new.integers(0, 0, 0, -1, edge))
    square = new.node("Transpose", by_column, perm=[0, 1, 3, 2, 4])
    last = new.node("Reshape", square, new.integers(0, 0, 0, edge * edge))
    patches = new.node("Transpose", last, perm=FIRST)
    matrix = new.constant(weight.reshape(len(weight), -1, 1, 1), f"{node.input[1]}_patch")
    return new.end("Conv", patches, matrix, *node.input[2:], kernel_shape=[1, 1])


def _patch_writer(node: onnx.NodeProto, index: GraphIndex) -> Replacement | None:
    """A shuffle of a convolution's (N, k * k, h, w) into patches (N, 1, k * h, k * w), moving k values at a time."""
    layer = index.producer.get(node.input[0]) if node.op_type == "DepthToSpace" else None
    if layer is None or layer.op_type != "Conv" or layer.input[1] not in index.constants:
        return None
    edge = attribute(node, "blocksize", 0)
    if len(index.constants[layer.input[1]]) != edge**2:
        return None
    new = Replacement(node.output[0])
    last = new.node("Transpose", node.input[0], perm=LAST)
    patches = new.node("Reshape", last, new.integers(0, 0, 0, edge, edge))
    by_row = new.node("Transpose", patches, perm=[0, 1, 3, 2, 4])
    by_line = new.node("Reshape", by_row, new.integers(0, 0, 0, -1))
    return new.end("Reshape", by_line, new.integers(0, 1, -1, 0))


_REPLACEMENTS = (_upward, _patch_reader, _patch_writer, interleave_lines)
