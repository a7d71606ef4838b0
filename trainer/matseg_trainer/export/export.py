"""A checkpoint becomes one ONNX file: raw pixels in, labels out, and everything about itself inside.

The file appears only when it passed: the fp32 graph against the torch network at several sizes and batch sizes, the
halo by disturbing the input beyond a cut, a lower precision by its accuracy on the validation images. The self-test
that travels with it comes from the very graph that is written.

```
torch network ─ to_onnx ─> fp32 graph ──────────────────────────────────────> fp32 file
                               ├─ to_half ───────────> accuracy check ──────> fp16 file
                               └─ rewrite ─ quantise ─> accuracy check ─────> int8 file
                                              └─<─ layers back to fp32
```
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matseg_runtime.model.file import read_model
from matseg_runtime.model.guard import check_model
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.metadata import (
    PAYS_ON,
    CalibrationInfo,
    ExportInfo,
    ModelMetadata,
    Precision,
    SelfTest,
    TilingInfo,
    Views,
    encode,
)
from matseg_shared.errors import ExportError, ModelError, UsageError
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import Dataset
from matseg_trainer.export import crops
from matseg_trainer.export.accuracy_check import LARGEST_LOSS, AccuracyCheck, passes
from matseg_trainer.export.accuracy_check import SPLIT as CHECKED_SPLIT
from matseg_trainer.export.graph import OPSET, DeployedNetwork, Graph, to_onnx, with_one_score
from matseg_trainer.export.half import to_half
from matseg_trainer.export.parity import check_parity, confirm_halo, parity_inputs, top_margin
from matseg_trainer.export.quantise.fallback import quantise_within_loss
from matseg_trainer.export.quantise.rewrite import in_integer_operators
from matseg_trainer.export.quantise.static import METHOD, WEIGHT_LEVELS, ranges_digest
from matseg_trainer.export.views import require_float
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.halo import measure_halo
from matseg_trainer.predict.checkpoint import Checkpoint, package_versions

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An exported file and its figures."""

    path: Path
    bytes: int
    metadata: ModelMetadata


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

    fp16 and int8 need the data set of the training, unchanged. The file gives the mean of `tta` views, see
    `matseg_trainer.export.views`.

    Raises:
        UsageError: the precision needs a data set and there is none, or cannot have views.
        DatasetError: the data set is not the one of the training.
        ExportError: the graph does not do what the torch network does, or the precision costs too much accuracy.
        OutputError: the file cannot be written.
    """
    require_float(precision, tta)
    source = crops.require_dataset(checkpoint, dataset, precision) if precision != "fp32" else None
    network = checkpoint.network()
    model = _fp32_graph(checkpoint, network, tta, progress)
    graph = Graph(model.SerializeToString())
    progress.stage("comparing with torch")
    deployed = _deployed(checkpoint, network, tta)
    parity = check_parity(deployed, graph, parity_inputs(checkpoint, network.stride))
    progress.stage("measuring the halo")
    halo = measure_halo(network, checkpoint.input.channels)
    confirm_halo(graph, checkpoint, network.stride, halo)
    metadata = ModelMetadata(
        name=f"{checkpoint.training.dataset}_{checkpoint.training.version}",
        classes=checkpoint.classes,
        input=checkpoint.input,
        tiling=TilingInfo(stride=network.stride, halo=halo),
        training=checkpoint.training,
        pixel_size=checkpoint.pixel_size,
        export=ExportInfo(
            precision="fp32",
            opset=OPSET,
            parity=parity,
            pays_on=PAYS_ON["fp32"],
            tta=tta,
            packages=package_versions("onnx", "onnxruntime"),
        ),
    )
    file = _ModelFile(graph=model, metadata=metadata, checkpoint=checkpoint)
    if source is not None:
        file = _in_int8(file, source, progress) if precision == "int8" else _in_fp16(file, source, progress)
        confirm_halo(Graph(file.graph.SerializeToString()), checkpoint, network.stride, halo)
    return file.write(path)


def exported_before(path: Path, checkpoint: Checkpoint, precision: Precision, tta: Views) -> ExportResult:
    """Read the file that an export of the checkpoint in this precision, with so many views, left at `path`.

    Raises:
        ModelError: it is no model.
        UsageError: it is of another training, in another precision, or with other views.
    """
    found = read_model(path, MADE_HERE).model.metadata
    same = found.training.model_dump(mode="json") == checkpoint.training.model_dump(mode="json")
    same = same and checkpoint.pixel_size in (None, found.pixel_size)
    if not same or found.export.precision != precision or found.export.tta != tta:
        raise UsageError(
            f"{path}: expected {checkpoint.training.dataset}_{checkpoint.training.version} as it is trained now, in "
            f"{precision} with {tta} view(s), found {found.name} of epoch {found.training.epoch} in "
            f"{found.export.precision} with {found.export.tta}; export it again with --overwrite, or to another name "
            "with -o"
        )
    return ExportResult(path=path, bytes=path.stat().st_size, metadata=found)


def _deployed(checkpoint: Checkpoint, network: SegmentationNetwork, tta: Views) -> DeployedNetwork:
    return DeployedNetwork(network, checkpoint.input.mean, checkpoint.input.std, tta).eval()


def _fp32_graph(
    checkpoint: Checkpoint, network: SegmentationNetwork, tta: Views, progress: Progress
) -> onnx.ModelProto:
    progress.stage("writing the graph")
    if len(checkpoint.classes) == 2:
        network = with_one_score(network, checkpoint.new_network(n_class=1))
    return to_onnx(_deployed(checkpoint, network, tta), checkpoint.input.channels, checkpoint.input.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ModelFile:
    """A model file that is not written yet."""

    graph: onnx.ModelProto
    metadata: ModelMetadata
    checkpoint: Checkpoint

    def with_precision(self, precision: Precision, graph: onnx.ModelProto, **figures: Any) -> _ModelFile:
        """The same model with another graph; figures are further fields of `ExportInfo`."""
        figures |= {"precision": precision, "pays_on": PAYS_ON[precision]}
        export = self.metadata.export.model_copy(update=figures)
        metadata = self.metadata.model_copy(update={"export": export})
        return dataclasses.replace(self, graph=graph, metadata=metadata)

    def content(self) -> bytes:
        """The graph with metadata and its own answer to the self-test."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.graph)
        sample = self.checkpoint.sample
        labels, probabilities = Graph(model.SerializeToString())(sample)
        test = SelfTest(image=sample, labels=labels, margin=top_margin(probabilities))
        for key, value in encode(self.metadata, test).items():
            model.metadata_props.add(key=key, value=value)
        return bytes(model.SerializeToString())

    def write(self, path: Path) -> ExportResult:
        """The file, whole or not at all."""
        import onnx

        content = self.content()
        onnx.checker.check_model(content)
        try:
            check_model(path, content)
        except ModelError as error:
            raise ExportError(
                f"{error}; nothing was written; a new network's operators belong on the list in "
                "matseg_runtime.model.guard"
            ) from error
        with atomic_write(path) as stream:
            stream.write(content)
        return ExportResult(path=path, bytes=len(content), metadata=self.metadata)


