"""What the trainer's commands print with `--json`: one frozen dataclass a command. Documented in docs/terminal.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch, or all of pydantic, which `--help` need not wait for
    from matseg_shared.contract.metadata import AccuracyInfo, ParityInfo, Precision, Views
    from matseg_trainer.export.export import ExportResult
    from matseg_trainer.prepare.labels import ArraySummary, LabelPlan
    from matseg_trainer.train.epoch_record import EpochRecord, SplitScore
    from matseg_trainer.train.loop import Outputs, TrainingJob


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """`matseg-train`."""

    dataset: str
    version: str
    network: str
    epochs: int
    """That were trained, those before a `--resume` included."""
    best_epoch: int
    """The one that is kept, counted from 1: the best by validation mean IoU, or the last with `keep = "last"`."""
    validation: SplitScore
    """Of that epoch."""
    seconds: float
    """Of all epochs."""
    device: str
    precision: str
    seed: int
    checkpoint: Path | None
    """None with `--no-save`."""
    log: Path
    curves: Path

    @classmethod
    def of(cls, job: TrainingJob, records: list[EpochRecord], outputs: Outputs) -> TrainingSummary:
        """Of a finished training."""
        from matseg_trainer.train.epoch_record import kept_epoch

        kept = kept_epoch(records, job.config.keep)
        return cls(
            dataset=job.dataset.name,
            version=job.version,
            network=job.config.model,
            epochs=len(records),
            best_epoch=kept.epoch,
            validation=kept.validate,
            seconds=round(sum(record.seconds for record in records), 3),
            device=str(job.compute.device),
            precision=job.compute.precision,
            seed=job.seed,
            checkpoint=outputs.checkpoint if job.save else None,
            log=outputs.log,
            curves=outputs.plot,
        )

    def lines(self) -> list[str]:
        """For a person."""
        score = self.validation
        figures = f"mean IoU {score.mean_iou:.4f}, accuracy {score.accuracy:.4f}"
        head = f"epoch {self.best_epoch} is kept: validation {figures}"
        files = (("checkpoint", self.checkpoint), ("log", self.log), ("curves", self.curves))
        return [head, *(f"  {name:<10} {path}" for name, path in files if path is not None)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """`matseg-export`."""

    path: Path
    bytes: int
    name: str
    """`<dataset>_<version>`."""
    precision: Precision
    opset: int
    tta: Views
    """Views whose mean the file gives; 1: no test-time augmentation."""
    stride: int
    """Pixels."""
    halo: int
    """Pixels."""
    parity: ParityInfo
    """Of the fp32 graph with the torch network."""
    accuracy: AccuracyInfo | None
    """Of fp16 and int8 on the validation images; None for fp32."""
    fp32_layers: tuple[str, ...]
    """Layers of an int8 graph that stay in fp32."""
    pays_on: tuple[str, ...]
    """Providers on which the precision is worth its while."""
    package: Path | None
    """Of bioimage.io, where one was asked for."""

    @classmethod
    def of(cls, result: ExportResult, package: Path | None = None) -> ExportSummary:
        """Of a file that was written, and its package."""
        export, tiling = result.metadata.export, result.metadata.tiling
        return cls(
            path=result.path,
            bytes=result.bytes,
            name=result.metadata.name,
            precision=export.precision,
            opset=export.opset,
            tta=export.tta,
            stride=tiling.stride,
            halo=tiling.halo,
            parity=export.parity,
            accuracy=export.accuracy,
            fp32_layers=() if export.calibration is None else export.calibration.fp32_layers,
            pays_on=export.pays_on,
            package=package,
        )

    def lines(self) -> list[str]:
        """For a person."""
        parity, accuracy = self.parity, self.accuracy
        graph = "" if self.precision == "fp32" else "in fp32 "
        lines = [
            f"{self.path}: {self.bytes / 1e6:.1f} MB, {self.precision}, opset {self.opset}",
            f"  {graph}equal to torch on {parity.cases} inputs of {parity.pixels:,} pixels: probabilities within "
            f"{parity.max_probability_difference:.1e}, {parity.label_mismatches} labels differ, "
            f"{parity.label_ties} decided by rounding",
            f"  tiles: stride {self.stride}, halo {self.halo} pixels (measured and confirmed)",
        ]
        if self.tta > 1:
            lines.append(f"  test-time augmentation: mean of {self.tta} views, {self.tta} times the work")
        if accuracy is not None:
            lines.append(
                f"  mean IoU on {accuracy.images} images of {accuracy.split}: {accuracy.mean_iou:.4f}, "
                f"in fp32 {accuracy.mean_iou_fp32:.4f}"
            )
        if self.fp32_layers:
            lines.append(f"  left in fp32: {', '.join(self.fp32_layers)}")
        lines.append(f"  this precision pays on: {', '.join(self.pays_on)}")
        return lines if self.package is None else [*lines, f"{self.package}: package for bioimage.io"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSummary:
    """`matseg-prep crop`."""

    dataset: Path
    """The new data set's folder."""
    size: int
    """Edge of a crop in pixels."""
    train: int
    """Crops."""
    validate: int
    """Crops."""
    n_class: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """`matseg-prep split`."""

    datasets: tuple[Path, ...]
    """The new data sets' folders: one, or one per fold."""
    images: tuple[Mapping[str, int], ...]
    """Images per split, for each data set."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """`matseg-prep demo`."""

    dataset: Path
    """The data set's folder."""
    train: int
    """Slices, as of the other splits."""
    validate: int
    test: int
    raw: Path | None
    """The stack of slices without labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayFacts:
    """One label array."""

    path: Path
    values: tuple[int, ...]
    """Ascending."""
    kept: bool
    """Whether it was there before and was left as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsSummary:
    """`matseg-prep labels`."""

    dataset: str
    n_class: int
    classes: Path
    """The class table."""
    arrays: tuple[ArrayFacts, ...]
    strays: tuple[Path, ...]
    """Label images some of whose pixels were taken for the nearest class."""
    labels_alone: tuple[Path, ...]
    """Label images without an image, left out."""

    @classmethod
    def of(cls, plan: LabelPlan, arrays: Sequence[ArraySummary]) -> LabelsSummary:
        """Of arrays that were written or kept."""
        written = {pair.label for pair in plan.pairs}
        return cls(
            dataset=plan.dataset.name,
            n_class=len(plan.table.classes),
            classes=plan.dataset.classes_path,
            arrays=tuple(ArrayFacts(path=item.path, values=item.values, kept=item.kept) for item in arrays),
            strays=tuple(image.path for image in plan.strays if image.path in written),
            labels_alone=plan.labels_alone,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """`matseg-prep import-config`."""

    output: Path | None
    """None: `text` holds what would be in it."""
    text: str | None
    notes: tuple[str, ...]
    """What was left out or means something else here."""
