"""The graph of a network as it is deployed: raw pixels in, labels and probabilities out."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME, PROBABILITIES_NAME
from matseg_shared.errors import ExportError
from matseg_trainer.export.fold import with_cut_weights
from matseg_trainer.networks.base import SegmentationNetwork, normalise

if TYPE_CHECKING:
    import onnx

OPSET = 18
_TORCH_DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}


class DeployedNetwork(nn.Module):
    """A network as it is deployed: normalisation before it, the class decision behind it."""

    def __init__(self, network: SegmentationNetwork, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) raw pixels to labels (N, H, W) uint8 and probabilities (N, K, H, W)."""
        return decide(self.logits(image))

    def logits(self, image: Tensor) -> Tensor:
        """(N, C, H, W) raw pixels to (N, K, H, W)."""
        logits: Tensor = self.network(normalise(image, self.mean, self.std))
        return logits


def decide(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K, H, W) to labels (N, H, W) uint8, the first of equals, and probabilities (N, K, H, W)."""
    if logits.shape[1] == 2:
        return _decide_between_two(logits)
    # not torch.softmax: onnxruntime turns the channels to the last axis for it, and back
    powers = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    return logits.argmax(dim=1).to(torch.uint8), powers / powers.sum(dim=1, keepdim=True)


def _decide_between_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and probabilities from the difference of two logits: no int64 indices, and half the channels.

    The same as argmax (whose first class wins a tie) and softmax.
    """
    margin = logits[:, 1:2] - logits[:, 0:1]
    labels = (margin > 0).to(torch.uint8).squeeze(1)  # a view; to select the channel first would copy it
    second = torch.sigmoid(margin)
    return labels, torch.cat([1 - second, second], dim=1)


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
    strip(model)
    return with_cut_weights(model)


def strip(model: onnx.ModelProto) -> None:
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


class Graph:
    """The exported graph on onnxruntime's CPU provider."""

    def __init__(self, content: bytes) -> None:
        from matseg_runtime.inference.providers import exact_options, load_onnxruntime

        runtime = load_onnxruntime()
        self._session = runtime.InferenceSession(
            content, exact_options(runtime), providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        labels, probabilities = self._session.run([LABELS_NAME, PROBABILITIES_NAME], {INPUT_NAME: image})
        return labels, probabilities
