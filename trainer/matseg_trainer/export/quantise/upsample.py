"""Bilinear upsampling of uint8 values, as weighted sums of neighbouring pixels.

onnxruntime's own Resize of uint8 is slow and cuts off instead of rounding. Between half-pixel centres
(`align_corners=False`) pixel `factor * k + j` of a line lies between its source pixel `k` and one neighbour, at the
same distance for every k: so each j is one sum of two maps, which has an integer kernel, and the sums are interleaved
as whole lines with the channels last. Columns first, while the lines are few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from matseg_trainer.export.quantise.rewrite import LAST, Tensor, join_columns, join_lines, rewritten

if TYPE_CHECKING:
    import onnx

_END = np.iinfo(np.int64).max


def upsample_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the bilinear Resize nodes of a quantised graph whose input and output share scale and zero point."""
    return rewritten(model, (_resized, _upsampled))


def _resized(op: Any, x: Any, scale: Any, zero: Any, factors: Any, scale_after: Any, zero_after: Any) -> Any:
    resized = op.Resize(op.DequantizeLinear(x, scale, zero), None, factors, _outputs=["resized"])
    return op.QuantizeLinear(resized, scale_after, zero_after)


def _upsampled(
    op: Any, x: Any, scale: Any, zero: Any, factors: Any, scale_after: Any, zero_after: Any, resized: Any
) -> Any:
    """From (N, C, h, w) uint8 to (N, C, factor * h, factor * w) with the same scale and zero point."""
    factor = _upsampling_factor(resized.producer(), factors)
    pairs = ((scale, scale_after), (zero, zero_after))
    if factor is None or any(one.const_value.numpy() != after.const_value.numpy() for one, after in pairs):
        return None
    narrow = op.Transpose(x, perm=LAST)
    wide = join_columns(op, _phases(op, narrow, 2, factor, zero))
    return join_lines(op, _phases(op, wide, 1, factor, zero))


def _upsampling_factor(resize: Any, factors: Tensor) -> int | None:
    """By how much a node enlarges feature maps bilinearly between half-pixel centres; None when it does not."""
    text, number = resize.attributes.get_string, resize.attributes.get_int
    *others, rows, columns = factors.const_value.numpy().tolist()
    half_pixel = text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    linear = text("mode", "nearest") == "linear" and not number("antialias", 0)
    known = others == [1, 1] and rows == columns and rows in (2, 4, 8, 16, 32)
    return int(rows) if known and half_pixel and linear else None


def _phases(op: Any, source: Tensor, axis: int, factor: int, zero: Tensor) -> list[Tensor]:
    """The enlarged pixels number 0, 1, ... of all source pixels along an axis, with the channels last."""

    def part(values: Tensor, start: int, end: int) -> Tensor:
        return op.Slice(values, *(op.Constant(value_ints=[number]) for number in (start, end, axis)))

    def scaled(values: Tensor, share: float) -> Tensor:
        return op.DequantizeLinear(values, op.Constant(value_float=share), zero)

    framed = op.Concat(part(source, 0, 1), source, part(source, -1, _END), axis=axis)
    before, after = part(framed, 0, -2), part(framed, 2, _END)
    made = []
    for phase in range(factor):
        weight = 1 - abs((phase + 0.5) / factor - 0.5)  # exact in float32: sums round the same everywhere
        neighbour = before if 2 * phase + 1 < factor else after
        total = op.Add(scaled(source, weight), scaled(neighbour, 1 - weight))
        made.append(op.QuantizeLinear(total, op.Constant(value_float=1.0), zero))
    return made
