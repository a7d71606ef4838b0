"""Bilinear upsampling of uint8 codes, as weighted sums of neighbouring pixels.

onnxruntime's own Resize of uint8 cuts off instead of rounding, and in float every map would be written four times as
large. Between half-pixel centres (`align_corners=False`) pixel `factor * k + j` of a line lies between its source
pixel `k` and one neighbour, at the same distance for every k: so each j is one sum of two maps, which has an integer
kernel, and the sums are interleaved as whole lines with the channels last. Columns first, while the lines are few.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_trainer.export.index import GraphIndex, attribute, constant

if TYPE_CHECKING:
    import onnx

_END = np.iinfo(np.int64).max


def upsampling_factor(node: onnx.NodeProto, index: GraphIndex) -> int | None:
    """By how much a node enlarges feature maps bilinearly between half-pixel centres; None when it does not."""
    if node.op_type != "Resize" or len(node.input) != 3 or node.input[2] not in index.constants:
        return None
    scales = [float(value) for value in index.constants[node.input[2]]]
    if (
        len(scales) != 4
        or scales[:2] != [1, 1]
        or scales[2] != scales[3]
        or scales[2] not in (2, 4, 8, 16, 32)
    ):
        return None
    half_pixel = attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
    linear = attribute(node, "mode", b"nearest") == b"linear" and not attribute(node, "antialias", 0)
    return int(scales[2]) if half_pixel and linear else None


def phase_weight(phase: int, factor: int) -> float:
    """The share of the source pixel itself in its enlarged pixel number `phase`; the neighbour has the rest.

    Exact in float32 for powers of two, so that sums of codes are exact and round the same everywhere.
    """
    distance = (phase + 0.5) / factor - 0.5
    return 1 - abs(distance)


@dataclass(kw_only=True)
class Upsampling:
    """The nodes and constants that enlarge codes; the code stays what it is."""

    name: str
    """Of the result; what is made on the way is named after it."""
    factor: int
    zero_point: str
    """The constant that says which code is zero."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def write(self, codes: str) -> None:
        """From (N, C, h, w) codes to (N, C, factor * h, factor * w) codes called `name`."""
        last = self._node("Transpose", [codes], "last", perm=[0, 2, 3, 1])
        channels = self._node("Shape", [last], "channels", start=3, end=4)
        wide = self._interleaved(self._phases(last, 2), 3, [0, 0, -1], channels, "wide")
        line = self._node("Shape", [wide], "line", start=2, end=4)
        whole = self._interleaved(self._phases(wide, 1), 2, [0, -1], line, "whole")
        self._make("Transpose", [whole], self.name, perm=[0, 3, 1, 2])

    def _phases(self, source: str, axis: int) -> list[str]:
        """The enlarged pixels number 0, 1, ... of all source pixels along an axis."""
        first = self._slice(source, axis, 0, 1)
        final = self._slice(source, axis, -1, _END)
        framed = self._node("Concat", [first, source, final], f"framed{axis}", axis=axis)
        neighbours = self._slice(framed, axis, 0, -2), self._slice(framed, axis, 2, _END)
        made = []
        for phase in range(self.factor):
            weight = phase_weight(phase, self.factor)
            neighbour = neighbours[0 if 2 * phase + 1 < self.factor else 1]
            made.append(self._sum(source, weight, neighbour, f"axis{axis}_phase{phase}"))
        return made

    def _sum(self, one: str, weight: float, other: str, name: str) -> str:
        parts = [
            self._node("DequantizeLinear", [codes, self._scale(share), self.zero_point], f"{name}_{side}")
            for side, codes, share in (("own", one, weight), ("next", other, 1 - weight))
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

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        return self._make(kind, inputs, f"{self.name}_{name}", **attributes)

    def _make(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output
