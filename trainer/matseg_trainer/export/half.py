"""The fp16 graph of an fp32 graph, for GPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import ExportError
from matseg_trainer.export.quantise.index import (
    GraphIndex,
    class_scores,
    following,
    layer_name,
    normalised_image,
    prune,
)
from matseg_trainer.export.quantise.static import CropReader

if TYPE_CHECKING:
    import onnx

LARGEST = 32752.0
"""Half of what fp16 can hold: images with activations twice those of the calibration crops still fit."""
_COMPUTED = ("Add", "Conv", "ConvTranspose", "Resize")
_NAMED = 5


def to_half(model: onnx.ModelProto, crops: Sequence[NDArray[Any]]) -> onnx.ModelProto:
    """Compute in fp16 between the normalised image and the class scores.

    Normalisation stays in fp32, since raw 16-bit pixels exceed fp16's range, and so does what follows the scores:
    there probabilities lose digits and nothing is gained.

    Args:
        model: the fp32 graph.
        crops: (N, C, H, W) raw pixels each, for calibration.

    Raises:
        ExportError: activations come near the largest number of fp16; names them.
    """
    import onnx

    _require_range(model, crops)
    index = GraphIndex.of(model)
    first, scores = normalised_image(index), class_scores(index)
    behind = {node.output[0] for node in following(scores, index)}
    inner = {node.output[0]: node for node in following(first, index) if node.output[0] not in behind}
    halves = {name for node in inner.values() for name in node.input if _is_float_constant(node, name, index)}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for name in sorted(halves):
        half = index.constants[name].astype(np.float16)
        result.graph.initializer.append(onnx.numpy_helper.from_array(half, _half(name)))
    del result.graph.node[:]
    for node in index.nodes:
        result.graph.node.append(_halved(node, {first, *halves}, scores) if node.output[0] in inner else node)
        if first in node.output:
            result.graph.node.append(_cast(first, _half(first), onnx.TensorProto.FLOAT16))
        if scores in node.output:
            result.graph.node.append(_cast(_half(scores), scores, onnx.TensorProto.FLOAT))
    prune(result)
    return result


def _half(name: str) -> str:
    return f"{name}_fp16"


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], to=kind)


def _is_float_constant(node: onnx.NodeProto, name: str, index: GraphIndex) -> bool:
    if node.op_type == "Resize":  # its scales are float32 whatever it resizes
        return False
    return name in index.constants and index.constants[name].dtype == np.float32


def _halved(node: onnx.NodeProto, names: Collection[str], scores: str) -> onnx.NodeProto:
    """A node that reads the fp16 copies of some tensors, and makes one of the scores."""
    import onnx

    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.input[:] = [_half(name) if name in names else name for name in node.input]
    result.output[:] = [_half(name) if name == scores else name for name in node.output]
    for item in result.attribute:
        if node.op_type == "Cast" and item.name == "to" and item.i == onnx.TensorProto.FLOAT:
            item.i = onnx.TensorProto.FLOAT16
    return result


def _require_range(model: onnx.ModelProto, crops: Sequence[NDArray[Any]]) -> None:
    import onnx
    from onnxruntime.quantization.calibrate import create_calibrator

    with tempfile.TemporaryDirectory(prefix="matseg-") as folder:
        path = Path(folder) / "fp32.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(path, _COMPUTED, str(path.with_stem("augmented")))
        calibrator.collect_data(CropReader(crops))
        found = calibrator.compute_data().data
    wide = []
    for node in model.graph.node:
        if node.op_type in _COMPUTED and node.output[0] in found:
            largest = float(np.abs(found[node.output[0]].range_value).max())
            if not largest <= LARGEST:
                name = layer_name(node) if node.op_type.startswith("Conv") else node.output[0]
                wide.append(f"{name} ({largest:.3g})")
    if wide:
        raise ExportError(
            f"activations come near the largest number of fp16, {np.finfo(np.float16).max:.0f}: "
            f"{', '.join(wide[:_NAMED])}; export this version in fp32 or int8; nothing was written"
        )
