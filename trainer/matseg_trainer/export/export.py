"""A checkpoint becomes one ONNX file: raw pixels in, labels out, and everything about itself inside.

The file appears only when it passed: the fp32 graph against the torch network at several sizes and batch sizes, the
halo by disturbing the input beyond a cut, a lower precision by its accuracy on the validation images. The self-test
that travels with it comes from the very graph that is written.

```
torch network ─ to_onnx ─> fp32 graph ──────────────────────────────────────────────> fp32 file
                               ├─ to_half ────────────────────────────> gate ───────> fp16 file
                               └─ rewrite ─ sample ranges ─ quantise ─> gate ───────> int8 file
                                                               └─<─ layers back to fp32
```

With test-time augmentation, what is compared, confirmed, gated and written is the mean of several views of that graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matseg_runtime.model.guard import check_model
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.metadata import (
    PAYS_ON,
    AccuracyInfo,
    CalibrationInfo,
    ExportInfo,
    ModelMetadata,
    ParityInfo,
    Precision,
    SelfTest,
    TilingInfo,
    Views,
    encode,
)
from matseg_shared.errors import ExportError, ModelError
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import Dataset
from matseg_trainer.export import crops, gate, half, sensitive
from matseg_trainer.export.gate import AccuracyCheck
from matseg_trainer.export.graph import OPSET, DeployedNetwork, Graph, to_onnx
from matseg_trainer.export.index import GraphIndex
from matseg_trainer.export.parity import TIE_MARGIN, check_parity, confirm_halo, parity_inputs, top_margin
from matseg_trainer.export.plan import computed_tensors
from matseg_trainer.export.ranges import sample_tensors
from matseg_trainer.export.rewrite import in_integer_operators, with_one_score
from matseg_trainer.export.views import MeanOfViews, with_views
from matseg_trainer.networks.halo import measure_halo
from matseg_trainer.predict.checkpoint import Checkpoint, package_versions

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Finished:
    """A graph of the precision asked for, for one view, and what its metadata say of how it was made."""

    model: onnx.ModelProto
    precision: Precision
    calibration: CalibrationInfo | None = None
    accuracy: AccuracyInfo | None = None


def export_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    *,
    precision: Precision = "fp32",
    tta: Views = 1,
    dataset: Dataset | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a model file, or nothing.

    Args:
        checkpoint: what was trained.
        path: the file.
        precision: fp16 and int8 need the data set.
        tta: views whose mean the file gives, see `matseg_trainer.export.views`.
        dataset: the data set it was trained on, unchanged.
        progress: told of each stage.

    Raises:
        UsageError: the precision needs a data set and there is none.
        DatasetError: the data set is not the one of the training.
        ExportError: the graph does not do what the torch network does, or the precision costs too much accuracy.
        OutputError: the file cannot be written.
    """
    source = crops.require_dataset(checkpoint, dataset, precision) if precision != "fp32" else None
    network = checkpoint.network()
    progress.stage("writing the graph")
    deployed = DeployedNetwork(network, checkpoint.input.mean, checkpoint.input.std).eval()
    model = with_one_score(to_onnx(deployed, checkpoint.input.channels, checkpoint.input.dtype))
    graph = Graph(with_views(model, tta).SerializeToString())
    progress.stage("comparing with torch")
    parity = check_parity(MeanOfViews(deployed, tta), graph, parity_inputs(checkpoint, network.stride))
    progress.stage("measuring the halo")
    halo = measure_halo(network, checkpoint.input.channels)
    confirm_halo(graph, checkpoint, network.stride, halo)
    maker = _Maker(
        checkpoint=checkpoint, parity=parity, stride=network.stride, halo=halo, tta=tta, progress=progress
    )
    finished = _Finished(model=model, precision="fp32")
    if source is not None:
        finished = maker.int8(model, source) if precision == "int8" else maker.fp16(model, source)
        confirm_halo(
            Graph(with_views(finished.model, tta).SerializeToString()), checkpoint, network.stride, halo
        )
    return maker.write(finished, path)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Maker:
    """What all precisions of one checkpoint have in common."""

    checkpoint: Checkpoint
    parity: ParityInfo
    stride: int
    halo: int
    tta: Views
    progress: Progress = SILENT

    def metadata(self, finished: _Finished) -> ModelMetadata:
        """The whole document."""
        checkpoint = self.checkpoint
        return ModelMetadata(
            name=f"{checkpoint.training.dataset}_{checkpoint.training.version}",
            classes=checkpoint.classes,
            input=checkpoint.input,
            tiling=TilingInfo(stride=self.stride, halo=self.halo),
            training=checkpoint.training,
            pixel_size=checkpoint.pixel_size,
            export=ExportInfo(
                precision=finished.precision,
                opset=OPSET,
                parity=self.parity,
                calibration=finished.calibration,
                accuracy=finished.accuracy,
                pays_on=PAYS_ON[finished.precision],
                tta=self.tta,
                packages=package_versions("onnx", "onnxruntime"),
            ),
        )

    def content(self, finished: _Finished) -> bytes:
        """A whole model file: the graph with metadata and its own answer to the self-test."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(with_views(finished.model, self.tta))
        labels, probabilities = Graph(model.SerializeToString())(self.checkpoint.sample)
        test = SelfTest(image=self.checkpoint.sample, labels=labels, margin=top_margin(probabilities))
        for key, value in encode(self.metadata(finished), test).items():
            model.metadata_props.add(key=key, value=value)
        return bytes(model.SerializeToString())

    def fp16(self, model: onnx.ModelProto, dataset: Dataset) -> _Finished:
        """The graph in fp16, measured."""
        training = crops.split_images(self.checkpoint, dataset, crops.SPLIT)
        chosen = crops.calibration_crops(training, self.stride)
        tensors = computed_tensors(GraphIndex.of(model))
        samples = sample_tensors(model, tensors, chosen, progress=self.progress)
        halved = half.to_half(model, samples)
        accuracy = self._gate(model, dataset).measure(self.content(_Finished(model=halved, precision="fp16")))
        if not gate.passes(accuracy):
            raise ExportError(
                f"fp16 loses too much: mean IoU {accuracy.mean_iou:.4f} on {accuracy.images} images of "
                f"{accuracy.split} against {accuracy.mean_iou_fp32:.4f} in fp32 (at most {gate.LARGEST_LOSS} is "
                "allowed); export in fp32; nothing was written"
            )
        return _Finished(model=halved, precision="fp16", accuracy=accuracy)

    def int8(self, model: onnx.ModelProto, dataset: Dataset) -> _Finished:
        """The graph in int8, measured, with the layers in fp32 that need it."""
        training = crops.split_images(self.checkpoint, dataset, crops.SPLIT)
        quantiser = sensitive.Quantiser.of(
            in_integer_operators(model),
            self.checkpoint.input,
            crops.calibration_crops(training, self.stride),
            self._gate(model, dataset),
            lambda graph: self.content(_Finished(model=graph, precision="int8")),
        )
        result = quantiser.run()
        calibration = CalibrationInfo(
            method="least squared rounding error; class scores: fewest changed labels",
            split=crops.SPLIT,
            crops=crops.CROPS,
            crop=crops.CROP,
            seed=crops.SEED,
            ranges=result.ranges,
            weight_levels=sensitive.WEIGHT_LEVELS,
            fp32_layers=result.fp32_layers,
        )
        return _Finished(
            model=result.model, precision="int8", calibration=calibration, accuracy=result.accuracy
        )

    def _gate(self, model: onnx.ModelProto, dataset: Dataset) -> AccuracyCheck:
        images = crops.split_images(self.checkpoint, dataset, gate.SPLIT)
        fp32 = self.content(_Finished(model=model, precision="fp32"))
        return AccuracyCheck.of(images, len(self.checkpoint.classes), fp32, self.progress)

    def write(self, finished: _Finished, path: Path) -> ExportResult:
        """The file, whole or not at all."""
        import onnx

        content = self.content(finished)
        onnx.checker.check_model(content)
        _require_loadable(path, content)
        with atomic_write(path) as stream:
            stream.write(content)
        return ExportResult(path=path, bytes=len(content), metadata=self.metadata(finished))


def _require_loadable(path: Path, content: bytes) -> None:
    """The runtime loads no file with an operator that it does not know of."""
    try:
        check_model(path, content)
    except ModelError as error:
        raise ExportError(
            f"{error}; nothing was written; a new network's operators belong on the list in matseg_runtime.model.guard"
        ) from error
