"""The fp16 graph of an fp32 graph, for GPUs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import ExportError
from matseg_trainer.export.graph import strip
from matseg_trainer.export.quantise.index import (
    GraphIndex,
    class_scores,
    following,
    layer_name,
    normalised_image,
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
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _require_range(model, crops)
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"node{number}"
    index = GraphIndex.of(prepared)
    inner = following(normalised_image(index), index)
    after = {node.name for node in following(class_scores(index), index)}
    halved = {node.name for node in inner} - after
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights near zero become zero
        result: onnx.ModelProto = convert_float_to_float16(
            prepared,
            keep_io_types=True,
            op_block_list=[],
            node_block_list=[node.name for node in index.nodes if node.name not in halved],
        )
    strip(result)
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
