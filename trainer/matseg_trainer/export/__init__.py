"""A checkpoint becomes one ONNX file: raw pixels in, labels out, and everything about itself inside.

The file appears only when it passed: the graph against the torch network at several sizes and batch sizes, the halo
by disturbing the input beyond a cut, and the self-test that travels with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from matseg_shared.errors import UsageError
from matseg_shared.files import atomic_write
from matseg_shared.metadata import ExportInfo, ModelMetadata, Precision, SelfTest, TilingInfo, encode
from matseg_trainer.checkpoint import Checkpoint, package_versions
from matseg_trainer.export.graph import OPSET, DeployedNetwork, Graph, to_onnx
from matseg_trainer.export.parity import TIE_MARGIN, check_parity, confirm_halo, parity_inputs, top_margin
from matseg_trainer.halo import measure_halo

if TYPE_CHECKING:
    import onnx

__all__ = [
    "OPSET",
    "TIE_MARGIN",
    "DeployedNetwork",
    "ExportResult",
    "export_checkpoint",
    "measure_halo",
    "parity_inputs",
    "to_onnx",
    "top_margin",
]


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
    graph = Graph(model.SerializeToString())
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


def _self_test(graph: Graph, sample: NDArray[Any]) -> SelfTest:
    labels, probabilities = graph(sample)
    return SelfTest(image=sample, labels=labels, margin=top_margin(probabilities))
