"""The graph of a network as it is deployed: raw pixels in, labels and probabilities out."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.fusion import fuse_conv_bn_eval

from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME, PROBABILITIES_NAME, Views
from matseg_shared.errors import ExportError
from matseg_trainer.export.views import mean_of_views
from matseg_trainer.networks.base import SegmentationNetwork, normalise

if TYPE_CHECKING:
    import onnx

OPSET = 18
_LARGEST_CONSTANT = 1 << 30
"""Bytes of a constant that may be computed at export."""


class DeployedNetwork(nn.Module):
    """A network between normalisation and class decision; its scores may be the mean of several views."""

    def __init__(
        self, network: SegmentationNetwork, mean: Sequence[float], std: Sequence[float], tta: Views = 1
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = tuple(mean), tuple(std)
        self.tta = tta

    @property
    def stride(self) -> int:
        """The network's."""
        return self.network.stride

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) raw pixels to labels (N, H, W) uint8 and probabilities (N, K, H, W)."""
        return decide(mean_of_views(self.network, normalise(image, self.mean, self.std), self.tta))


class DeployedEnsemble(nn.Module):
    """Several deployed networks, of whose probabilities it gives the mean (Hansen and Salamon 1990).

    The exporter finds what they compute alike: cast, and normalisation where it is the same, are once in the graph.
    """

    def __init__(self, members: Sequence[DeployedNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def stride(self) -> int:
        """Pixels; the smallest common multiple of the members'."""
        return math.lcm(*(cast(DeployedNetwork, member).stride for member in self.members))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) raw pixels to labels (N, H, W) uint8 and probabilities (N, K, H, W)."""
        first, *others = self.members
        total = first(image)[1]
        for member in others:
            total = total + member(image)[1]
        mean = total / len(self.members)
        if mean.shape[1] == 2:
            return (mean[:, 1:] > mean[:, :1]).to(torch.uint8).squeeze(1), mean
        return mean.argmax(dim=1).to(torch.uint8), mean


Deployed = DeployedNetwork | DeployedEnsemble


def decide(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (N, H, W) uint8, the first of equals, and probabilities (N, K, H, W).

    Args:
        scores: (N, K, H, W) logits, or (N, 1, H, W) differences of the logits of two classes.
    """
    if scores.shape[1] <= 2:  # the same as below, without int64 indices
        margin = scores if scores.shape[1] == 1 else scores[:, 1:2] - scores[:, 0:1]
        labels = (margin > 0).to(torch.uint8).squeeze(1)  # a view; to select the channel first would copy it
        second = torch.sigmoid(margin)
        return labels, torch.cat([1 - second, second], dim=1)
    # not torch.softmax: onnxruntime turns the channels to the last axis for it, and back
    powers = torch.exp(scores - scores.amax(dim=1, keepdim=True))
    return scores.argmax(dim=1).to(torch.uint8), powers / powers.sum(dim=1, keepdim=True)


def with_one_score(network: SegmentationNetwork, single: SegmentationNetwork) -> SegmentationNetwork:
    """A two-class network whose last layer computes the difference of the two logits: half the work and memory there.

    `single` is the same network with one logit, whose weights are overwritten and which is returned.
    """
    weights = network.state_dict()
    for name, wanted in single.state_dict().items():
        if wanted.shape != (shape := weights[name].shape):
            logits = next(axis for axis, size in enumerate(wanted.shape) if size != shape[axis])
            first, second = weights[name].chunk(2, dim=logits)
            weights[name] = second - first
    single.load_state_dict(weights)
    return single.eval()


def with_folded_norms(deployed: Deployed) -> Deployed:
    """A copy whose convolutions do what the batch norms behind them did; the exporter folds none of shared weights."""
    copied = copy.deepcopy(deployed)
    for block in copied.modules():
        if isinstance(block, nn.Sequential):
            for number, (layer, norm) in enumerate(itertools.pairwise(block)):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[number], block[number + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return copied


def to_onnx(deployed: Deployed, channels: int, dtype: str) -> onnx.ModelProto:
    """The graph with a dynamic batch, and H and W dynamic multiples of the stride."""
    from onnxscript.optimizer import fold_constants
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule

    stride = deployed.stride
    # Two and three strides, so that no dimension is taken for a constant or for another one
    example = torch.zeros(2, channels, 2 * stride, 3 * stride).to(getattr(torch, dtype))
    batch, rows, columns = (Dim(name, min=1, max=1 << 16) for name in ("batch", "rows", "columns"))
    with _quiet():
        program = torch.onnx.export(
            with_folded_norms(deployed),
            (example,),
            input_names=[INPUT_NAME],
            output_names=[LABELS_NAME, PROBABILITIES_NAME],
            dynamic_shapes={"image": {0: batch, 2: stride * rows, 3: stride * columns}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
        if program is None:
            raise ExportError("torch handed out no ONNX graph")
        for node in program.model.graph:
            if node.op_type == "Slice" and (whole := node.inputs[0]) is not None and whole.is_initializer():
                node.outputs[0].name = f"{whole.name}_{node.outputs[0].name}"  # which layer it is a part of
        program.optimize()
        # The exporter leaves slices of large weights to the runtime; a layer whose weight is no constant stays in float
        fold_constants(program.model, input_size_limit=_LARGEST_CONSTANT, output_size_limit=_LARGEST_CONSTANT)
        rewrite(program.model, [fuse_pad_into_conv_rule])  # padding of one side more than of the other
    model: onnx.ModelProto = program.model_proto
    strip(model)
    return model


def strip(model: onnx.ModelProto) -> None:
    """Remove what tools tell about themselves and the machine they ran on: source paths, stack traces, names."""
    model.doc_string = model.producer_name = model.producer_version = ""
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
    """An exported graph on onnxruntime's CPU provider."""

    def __init__(self, content: bytes) -> None:
        from matseg_runtime.inference.providers import exact_options, load_onnxruntime

        runtime = load_onnxruntime()
        self._session = runtime.InferenceSession(
            content, exact_options(runtime), providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        labels, probabilities = self._session.run([LABELS_NAME, PROBABILITIES_NAME], {INPUT_NAME: image})
        return labels, probabilities
