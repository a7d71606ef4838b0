"""The same function in operators that have integer kernels.

Each rule is a pattern and what takes its place (None: the pattern stays), as `onnxscript.rewriter` has them. Every move
of values is one of whole lines with the channels last: in the layout of torch it would be one of single bytes. The
transpositions around it meet those that onnxruntime puts around integer convolutions, and cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

LAST = [0, 2, 3, 1]
"""Permutation of (N, C, H, W) that moves the channels to the last axis."""
FIRST = [0, 3, 1, 2]
"""Its inverse."""
Tensor = Any
"""Value of a pattern, or the `onnx_ir.Value` that matched it, which mypy cannot know to have a producer."""
Rule = tuple[Callable[..., Any], Callable[..., Any]]


def in_integer_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write what has no fast integer kernel in operators that have one.

    Transposed convolutions whose kernel is their stride become 1 x 1 convolutions; patches of pixels, as a strided
    convolution reads them or a shuffle writes them, and every second pixel, as SegNet puts them back, become moves.
    """
    return rewritten(
        model,
        (_transposed, _one_layer_per_row),
        (_strided, _layer_of_patches),
        (_shuffled, _written_patches),
        (_interleaved, _interleaved_lines),
    )


def rewritten(model: onnx.ModelProto, *rules: Rule) -> onnx.ModelProto:
    """A copy of a graph in which the rules have been applied wherever they fit."""
    import onnx_ir as ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass
    from onnxscript.rewriter import RewriteRule, rewrite

    result = rewrite(ir.from_proto(model), [RewriteRule(*rule, remove_nodes=False) for rule in rules])
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(result)
    return ir.to_proto(result)


def join_lines(op: Any, lines: Sequence[Tensor]) -> Tensor:
    """Rows number 0, 1, ... of all blocks of rows, each (N, h, w, C), as one image (N, C, k * h, w)."""
    width = op.Shape(lines[0], start=2, end=4)
    shape = op.Concat(op.Constant(value_ints=[0, -1]), width, axis=0)
    return op.Transpose(op.Reshape(op.Concat(*lines, axis=2), shape), perm=FIRST)


def join_columns(op: Any, columns: Sequence[Tensor]) -> Tensor:
    """Columns number 0, 1, ... of all blocks of columns, each (N, h, w, C), as lines (N, h, k * w, C)."""
    channels = op.Shape(columns[0], start=3, end=4)
    shape = op.Concat(op.Constant(value_ints=[0, 0, -1]), channels, axis=0)
    return op.Reshape(op.Concat(*columns, axis=3), shape)


def _block_weight(layer: Any) -> NDArray[Any] | None:
    """Constant weight of a layer that maps blocks of pixels which neither overlap nor leave gaps; None for others."""
    weight = layer.inputs[1].const_value
    integers = layer.attributes.get_ints
    is_block = (
        weight is not None
        and list(integers("strides", [1, 1])) == list(weight.shape[2:])
        and layer.attributes.get_int("group", 1) == 1
        and not any((*integers("pads", [0]), *integers("output_padding", [0])))
        and all(step == 1 for step in integers("dilations", [1]))
    )
    return weight.numpy() if is_block else None


def _weight(op: Any, value: NDArray[Any], name: str) -> Tensor:
    import onnx_ir as ir

    return op.initializer(ir.tensor(np.ascontiguousarray(value)), name)


def _transposed(op: Any, x: Tensor, weight: Tensor) -> Tensor:
    return op.ConvTranspose(x, weight, _allow_other_inputs=True, _outputs=["layer"])


