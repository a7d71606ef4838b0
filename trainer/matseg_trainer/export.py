"""A checkpoint becomes one ONNX file: raw pixels in, labels out, and everything about itself inside.

The file appears only when it passed: the graph against the torch network at several sizes and batch sizes, the halo
by disturbing the input beyond a cut, and the self-test that travels with it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from matseg_shared.errors import ExportError, UsageError
from matseg_shared.files import atomic_write
from matseg_shared.metadata import (
    INPUT_NAME,
    LABELS_NAME,
    PROBABILITIES_NAME,
    ExportInfo,
    ModelMetadata,
    ParityInfo,
    Precision,
    SelfTest,
    TilingInfo,
    encode,
)
from matseg_trainer.checkpoint import Checkpoint, package_versions
from matseg_trainer.halo import measure_halo
from matseg_trainer.networks.base import SegmentationNetwork, normalise

if TYPE_CHECKING:
    import onnx

OPSET = 18
MAX_PROBABILITY_DIFFERENCE = 1e-3
"""Largest difference between graph and torch network that fp32 rounding explains in networks this deep."""
TIE_MARGIN = 1e-4
"""Two best probabilities nearer than this are a tie, which rounding may decide either way."""
_TORCH_DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}


class DeployedNetwork(nn.Module):
    """A network as it is deployed: normalisation before it, the class decision behind it."""

    def __init__(self, network: SegmentationNetwork, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) raw pixels to labels (N, H, W) uint8 and probabilities (N, K, H, W)."""
        logits = self.network(normalise(image, self.mean, self.std))
        return logits.argmax(dim=1).to(torch.uint8), torch.softmax(logits, dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written."""

    path: Path
    bytes: int
    metadata: ModelMetadata


def export_checkpoint(checkpoint: Checkpoint, path: Path, *, precision: Precision = "fp32") -> ExportResult:
    """Write a model file, or nothing.

    Raises:
        UsageError: a precision that this version cannot export yet.
        ExportError: the graph does not do what the torch network does.
        OutputError: the file cannot be written.
    """
    if precision != "fp32":
        raise UsageError(f"--precision {precision}: this version of matseg exports fp32 only")
    network = checkpoint.network()
    deployed = DeployedNetwork(network, checkpoint.input.mean, checkpoint.input.std).eval()
    model = to_onnx(deployed, checkpoint.input.channels, checkpoint.input.dtype)
    graph = _Graph(model.SerializeToString())
    parity = check_parity(deployed, graph, parity_inputs(checkpoint, network.stride))
    halo = measure_halo(network, checkpoint.input.channels)
    confirm_halo(graph, checkpoint, network.stride, halo)
    metadata = ModelMetadata(
        name=f"{checkpoint.training.dataset}_{checkpoint.training.version}",
        classes=checkpoint.classes,
        input=checkpoint.input,
        tiling=TilingInfo(stride=network.stride, halo=halo),
        training=checkpoint.training,
        export=ExportInfo(
            precision=precision,
            opset=OPSET,
            parity=parity,
            packages=package_versions("onnx", "onnxruntime"),
        ),
    )
    for key, value in encode(metadata, _self_test(graph, checkpoint.sample)).items():
        model.metadata_props.add(key=key, value=value)
    return ExportResult(path=path, bytes=_write(model, path), metadata=metadata)


def _write(model: onnx.ModelProto, path: Path) -> int:
    import onnx

    onnx.checker.check_model(model)
    content = model.SerializeToString()
    with atomic_write(path) as stream:
        stream.write(content)
    return len(content)


def to_onnx(deployed: DeployedNetwork, channels: int, dtype: str) -> onnx.ModelProto:
    """The graph with a dynamic batch, and H and W dynamic multiples of the stride."""
    stride = deployed.network.stride
    # Two and three strides, so that no dimension is taken for a constant or for another one
    example = torch.zeros(2, channels, 2 * stride, 3 * stride).to(_TORCH_DTYPES[dtype])
    batch, rows, columns = (Dim(name, min=1, max=1 << 16) for name in ("batch", "rows", "columns"))
    with _quiet():
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=[INPUT_NAME],
            output_names=[LABELS_NAME, PROBABILITIES_NAME],
            dynamic_shapes={"image": {0: batch, 2: stride * rows, 3: stride * columns}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch handed out no ONNX graph")
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter tells about the machine it ran on: source paths, stack traces, internal shapes."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensors in (model.graph.initializer, model.graph.input, model.graph.output):
        for tensor in tensors:
            tensor.doc_string = ""
            del tensor.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on its own internals (a missing torchvision, deprecations) from users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Graph:
    """The exported graph on onnxruntime's CPU provider."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def __call__(self, image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        labels, probabilities = self._session.run([LABELS_NAME, PROBABILITIES_NAME], {INPUT_NAME: image})
        return labels, probabilities


def parity_inputs(checkpoint: Checkpoint, stride: int) -> list[NDArray[Any]]:
    """Inputs of several sizes and batch sizes: noise, real pixels, and plateaus where max pooling meets ties."""
    info = checkpoint.input
    rng = np.random.default_rng(0)
    low, high = info.histogram.low, info.histogram.high

    def noise(batch: int, rows: int, columns: int, levels: int) -> NDArray[Any]:
        shape = (batch, info.channels, rows * stride, columns * stride)
        steps = rng.integers(0, levels, shape) / max(levels - 1, 1)
        return (low + steps * (high - low)).astype(info.dtype)

    plateaus = noise(2, 2, 2, 3).repeat(2, axis=2).repeat(2, axis=3)
    return [
        checkpoint.sample,
        np.concatenate([checkpoint.sample, checkpoint.sample[..., ::-1, :]]),
        noise(1, 1, 1, 256),
        noise(3, 2, 1, 256),
        noise(1, 5, 3, 256),
        noise(2, 2, 4, 2),
        plateaus,
        np.full((1, info.channels, 2 * stride, 3 * stride), low).astype(info.dtype),
    ]


def check_parity(deployed: DeployedNetwork, graph: _Graph, inputs: Sequence[NDArray[Any]]) -> ParityInfo:
    """Compare graph and torch network on every input.

    Raises:
        ExportError: a probability or a label differs by more than rounding explains; says where.
    """
    worst, ties, pixels = 0.0, 0, 0
    for image in inputs:
        with torch.inference_mode():
            expected_labels, expected = (
                output.numpy() for output in deployed(torch.from_numpy(np.ascontiguousarray(image)))
            )
        labels, probabilities = graph(np.ascontiguousarray(image))
        difference = float(np.abs(probabilities - expected).max())
        differs = labels != expected_labels
        tied = top_margin(expected) < TIE_MARGIN
        mismatches = int((differs & ~tied).sum())
        if not difference <= MAX_PROBABILITY_DIFFERENCE or mismatches:
            raise ExportError(
                f"the exported graph differs from the torch network on an input of shape {image.shape}: "
                f"probabilities by {difference:.2e} (at most {MAX_PROBABILITY_DIFFERENCE:.0e} is rounding), "
                f"{mismatches} labels; nothing was written"
            )
        worst = max(worst, difference)
        ties += int((differs & tied).sum())
        pixels += labels.size
    return ParityInfo(
        cases=len(inputs),
        pixels=pixels,
        max_probability_difference=worst,
        label_mismatches=0,
        label_ties=ties,
    )


def top_margin(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Best minus second best: (N, K, H, W) probabilities to (N, H, W)."""
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    margin: NDArray[np.float32] = best[:, 1] - best[:, 0]
    return margin


def confirm_halo(graph: _Graph, checkpoint: Checkpoint, stride: int, halo: int) -> None:
    """Disturb everything beyond a cut, on each side, and see that nothing changes further away than the halo.

    Raises:
        ExportError: something does.
    """
    info = checkpoint.input
    rng = np.random.default_rng(1)
    kept = halo + 2 * stride
    for axis in (2, 3):
        shape = [1, info.channels, 2 * stride, 2 * stride]
        shape[axis] = 2 * kept
        low, high = info.histogram.low, info.histogram.high
        image, other = (rng.uniform(low, high, shape).astype(info.dtype) for _ in range(2))
        before = graph(image)[1]
        for beyond, inside in (
            (slice(kept, None), slice(0, kept - halo)),
            (slice(0, kept), slice(kept + halo, None)),
        ):
            disturbed = image.copy()
            where = [slice(None)] * 4
            where[axis] = beyond
            disturbed[tuple(where)] = other[tuple(where)]
            where[axis] = inside
            change = float(np.abs(graph(disturbed)[1] - before)[tuple(where)].max())
            if change > MAX_PROBABILITY_DIFFERENCE / 10:
                raise ExportError(
                    f"pixels more than the measured halo of {halo} away changed a probability by {change:.2e}; "
                    "tiles would differ from the whole, so nothing was written"
                )


def _self_test(graph: _Graph, sample: NDArray[Any]) -> SelfTest:
    labels, probabilities = graph(sample)
    return SelfTest(image=sample, labels=labels, margin=top_margin(probabilities))
