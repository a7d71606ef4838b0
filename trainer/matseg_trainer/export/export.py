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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matseg_runtime.model.file import read_model
from matseg_runtime.model.guard import check_model
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.metadata import (
    PAYS_ON,
    CalibrationInfo,
    ExportInfo,
    MemberInfo,
    ModelMetadata,
    Precision,
    TilingInfo,
    Views,
)
from matseg_shared.contract.onnx_properties import SelfTest, encode
from matseg_shared.contract.tiling import padded_length
from matseg_shared.errors import ExportError, ModelError, UsageError
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import Dataset
from matseg_trainer.export import crops
from matseg_trainer.export.accuracy_check import LARGEST_LOSS, AccuracyCheck, passes
from matseg_trainer.export.accuracy_check import SPLIT as CHECKED_SPLIT
from matseg_trainer.export.ensemble import require_alike
from matseg_trainer.export.graph import (
    OPSET,
    Deployed,
    DeployedEnsemble,
    DeployedNetwork,
    Graph,
    to_onnx,
    with_one_score,
)
from matseg_trainer.export.half import to_half
from matseg_trainer.export.parity import check_parity, confirm_halo, parity_inputs, top_margin
from matseg_trainer.export.quantise.fallback import quantise_within_loss
from matseg_trainer.export.quantise.rewrite import in_integer_operators
from matseg_trainer.export.quantise.static import METHOD, WEIGHT_LEVELS, ranges_digest
from matseg_trainer.export.views import require_float
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.halo import measure_halo
from matseg_trainer.predict.checkpoint import Checkpoint, package_versions, weights_sha256

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
    others: Sequence[Checkpoint] = (),
    name: str | None = None,
    precision: Precision = "fp32",
    tta: Views = 1,
    dataset: Dataset | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a model file, or nothing.

    fp16 and int8 need the data set of the training, unchanged. The file gives the mean of `tta` views, see
    `matseg_trainer.export.views`.

    Args:
        checkpoint: the trained network, or the first of an ensemble: calibration crops, validation images and
            self-test are of its training.
        path: of the file.
        others: the rest of an ensemble, with whose probabilities those of `checkpoint` are averaged.
        name: of the model; None: `<dataset>_<version>` of the checkpoint.
        precision: see above.
        tta: see above.
        dataset: see above.
        progress: is told what is going on.

    Raises:
        UsageError: the precision needs a data set and there is none, or cannot have views; or the members of an
            ensemble are not alike, see `require_alike`.
        DatasetError: the data set is not the one of the training.
        ExportError: the graph does not do what the torch network does, or the precision costs too much accuracy.
        OutputError: the file cannot be written.
    """
    members = (checkpoint, *others)
    require_float(precision, tta)
    require_alike(members)
    source = crops.require_dataset(checkpoint, dataset, precision) if precision != "fp32" else None
    networks = [member.network() for member in members]
    deployed = _deployed(members, networks, tta)
    stride = deployed.stride
    sample = checkpoint.sample  # whose edges are multiples of its own network's stride
    missing = [(0, padded_length(length, stride) - length) for length in sample.shape[2:]]
    checkpoint = dataclasses.replace(checkpoint, sample=np.pad(sample, [(0, 0), (0, 0), *missing], "reflect"))
    model = _fp32_graph(members, networks, tta, progress)
    graph = Graph(model.SerializeToString())
    progress.stage("comparing with torch")
    parity = check_parity(deployed, graph, parity_inputs(checkpoint, stride))
    progress.stage("measuring the halo")
    largest = max(measure_halo(network, checkpoint.input.channels) for network in networks)
    halo = padded_length(largest, stride)
    confirm_halo(graph, checkpoint, stride, halo)
    metadata = ModelMetadata(
        name=name or f"{checkpoint.training.dataset}_{checkpoint.training.version}",
        classes=checkpoint.classes,
        input=checkpoint.input,
        tiling=TilingInfo(stride=stride, halo=halo),
        training=checkpoint.training,
        ensemble=_members(members),
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
        confirm_halo(Graph(file.graph.SerializeToString()), checkpoint, stride, halo)
    return file.write(path)


def exported_before(
    path: Path, checkpoint: Checkpoint, precision: Precision, tta: Views, others: Sequence[Checkpoint] = ()
) -> ExportResult:
    """Read the file that an export of the checkpoint in this precision, with so many views, left at `path`.

    Raises:
        ModelError: it is no model.
        UsageError: it is of another training, or of other members, in another precision, or with other views.
    """
    found = read_model(path, MADE_HERE).model.metadata
    same = found.training.model_dump(mode="json") == checkpoint.training.model_dump(mode="json")
    same = same and checkpoint.pixel_size in (None, found.pixel_size)
    same = same and [member.sha256 for member in found.ensemble] == [
        member.sha256 for member in _members((checkpoint, *others))
    ]
    if not same or found.export.precision != precision or found.export.tta != tta:
        raise UsageError(
            f"{path}: expected {checkpoint.training.dataset}_{checkpoint.training.version} as it is trained now, in "
            f"{precision} with {tta} view(s), found {found.name} of epoch {found.training.epoch} in "
            f"{found.export.precision} with {found.export.tta}; export it again with --overwrite, or to another name "
            "with -o"
        )
    return ExportResult(path=path, bytes=path.stat().st_size, metadata=found)


def _members(members: Sequence[Checkpoint]) -> tuple[MemberInfo, ...]:
    """Those of an ensemble; none for one network."""
    if len(members) == 1:
        return ()
    return tuple(MemberInfo(training=one.training, sha256=weights_sha256(one.weights)) for one in members)


def _deployed(members: Sequence[Checkpoint], networks: Sequence[SegmentationNetwork], tta: Views) -> Deployed:
    found = [
        DeployedNetwork(network, member.input.mean, member.input.std, tta)
        for member, network in zip(members, networks, strict=True)
    ]
    return (found[0] if len(found) == 1 else DeployedEnsemble(found)).eval()


def _fp32_graph(
    members: Sequence[Checkpoint], networks: Sequence[SegmentationNetwork], tta: Views, progress: Progress
) -> onnx.ModelProto:
    progress.stage("writing the graph")
    first = members[0]
    if len(first.classes) == 2:
        networks = [
            with_one_score(network, member.new_network(n_class=1))
            for member, network in zip(members, networks, strict=True)
        ]
    return to_onnx(_deployed(members, networks, tta), first.input.channels, first.input.dtype)


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
    graph, accuracy, fp32_layers = quantise_within_loss(
        in_integer_operators(fp32.graph),
        _calibration_crops(fp32, dataset),
        _accuracy_check(fp32, dataset, progress),
        lambda found: fp32.with_precision("int8", found).content(),
    )
    calibration = CalibrationInfo(
        method=METHOD,
        split=crops.SPLIT,
        crops=crops.CROPS,
        crop=crops.CROP,
        seed=crops.SEED,
        ranges=ranges_digest(graph),
        weight_levels=WEIGHT_LEVELS,
        fp32_layers=fp32_layers,
    )
    return fp32.with_precision("int8", graph, accuracy=accuracy, calibration=calibration)


def _calibration_crops(model: _ModelFile, dataset: Dataset) -> list[crops.Crop]:
    images = crops.split_images(model.checkpoint, dataset, crops.SPLIT)
    return crops.calibration_crops(images, model.metadata.tiling.stride)


def _accuracy_check(fp32: _ModelFile, dataset: Dataset, progress: Progress) -> AccuracyCheck:
    images = crops.split_images(fp32.checkpoint, dataset, CHECKED_SPLIT)
    return AccuracyCheck.of(images, len(fp32.metadata.classes), fp32.content(), progress)