def _one_layer_per_row(op: Any, x: Tensor, weight: Tensor, layer: Tensor) -> Tensor:
    """A 1 x 1 convolution per row of the k x k block makes the k pixels of that row; the rows are interleaved."""
    if (values := _block_weight(layer.producer())) is None:  # (C in, C out, k, k)
        return None
    inputs, channels, rows, columns = values.shape
    given = layer.producer().inputs[2:]
    bias = given[0].const_value.numpy() if given else np.zeros(channels, np.float32)
    biases = _weight(op, np.tile(bias, columns), f"{weight.name}_{layer.name}_bias")
    lines = []
    for row in range(rows):
        matrix = values[:, :, row, :].transpose(2, 1, 0).reshape(-1, inputs, 1, 1)  # column after column
        made = op.Conv(
            x, _weight(op, matrix, f"{weight.name}_{layer.name}_row{row}"), biases, kernel_shape=[1, 1]
        )
        shape = op.Constant(value_ints=[0, 0, -1, channels])
        lines.append(op.Reshape(op.Transpose(made, perm=LAST), shape))
    return join_lines(op, lines)


def _strided(op: Any, x: Tensor, weight: Tensor) -> Tensor:
    return op.Conv(x, weight, _allow_other_inputs=True, _outputs=["layer"])


def _layer_of_patches(op: Any, x: Tensor, weight: Tensor, layer: Tensor) -> Tensor:
    """A strided convolution of one channel: the pixels of a patch as channels, and a 1 x 1 convolution of them."""
    values = _block_weight(layer.producer())
    if values is None or values.shape[1] != 1 or values.shape[2] != values.shape[3] or values.shape[2] == 1:
        return None
    edge = values.shape[2]
    by_row = op.Reshape(x, op.Constant(value_ints=[0, -1, edge, 0]))
    by_column = op.Reshape(by_row, op.Constant(value_ints=[0, 0, 0, -1, edge]))
    square = op.Transpose(by_column, perm=[0, 1, 3, 2, 4])
    patches = op.Transpose(op.Reshape(square, op.Constant(value_ints=[0, 0, 0, edge**2])), perm=FIRST)
    matrix = _weight(op, values.reshape(len(values), -1, 1, 1), f"{weight.name}_{layer.name}_patch")
    return op.Conv(patches, matrix, *layer.producer().inputs[2:], kernel_shape=[1, 1])


def _shuffled(op: Any, x: Tensor, weight: Tensor) -> Tensor:
    layer = op.Conv(x, weight, _allow_other_inputs=True, _outputs=["layer"])
    return op.DepthToSpace(layer, _outputs=["shuffle"])


def _written_patches(op: Any, weight: Tensor, layer: Tensor, shuffle: Tensor, **_: Any) -> Any:
    """(N, k * k, h, w) of a convolution into patches (N, 1, k * h, k * w), moving k values at a time."""
    edge = shuffle.producer().attributes["blocksize"].as_int()
    if weight.const_value is None or weight.const_value.shape[0] != edge**2:
        return None
    patches = op.Reshape(op.Transpose(layer, perm=LAST), op.Constant(value_ints=[0, 0, 0, edge, edge]))
    by_row = op.Transpose(patches, perm=[0, 1, 3, 2, 4])
    by_line = op.Reshape(by_row, op.Constant(value_ints=[0, 0, 0, -1]))
    return op.Reshape(by_line, op.Constant(value_ints=[0, 1, -1, 0]))


def _interleaved(op: Any, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Tensor:
    """`torch.stack([a, b], axis).flatten(axis - 1, axis)` of columns, and of the rows that they make."""

    def stacked(one: Tensor, other: Tensor, axis: int) -> Tensor:
        both = op.Concat(op.Unsqueeze(one, [axis]), op.Unsqueeze(other, [axis]), axis=axis)
        return op.Reshape(both, _allow_other_inputs=True)

    return stacked(stacked(first, second, -1), stacked(third, fourth, -1), -2)


def _interleaved_lines(op: Any, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> Any:
    corners = [op.Transpose(corner, perm=LAST) for corner in (first, second, third, fourth)]
    return join_lines(op, [join_columns(op, corners[:2]), join_columns(op, corners[2:])])
