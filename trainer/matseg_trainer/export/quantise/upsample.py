"""Bilinear upsampling of uint8 values, as weighted sums of neighbouring pixels.

onnxruntime's own Resize of uint8 is slow and cuts off instead of rounding. Between half-pixel centres
(`align_corners=False`) pixel `factor * k + j` of a line lies between its source pixel `k` and one neighbour, at the
same distance for every k: so each j is one sum of two maps, which has an integer kernel, and the sums are interleaved
as whole lines with the channels last. Columns first, while the lines are few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matseg_trainer.export.quantise.index import GraphIndex, attribute, prune
from matseg_trainer.export.quantise.replacement import FIRST, LAST, Replacement

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
        if before is None or factor is None or not _share_scale(before, node, index):
            result.graph.node.append(node)
            continue
        new = upsampled(before.input[0], node.output[0], factor, before.input[2])
        result.graph.node.extend(new.nodes)
        result.graph.initializer.extend(new.constants)
    prune(result)
    return result


def _share_scale(before: onnx.NodeProto, after: onnx.NodeProto, index: GraphIndex) -> bool:
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


def upsampled(source: str, name: str, factor: int, zero_point: str) -> Replacement:
    """From (N, C, h, w) uint8 to (N, C, factor * h, factor * w) with the same scale and zero point.

    Args:
        source: the tensor to enlarge.
        name: of the result.
        factor: a power of two.
        zero_point: name of a constant.
    """
    new = Replacement(name)
    last = new.node("Transpose", source, perm=LAST)
    channels = new.node("Shape", last, start=3, end=4)
    joined = new.node("Concat", *_phases(new, last, 2, factor, zero_point), axis=3)
    wide = new.node("Reshape", joined, new.node("Concat", new.integers(0, 0, -1), channels, axis=0))
    line = new.node("Shape", wide, start=2, end=4)
    joined = new.node("Concat", *_phases(new, wide, 1, factor, zero_point), axis=2)
    whole = new.node("Reshape", joined, new.node("Concat", new.integers(0, -1), line, axis=0))
    return new.end("Transpose", whole, perm=FIRST)


def _phases(new: Replacement, source: str, axis: int, factor: int, zero_point: str) -> list[str]:
    """The enlarged pixels number 0, 1, ... of all source pixels along an axis, with the channels last."""

    def part(tensor: str, start: int, end: int) -> str:
        return new.node("Slice", tensor, new.integers(start), new.integers(end), new.integers(axis))

    def scale(share: float) -> str:
        return new.constant(np.asarray(share, np.float32))

    framed = new.node("Concat", part(source, 0, 1), source, part(source, -1, _END), axis=axis)
    before, after = part(framed, 0, -2), part(framed, 2, _END)
    made = []
    for phase in range(factor):
        weight = 1 - abs((phase + 0.5) / factor - 0.5)  # exact in float32: sums round the same everywhere
        neighbour = before if 2 * phase + 1 < factor else after
        shares = [
            new.node("DequantizeLinear", values, scale(share), zero_point)
            for values, share in ((source, weight), (neighbour, 1 - weight))
        ]
        made.append(new.node("QuantizeLinear", new.node("Add", *shares), scale(1.0), zero_point))
    return made
