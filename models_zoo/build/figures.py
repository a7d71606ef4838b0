"""`figures.json`: how good and how fast one model file is, as measured when it was published."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matseg_shared.errors import ModelError
from matseg_trainer.evaluate.document import EvaluationDocument, Spread


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Accuracy(_Document):
    """Figures on labelled images that took no part in the training; see `docs/evaluation.md` for each."""

    split: str
    images: int = Field(ge=1)
    mean_iou: float | None
    accuracy: float | None
    iou: tuple[float | None, ...]
    """Per class, pooled over the images."""
    iou_spread: tuple[Spread | None, ...]
    """Per class, image by image."""
    mean_iou_spread: Spread | None
    fraction_error: tuple[float, ...]
    """Per class: predicted minus labelled phase fraction, pooled."""
    boundary_f1: float | None
    boundary_displacement: float | None
    """Pixels."""
    boundary_tolerance: float
    """Pixels."""
    calibration_error: float

    @classmethod
    def of(cls, document: EvaluationDocument) -> Accuracy:
        """Figures of an evaluation for a card."""
        return cls(
            split=document.split,
            images=len(document.images),
            mean_iou=document.mean_iou,
            accuracy=document.accuracy,
            iou=document.iou,
            iou_spread=document.spread.iou,
            mean_iou_spread=document.spread.mean_iou,
            fraction_error=document.fraction_error,
            boundary_f1=document.boundary.f1,
            boundary_displacement=document.boundary.displacement,
            boundary_tolerance=document.boundary_tolerance,
            calibration_error=document.calibration_error,
        )


class Speed(_Document):
    """Time of one image through the network with onnxruntime, reading and writing not included."""

    edge: int = Field(ge=1)
    """Edge of the square image in pixels."""
    median: float = Field(gt=0)
    """Seconds."""
    fastest: float = Field(gt=0)
    """Seconds."""
    slowest: float = Field(gt=0)
    """Seconds."""
    calls: int = Field(ge=1)
    provider: str
    threads: int = Field(ge=1)
    cores: float = Field(gt=0)
    """Kept busy on average; well below `threads`, other programs took their share and the times are too long."""
    processor: str
    onnxruntime: str

    @property
    def megapixels_per_second(self) -> float:
        """At the median."""
        return self.edge**2 / self.median / 1e6


class ZooFigures(_Document):
    """The whole file."""

    model_sha256: str
    """SHA-256 of the model file that was measured."""
    accuracy: Accuracy
    speed: Speed
    seeds: tuple[float, ...] = ()
    """Validation mean IoU of the epoch that is kept of further trainings that differ in nothing but the seed."""


def read_figures(path: Path) -> ZooFigures:
    """Read a `figures.json`.

    Raises:
        ModelError: it is missing or wrong.
    """
    try:
        return ZooFigures.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{path}: expected the figures of the model beside it, found no such file or another content; "
            f"run python -m models_zoo.build publish {path.parent.name}"
        ) from error
