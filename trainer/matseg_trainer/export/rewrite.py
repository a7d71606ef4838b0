"""The same function in operators that have integer kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_trainer.export.index import LAYERS, GraphIndex, attribute, constant, prune

if TYPE_CHECKING:
    import onnx


def without_transposed_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write each transposed convolution whose kernel is its stride as 1 x 1 convolutions.

    No runtime has an integer kernel for the former. Every input pixel makes k x k output pixels of its own: one
    1 x 1 convolution per row of the k x k block makes the k pixels of that row, and rows of whole lines are then
    interleaved. The moves are written with channels last, where they copy lines instead of single bytes.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    index = GraphIndex.of(model)
    del result.graph.node[:]
    for node in index.nodes:
        if not _is_blockwise(node, index):
            result.graph.node.append(node)
            continue
        nodes, constants = _blockwise(node, index)
        result.graph.node.extend(nodes)
        result.graph.initializer.extend(constants)
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
    """The nodes and constants that replace one transposed convolution."""
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


def with_one_score(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the last layer of a two-class network compute the difference of its two logits at once.

    Returns:
        The same function; the model as it is where the difference cannot be drawn into layers.
    """
    import onnx

    index = GraphIndex.of(model)
    for node in index.nodes:
        parts = [index.producer.get(name) for name in node.input]
        if node.op_type != "Sub" or not all(part is not None and part.op_type == "Slice" for part in parts):
            continue
        logits = {part.input[0] for part in parts if part is not None}
        folded = _differences(logits.pop(), index, {id(part) for part in parts}) if len(logits) == 1 else None
        if folded is None:
            continue
        result = onnx.ModelProto()
        result.CopyFrom(model)
        _take_difference(result, folded, node, [part.output[0] for part in parts if part is not None])
        return result
    return model


def _differences(name: str, index: GraphIndex, readers: set[int]) -> dict[str, NDArray[Any]] | None:
    """The constants that make a sum of layers compute channel 1 less channel 0; None where that is not all it is."""
    if name in index.constants:
        value = index.constants[name]
        return {name: value[:, 1:] - value[:, :1]} if value.ndim == 4 and value.shape[1] == 2 else None
    node = index.producer.get(name)
    if node is None or not {id(reader) for reader in index.readers(name)} <= readers:
        return None
    if node.op_type in LAYERS and all(item in index.constants for item in node.input[1:]):
        weight = index.constants[node.input[1]]
        if node.op_type == "ConvTranspose":  # (C in, C out, k, k)
            folded = {node.input[1]: weight[:, 1:] - weight[:, :1]}
        else:
            folded = {node.input[1]: weight[1:] - weight[:1]}
        biases = {item: index.constants[item] for item in node.input[2:]}
        return {**folded, **{item: value[1:] - value[:1] for item, value in biases.items()}}
    if node.op_type == "Add":
        found = [_differences(item, index, {id(node)}) for item in node.input]
        return None if None in found else {k: v for part in found if part for k, v in part.items()}
    return None


def _take_difference(
    model: onnx.ModelProto, folded: dict[str, NDArray[Any]], difference: onnx.NodeProto, slices: list[str]
) -> None:
    """Exchange the constants, and read what was the logits instead of their difference."""
    logits = next(node.input[0] for node in model.graph.node if slices[0] in node.output)
    for item in model.graph.initializer:
        if item.name in folded:
            item.CopyFrom(constant(item.name, folded[item.name]))
    kept = [
        node for node in model.graph.node if not {*slices, difference.output[0]}.intersection(node.output)
    ]
    for node in kept:
        node.input[:] = [logits if name == difference.output[0] else name for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    prune(model)
