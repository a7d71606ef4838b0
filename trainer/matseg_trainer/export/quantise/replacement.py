"""Nodes and constants that take the place of one node of an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

LAST = [0, 2, 3, 1]
"""Permutation of (N, C, H, W) that moves the channels to the last axis."""
FIRST = [0, 3, 1, 2]
"""Its inverse."""


class Replacement:
    """Collects what makes the tensor `name`; what is made on the way is named after it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of what it makes."""
        return self._add(kind, inputs, f"{self.name}_step{len(self.nodes)}", attributes)

    def end(self, kind: str, *inputs: str, **attributes: Any) -> Replacement:
        """Add the node that makes `name`."""
        self._add(kind, inputs, self.name, attributes)
        return self

    def constant(self, value: NDArray[Any], name: str = "") -> str:
        """Add a constant and return its name."""
        import onnx

        name = name or f"{self.name}_constant{len(self.constants)}"
        # not ascontiguousarray, which makes vectors of scalars; onnxruntime fuses int8 sums with scalar scales only
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """Add a vector of int64, such as a shape, and return its name."""
        return self.constant(np.array(values, np.int64))

    def _add(self, kind: str, inputs: tuple[str, ...], output: str, attributes: dict[str, Any]) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output
