"""Parts of weights that a graph cuts out at run time become constants of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_trainer.export.index import constant, prune

if TYPE_CHECKING:
    import onnx


def with_cut_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Cut constants where a Slice does so.

    torch's exporter leaves slices of large weights to the runtime; a layer whose weight is not a constant cannot be
    quantised. PixelNet's hidden layer at full width is such.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Slice" and all(name in constants for name in node.input if name):
            cut = _cut(*(constants[name] for name in node.input))
            result.graph.initializer.append(constant(node.output[0], cut))
        else:
            kept.append(node)
    del result.graph.node[:]
    result.graph.node.extend(kept)
    prune(result)
    return result


def _cut(
    value: NDArray[Any],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    axes: NDArray[np.int64] | None = None,
    steps: NDArray[np.int64] | None = None,
) -> NDArray[Any]:
    """ONNX's Slice for forward steps, whose bounds mean what Python's mean."""
    where = [slice(None)] * value.ndim
    along = range(len(starts)) if axes is None else (int(axis) for axis in axes)
    strides = [1] * len(starts) if steps is None else [int(step) for step in steps]
    for axis, start, end, step in zip(along, starts, ends, strides, strict=True):
        where[axis] = slice(int(start), int(end), step)
    return value[tuple(where)]
