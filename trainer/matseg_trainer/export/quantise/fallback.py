"""Quantise all layers, and leave in fp32 as few of them as the accuracy check demands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import AccuracyInfo
from matseg_shared.errors import ExportError
from matseg_trainer.export.accuracy_check import LARGEST_LOSS, AccuracyCheck, passes
from matseg_trainer.export.graph import Graph
from matseg_trainer.export.quantise.static import activation_ranges, layers_of, quantise
from matseg_trainer.export.quantise.upsample import upsample_integers

if TYPE_CHECKING:
    import onnx

MOST_KEPT = 8
"""With more layers in fp32 than these, int8 is not worth its name."""
_PROBES = 4
"""Calibration crops on which a layer's effect is measured."""
_NAMED = 5


def quantise_within_loss(
    model: onnx.ModelProto,
    crops: Sequence[NDArray[Any]],
    check: AccuracyCheck,
    finish: Callable[[onnx.ModelProto], bytes],
) -> tuple[onnx.ModelProto, AccuracyInfo, tuple[str, ...]]:
    """The int8 graph of an fp32 graph; while it loses too much, those layers go back to fp32 that bring most back.

    Args:
        model: as `in_integer_operators` makes it.
        crops: (N, C, H, W) raw pixels each, for calibration.
        check: of the accuracy.
        finish: makes the content of a model file of a graph.

    Returns:
        The graph, its accuracy, and the names of the layers that stay in fp32.

    Raises:
        ExportError: the check is not passed with `MOST_KEPT` layers in fp32; names the costliest.
    """
    check.progress.stage("looking for the ranges of activations")
    ranges = activation_ranges(model, crops)
    ranked: tuple[str, ...] = ()
    gains: Mapping[str, float] = {}
    for count in range(MOST_KEPT + 1):
        if count == 1:
            gains = layer_gains(model, crops[:_PROBES], check)
            ranked = tuple(sorted(gains, key=lambda name: -gains[name]))
        keep = ranked[:count]
        check.progress.stage("quantising")
        quantised = upsample_integers(quantise(model, ranges, keep=keep))
        accuracy = check.measure(finish(quantised))
        if passes(accuracy):
            return quantised, accuracy, keep
    blamed = ", ".join(f"{name} ({gains[name]:.1e})" for name in ranked[:_NAMED])
    raise ExportError(
        f"int8 loses too much: mean IoU {accuracy.mean_iou:.4f} on {accuracy.images} images of {accuracy.split} "
        f"against {accuracy.mean_iou_fp32:.4f} in fp32 (at most {LARGEST_LOSS} is allowed), even with "
        f"{len(keep)} layers left in fp32; layers to blame, with the error in the probabilities "
        f"that each one brings in: {blamed}; export in fp32, or train a wider network; nothing was written"
    )


def layer_gains(
    model: onnx.ModelProto, crops: Sequence[NDArray[Any]], check: AccuracyCheck
) -> Mapping[str, float]:
    """By how much each layer, left in fp32 alone, lessens the mean error of the probabilities."""
    layers = layers_of(model)
    check.progress.stage("ranking layers by their error", len(layers), unit="layers")
    ranges = activation_ranges(model, crops)
    expected = [Graph(model.SerializeToString())(crop)[1] for crop in crops]

    def error(*keep: str) -> float:
        graph = Graph(quantise(model, ranges, keep=keep).SerializeToString())
        return float(
            np.mean([np.abs(graph(crop)[1] - p).mean() for crop, p in zip(crops, expected, strict=True)])
        )

    everything = error()
    gains = {}
    for name in layers:
        gains[name] = everything - error(name)
        check.progress.advance()
    return gains
