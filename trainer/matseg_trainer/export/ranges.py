"""What values the tensors of a graph take on real images, and the uint8 codes that lose least of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.providers import load_onnxruntime
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.metadata import INPUT_NAME

if TYPE_CHECKING:
    import onnx

Samples = Mapping[str, NDArray[np.float32]]
"""Per tensor (C, M): values of M pixels."""

LEVELS = 255
VALUES_PER_CROP = 1 << 14
"""Of each tensor, about; beyond it a random part of the pixels is kept."""
_STEP = 3
"""Every third pixel along y and x leaves the graph: neighbours say the same, and whole maps would fill the memory."""
_CONFUSION_ALLOWED = 1e-4
"""Share of the pixels; fewer are chance."""
_SHRINKAGES = np.linspace(1.0, 0.3, 29)


@dataclass(frozen=True, slots=True)
class Code:
    """How uint8 stands for real numbers: value = scale * (q - zero_point)."""

    scale: float
    zero_point: int

    @classmethod
    def spanning(cls, low: float, high: float) -> Code:
        """The code whose 256 levels reach from `low` to `high`; 0 is always one of them."""
        low, high = min(low, 0.0), max(high, 0.0)
        if high - low < 1e-12:
            return cls(1.0, 0)
        scale = float(np.float32((high - low) / LEVELS))
        return cls(scale, int(np.clip(round(-low / scale), 0, LEVELS)))

    def rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is left of real values after a way through uint8."""
        levels = np.clip(np.rint(values / self.scale) + self.zero_point, 0, LEVELS)
        rounded: NDArray[np.float32] = ((levels - self.zero_point) * self.scale).astype(np.float32)
        return rounded


def sample_tensors(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    crops: Sequence[NDArray[Any]],
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Samples:
    """Run a graph on crops and keep some values of each tensor.

    Args:
        model: the fp32 graph.
        tensors: float tensors of 4 axes (N, C, H, W).
        crops: (N, C, H, W) raw pixels each.
        seed: chooses the pixels.
        progress: told of each crop.
    """
    progress.stage("sampling the ranges of activations", len(crops), unit="crops")
    probed = _with_probes(model, tensors)
    session = load_onnxruntime().InferenceSession(
        probed.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(seed)
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tensors}
    for crop in crops:
        arrays = session.run([_probe(name) for name in tensors], {INPUT_NAME: crop})
        for name, array in zip(tensors, arrays, strict=True):
            columns = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
            pixels = max(32, VALUES_PER_CROP // columns.shape[0])
            if columns.shape[1] > pixels:
                columns = columns[:, rng.choice(columns.shape[1], pixels, replace=False)]
            kept[name].append(columns)
        progress.advance()
    return {name: np.concatenate(parts, axis=1) for name, parts in kept.items()}


def _probe(name: str) -> str:
    return f"{name}__probe"


def _with_probes(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    import onnx
    from onnx import helper

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    for name, values in (
        ("starts", [0, 0]),
        ("ends", [1 << 31, 1 << 31]),
        ("axes", [2, 3]),
        ("steps", [_STEP] * 2),
    ):
        probed.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(values, np.int64), f"__probe_{name}")
        )
    for name in tensors:
        inputs = [name, "__probe_starts", "__probe_ends", "__probe_axes", "__probe_steps"]
        probed.graph.node.append(helper.make_node("Slice", inputs, [_probe(name)]))
        probed.graph.output.append(
            helper.make_tensor_value_info(_probe(name), onnx.TensorProto.FLOAT, [None] * 4)
        )
    return probed


def least_error_code(parts: Sequence[NDArray[np.float32]]) -> Code:
    """The code with the least mean squared error; values beyond its ends are cut off where that pays."""
    values = np.concatenate([part.ravel() for part in parts])
    low, high = float(values.min()), float(values.max())
    codes = [Code.spanning(low * part, high * part) for part in _SHRINKAGES]
    return min(codes, key=lambda code: float(np.square(code.rounded(values) - values).mean()))


def least_confusion_code(scores: NDArray[np.float32]) -> Code:
    """The code with the least error among those after which (nearly) most pixels keep their class.

    Args:
        scores: (K, M) logits, or (1, M) differences of two logits, whose sign decides.
    """

    def classes(values: NDArray[np.float32]) -> NDArray[Any]:
        found: NDArray[Any] = values[0] > 0 if len(values) == 1 else values.argmax(axis=0)
        return found

    low, high, expected = float(scores.min()), float(scores.max()), classes(scores)
    codes = [Code.spanning(low * part, high * part) for part in _SHRINKAGES]
    rounded = [code.rounded(scores) for code in codes]
    wrong = [int((classes(values) != expected).sum()) for values in rounded]
    bound = min(wrong) + _CONFUSION_ALLOWED * expected.size
    errors = [float(np.square(values - scores).mean()) for values in rounded]
    return min(
        (code for code, count in zip(codes, wrong, strict=True) if count <= bound),
        key=lambda code: errors[codes.index(code)],
    )
