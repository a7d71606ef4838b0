"""Bilinear upsampling of uint8 values, as weighted sums of neighbouring pixels.

onnxruntime's own Resize of uint8 is slow and cuts off instead of rounding. Between half-pixel centres
(`align_corners=False`) pixel `factor * k + j` of a line lies between its source pixel `k` and one neighbour, at the
same distance for every k: so each j is one sum of two maps, which has an integer kernel, and the sums are interleaved
as whole lines with the channels last. Columns first, while the lines are few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_trainer.export.quantise.index import GraphIndex, attribute, constant, prune

if TYPE_CHECKING:
    import onnx

_END = np.iinfo(np.int64).max


def upsample_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the bilinear Resize nodes of a quantised graph whose input and output share scale and zero point."""
    import onnx

    index = GraphIndex.of(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for node in index.nodes:
        resize = index.producer.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        before = None if resize is None else index.producer.get(resize.input[0])
        factor = None if resize is None else upsampling_factor(resize, index)
        if before is None or factor is None or not _same_code(before, node, index):
            result.graph.node.append(node)
            continue
        upsampling = Upsampling(node.output[0], factor, before.input[2])
        upsampling.write(before.input[0])
        result.graph.node.extend(upsampling.nodes)
        result.graph.initializer.extend(upsampling.constants)
    prune(result)
    return result


def _same_code(before: onnx.NodeProto, after: onnx.NodeProto, index: GraphIndex) -> bool:
    return before.op_type == "DequantizeLinear" and all(
        np.array_equal(index.constants[one], index.constants[other])
        for one, other in zip(before.input[1:], after.input[1:], strict=True)
    )


def upsampling_factor(node: onnx.NodeProto, index: GraphIndex) -> int | None:
    """By how much a node enlarges feature maps bilinearly between half-pixel centres; None when it does not."""
    if node.op_type != "Resize" or len(node.input) != 3 or node.input[2] not in index.constants:
        return None
    *others, rows, columns = index.constants[node.input[2]].tolist()
    half_pixel = attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
    linear = attribute(node, "mode", b"nearest") == b"linear" and not attribute(node, "antialias", 0)
    known = others == [1, 1] and rows == columns and rows in (2, 4, 8, 16, 32)
    return int(rows) if known and half_pixel and linear else None


class Upsampling:
    """The nodes and constants that enlarge uint8 values; their scale and zero point stay what they are."""

    def __init__(self, name: str, factor: int, zero_point: str) -> None:
        self.name = name
        """Of the result; what is made on the way is named after it."""
        self.factor, self.zero_point = factor, zero_point
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def write(self, source: str) -> None:
        """From (N, C, h, w) to (N, C, factor * h, factor * w) called `name`."""
        last = self._node("Transpose", [source], "last", perm=[0, 2, 3, 1])
        channels = self._node("Shape", [last], "channels", start=3, end=4)
        wide = self._interleaved(self._phases(last, 2), 3, [0, 0, -1], channels, "wide")
        line = self._node("Shape", [wide], "line", start=2, end=4)
        whole = self._interleaved(self._phases(wide, 1), 2, [0, -1], line, "whole")
        self._node("Transpose", [whole], perm=[0, 3, 1, 2])

    def _phases(self, source: str, axis: int) -> list[str]:
        """The enlarged pixels number 0, 1, ... of all source pixels along an axis."""
        first = self._slice(source, axis, 0, 1)
        final = self._slice(source, axis, -1, _END)
        framed = self._node("Concat", [first, source, final], f"framed{axis}", axis=axis)
        neighbours = self._slice(framed, axis, 0, -2), self._slice(framed, axis, 2, _END)
        made = []
        for phase in range(self.factor):
            # a power of two, exact in float32: sums round the same everywhere
            weight = 1 - abs((phase + 0.5) / self.factor - 0.5)
            neighbour = neighbours[0 if 2 * phase + 1 < self.factor else 1]
            made.append(self._sum(source, weight, neighbour, f"axis{axis}_phase{phase}"))
        return made

    def _sum(self, one: str, weight: float, other: str, name: str) -> str:
        parts = [
            self._node("DequantizeLinear", [values, self._scale(share), self.zero_point], f"{name}_{side}")
            for side, values, share in (("own", one, weight), ("next", other, 1 - weight))
        ]
        total = self._node("Add", parts, f"{name}_sum")
        return self._node("QuantizeLinear", [total, self._scale(1.0), self.zero_point], name)

    def _interleaved(self, phases: list[str], axis: int, kept: list[int], rest: str, name: str) -> str:
        joined = self._node("Concat", phases, f"{name}_joined", axis=axis)
        shape = self._node(
            "Concat", [self._constant(np.array(kept, np.int64)), rest], f"{name}_shape", axis=0
        )
        return self._node("Reshape", [joined, shape], name)

    def _slice(self, source: str, axis: int, start: int, end: int) -> str:
        bounds = [self._constant(np.array([value], np.int64)) for value in (start, end, axis)]
        return self._node("Slice", [source, *bounds], f"axis{axis}_from{start}_to{end}")

    def _scale(self, share: float) -> str:
        return self._constant(np.asarray(share, np.float32))

    def _constant(self, value: NDArray[Any]) -> str:
        name = f"{self.name}_constant{len(self.constants)}"
        self.constants.append(constant(name, value))
        return name

    def _node(self, kind: str, inputs: list[str], suffix: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = f"{self.name}_{suffix}" if suffix else self.name
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output