def _in_fp16(fp32: _ModelFile, dataset: Dataset, progress: Progress) -> _ModelFile:
    """The model in fp16, if it is accurate enough."""
    calibration = _calibration_crops(fp32, dataset)
    progress.stage("looking for the ranges of activations")
    halved = to_half(fp32.graph, calibration)
    accuracy = _accuracy_check(fp32, dataset, progress).measure(fp32.with_precision("fp16", halved).content())
    if not passes(accuracy):
        raise ExportError(
            f"fp16 loses too much: mean IoU {accuracy.mean_iou:.4f} on {accuracy.images} images of "
            f"{accuracy.split} against {accuracy.mean_iou_fp32:.4f} in fp32 (at most {LARGEST_LOSS} is "
            "allowed); export in fp32; nothing was written"
        )
    return fp32.with_precision("fp16", halved, accuracy=accuracy)


def _in_int8(fp32: _ModelFile, dataset: Dataset, progress: Progress) -> _ModelFile:
    """The model in int8, if it is accurate enough with few layers in fp32."""
    result = quantise_within_loss(
        in_integer_operators(fp32.graph),
        _calibration_crops(fp32, dataset),
        _accuracy_check(fp32, dataset, progress),
        lambda graph: fp32.with_precision("int8", graph).content(),
    )
    calibration = CalibrationInfo(
        method=METHOD,
        split=crops.SPLIT,
        crops=crops.CROPS,
        crop=crops.CROP,
        seed=crops.SEED,
        ranges=ranges_digest(result.model),
        weight_levels=WEIGHT_LEVELS,
        fp32_layers=result.fp32_layers,
    )
    return fp32.with_precision("int8", result.model, accuracy=result.accuracy, calibration=calibration)


def _calibration_crops(model: _ModelFile, dataset: Dataset) -> list[crops.Crop]:
    images = crops.split_images(model.checkpoint, dataset, crops.SPLIT)
    return crops.calibration_crops(images, model.metadata.tiling.stride)


def _accuracy_check(fp32: _ModelFile, dataset: Dataset, progress: Progress) -> AccuracyCheck:
    images = crops.split_images(fp32.checkpoint, dataset, CHECKED_SPLIT)
    return AccuracyCheck.of(images, len(fp32.metadata.classes), fp32.content(), progress)
