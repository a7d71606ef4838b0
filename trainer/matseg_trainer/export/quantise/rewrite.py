"""The same function in operators that have integer kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_trainer.export.quantise import unpool
from matseg_trainer.export.quantise.index import GraphIndex, attribute, constant, prune

if TYPE_CHECKING:
    import onnx


def in_integer_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write what has no fast integer kernel in operators that have one; every move of values is one of whole lines.

    Transposed convolutions whose kernel is their stride become 1 x 1 convolutions; patches of pixels, as a strided
    convolution reads them or a shuffle writes them, and every second pixel, as SegNet takes and puts them, become moves
    with the channels last.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    index = GraphIndex.of(model)
    del result.graph.node[:]
    for node in index.nodes:
        for applies, replacement in _REPLACEMENTS:
            if applies(node, index):
                nodes, constants = replacement(node, index)
                result.graph.node.extend(nodes)
                result.graph.initializer.extend(constants)
                break
        else:
            result.graph.node.append(node)
    prune(result)
    return result


def _is_blockwise(node: onnx.NodeProto, index: GraphIndex) -> bool:
    if node.op_type != "ConvTranspose" or node.input[1] not in index.constants:
        return False
    kernel = list(index.constants[node.input[1]].shape[2:])
    return (
        list(attribute(node, "strides", [1, 1])) == kernel
        and attribute(node, "group", 1) == 1
        and not any(attribute(node, "pads", [0]))
        and not any(attribute(node, "output_padding", [0]))
        and all(step == 1 for step in attribute(node, "dilations", [1]))
    )


def _blockwise(
    node: onnx.NodeProto, index: GraphIndex
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants that replace one transposed convolution.

    Every input pixel makes k x k output pixels of its own: one 1 x 1 convolution per row of the k x k block makes the
    k pixels of that row, and rows of whole lines are then interleaved.
    """
    from onnx import helper

    weight = index.constants[node.input[1]]  # (C in, C out, k, k)
    _, channels, rows, columns = weight.shape
    bias = index.constants[node.input[2]] if len(node.input) > 2 else np.zeros(channels, np.float32)
    name = node.output[0]
    constants = [
        constant(f"{name}_line", np.array([0, 0, -1, channels], np.int64)),
        constant(f"{name}_image", np.array([0, -1], np.int64)),
        constant(f"{node.input[1]}_bias", np.tile(bias, columns)),
    ]
    nodes, lines = [], []
    for row in range(rows):
        matrix, made = f"{node.input[1]}_row{row}", f"{name}_row{row}"
        constants.append(constant(matrix, _row_matrix(weight, row)))
        nodes += [
            helper.make_node(
                "Conv", [node.input[0], matrix, f"{node.input[1]}_bias"], [made], kernel_shape=[1, 1]
            ),
            helper.make_node("Transpose", [made], [f"{made}_last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{made}_last", f"{name}_line"], [f"{made}_line"]),
        ]
        lines.append(f"{made}_line")
    nodes += [
        helper.make_node("Concat", lines, [f"{name}_lines"], axis=2),
        helper.make_node("Shape", [lines[0]], [f"{name}_width"], start=2, end=4),
        helper.make_node("Concat", [f"{name}_image", f"{name}_width"], [f"{name}_shape"], axis=0),
        helper.make_node("Reshape", [f"{name}_lines", f"{name}_shape"], [f"{name}_last"]),
        helper.make_node("Transpose", [f"{name}_last"], [name], perm=[0, 3, 1, 2]),
    ]
    return nodes, constants


def _row_matrix(weight: NDArray[Any], row: int) -> NDArray[Any]:
    """(C in, C out, k, k) to the (k * C out, C in, 1, 1) that makes the pixels of one row, column after column."""
    block = weight[:, :, row, :].transpose(2, 1, 0)
    return block.reshape(-1, weight.shape[0], 1, 1)


def _is_patch_reader(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """A convolution of one channel whose square kernel is its stride."""
    if node.op_type != "Conv" or node.input[1] not in index.constants:
        return False
    _, channels, *kernel = index.constants[node.input[1]].shape
    return (
        channels == 1
        and kernel[0] == kernel[1] > 1
        and list(attribute(node, "strides", [1, 1])) == kernel
        and not any(attribute(node, "pads", [0]))
        and all(step == 1 for step in attribute(node, "dilations", [1]))
    )


def _patch_reader(
    node: onnx.NodeProto, index: GraphIndex
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The pixels of a patch as channels, and a 1 x 1 convolution of them."""
    from onnx import helper

    weight = index.constants[node.input[1]]
    edge = weight.shape[2]
    name, matrix = f"{node.output[0]}_patches", f"{node.input[1]}_patch"
    constants = [
        constant(matrix, weight.reshape(len(weight), -1, 1, 1)),
        constant(f"{name}_rows", np.array([0, -1, edge, 0], np.int64)),
        constant(f"{name}_columns", np.array([0, 0, 0, -1, edge], np.int64)),
        constant(f"{name}_channels", np.array([0, 0, 0, edge * edge], np.int64)),
    ]
    nodes = [
        helper.make_node("Reshape", [node.input[0], f"{name}_rows"], [f"{name}_by_row"]),
        helper.make_node("Reshape", [f"{name}_by_row", f"{name}_columns"], [f"{name}_by_column"]),
        helper.make_node("Transpose", [f"{name}_by_column"], [f"{name}_square"], perm=[0, 1, 3, 2, 4]),
        helper.make_node("Reshape", [f"{name}_square", f"{name}_channels"], [f"{name}_last"]),
        helper.make_node("Transpose", [f"{name}_last"], [name], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", [name, matrix, *node.input[2:]], [node.output[0]], kernel_shape=[1, 1]),
    ]
    return nodes, constants


def _is_patch_writer(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """A shuffle of a convolution's channels into patches of a single output channel."""
    if node.op_type != "DepthToSpace":
        return False
    layer = index.producer.get(node.input[0])
    if layer is None or layer.op_type != "Conv" or layer.input[1] not in index.constants:
        return False
    return bool(len(index.constants[layer.input[1]]) == attribute(node, "blocksize", 0) ** 2)


def _patch_writer(
    node: onnx.NodeProto, index: GraphIndex
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """(N, k * k, h, w) to (N, 1, k * h, k * w), moving k values at a time."""
    from onnx import helper

    del index
    edge = attribute(node, "blocksize", 0)
    name = node.output[0]
    constants = [
        constant(f"{name}_square", np.array([0, 0, 0, edge, edge], np.int64)),
        constant(f"{name}_lines", np.array([0, 0, 0, -1], np.int64)),
        constant(f"{name}_image", np.array([0, 1, -1, 0], np.int64)),
    ]
    nodes = [
        helper.make_node("Transpose", [node.input[0]], [f"{name}_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{name}_last", f"{name}_square"], [f"{name}_patches"]),
        helper.make_node("Transpose", [f"{name}_patches"], [f"{name}_by_row"], perm=[0, 1, 3, 2, 4]),
        helper.make_node("Reshape", [f"{name}_by_row", f"{name}_lines"], [f"{name}_by_line"]),
        helper.make_node("Reshape", [f"{name}_by_line", f"{name}_image"], [name]),
    ]
    return nodes, constants


_REPLACEMENTS = (
    (_is_blockwise, _blockwise),
    (_is_patch_reader, _patch_reader),
    (_is_patch_writer, _patch_writer),
    (unpool.takes_every_second, unpool.with_channels_last),
    (unpool.interleaves, unpool.interleave_lines),
)
