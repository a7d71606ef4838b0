"""The JSON document of `matseg-evaluate`, which reports are made of; every figure that is undefined is null.

Figures of one image and figures pooled over all images have the same names: pooled ones come from the summed counts,
so a large image weighs more than a small one. How each is computed, and from which paper, says `docs/evaluation.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_origin

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import MetadataError, problems_of
from matseg_trainer.data.folder import load_array

SCHEMA_VERSION: Literal[1] = 1
FOLDS = "folds"
"""The `split` of a cross-validation."""
BOUNDARY_TOLERANCE = 2.0
"""Distance from a boundary that is near unless said otherwise, pixels."""
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BoundaryFigures(_Document):
    """Agreement of predicted with labelled boundaries.

    A boundary consists of the edges, one pixel long, between two neighbouring pixels of different classes; the
    boundary of a class of those with the class on one side. The border of the image is none.
    """

    labelled: Count
    """Length of the labelled boundary: its edges, pixels."""
    predicted: Count
    """Length of the predicted boundary: its edges, pixels."""
    displacement: float | None = Field(ge=0)
    """Boundary displacement error: mean distance to the other boundary, averaged over both directions, pixels; null
    where either boundary is missing."""
    precision: Share | None
    """Share of the predicted boundary within the tolerance of the labelled one."""
    recall: Share | None
    """Share of the labelled boundary within the tolerance of the predicted one."""
    f1: Share | None
    """Their harmonic mean; 0 where only one of the boundaries exists, null where neither does."""


class Figures(_Document):
    """Figures of one image, or of all; tuples have one value per class."""

    pixels: Count
    """Labelled ones, which all figures are of."""
    unlabelled: Count = 0
    """Pixels that nobody labelled."""
    accuracy: Share | None
    """Share of pixels with the right class."""
    mean_iou: Share | None
    """Mean over the classes that occur in labels or predictions."""
    iou: tuple[Share | None, ...]
    """Intersection over union; null for a class that is in neither labels nor predictions."""
    precision: tuple[Share | None, ...]
    recall: tuple[Share | None, ...]
    f1: tuple[Share | None, ...]
    """The Dice coefficient."""
    loss: float = Field(ge=0)
    """Mean negative log likelihood of the labelled class (cross-entropy), nats."""
    brier: float = Field(ge=0, le=2)
    """Mean squared difference between probabilities and labels, summed over the classes."""
    calibration_error: Share
    """Expected calibration error of the most probable class's probability."""
    labelled_fraction: tuple[Share, ...]
    """Phase fraction in the labels."""
    predicted_fraction: tuple[Share, ...]
    """Phase fraction in the predictions."""
    fraction_error: tuple[float, ...]
    """Predicted minus labelled phase fraction, signed; an absolute difference, not relative to the fraction."""
    boundary: BoundaryFigures
    """Figures of all boundaries, whichever classes they part."""
    class_boundaries: tuple[BoundaryFigures, ...]

    @property
    def labelled_share(self) -> float:
        """Labelled pixels, of all."""
        return self.pixels / (self.pixels + self.unlabelled)


class _Confused(_Document):
    labelled: int
    """Class index in the labels."""
    predicted: int
    """Class index in the predictions."""
    pixels: Count


class Confusion(_Confused):
    """One kind of error: a class that was taken for another."""

    share: Share
    """Share of all wrong pixels of the image."""


class WrongRegion(_Confused):
    """The largest connected region (4 neighbours) of one confusion."""

    x: int
    """Column of its pixel nearest to its centre of mass."""
    y: int
    """Row of its pixel nearest to its centre of mass."""
    confidence: Share
    """Mean probability of the predicted class in it; near 1, look at the label first."""


class Disagreement(_Document):
    """Reason for an image's rank."""

    rank: int = Field(ge=1)
    """1 is the worst: the lowest mean IoU, ties by the share of wrong pixels."""
    wrong_pixels: Count
    near_boundary: Share | None
    """Share of the wrong pixels whose centre lies within the tolerance of a labelled boundary: a matter of where
    exactly the boundary is drawn, while the others are whole features missed or invented. Null without wrong pixels."""
    confusions: tuple[Confusion, ...]
    """All that occur, most pixels first."""
    largest_region: WrongRegion | None
    reason: str
    """The above in words."""


class ImageResult(Figures):
    """One image: its figures, and where its pictures are.

    Paths are relative to the document's folder, with forward slashes.
    """

    stem: str
    image: str
    label: str | None
    """Label image; null when only its array is there."""
    array: str
    """Label array: (H, W) uint8 class indices, 255 where nobody labelled, npy."""
    prediction: str
    """Palette PNG whose values are the class indices."""
    overlay: str | None
    """Null without `--overlay`."""
    confusion_matrix: tuple[tuple[Count, ...], ...]
    disagreement: Disagreement


class Spread(_Document):
    """One figure over the images where it is defined."""

    images: int = Field(ge=1)
    mean: float
    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    maximum: float


class SpreadOfImages(_Document):
    """The figures of the images one by one, each image counting the same; null where no image defines one."""

    accuracy: Spread | None
    mean_iou: Spread | None
    iou: tuple[Spread | None, ...]
    f1: tuple[Spread | None, ...]
    loss: Spread | None
    brier: Spread | None
    calibration_error: Spread | None
    fraction_error: tuple[Spread | None, ...]
    """Signed: a median away from 0 is a bias."""
    absolute_fraction_error: tuple[Spread | None, ...]
    boundary_displacement: Spread | None
    boundary_f1: Spread | None
    class_boundary_displacement: tuple[Spread | None, ...]
    class_boundary_f1: tuple[Spread | None, ...]


class ReliabilityBin(_Document):
    """The pixels whose most probable class has a probability in [lower, upper); the last bin includes 1."""

    lower: Share
    upper: Share
    pixels: Count
    confidence: Share | None
    """Mean probability of the most probable class; null without pixels."""
    accuracy: Share | None
    """Share of them whose most probable class is the labelled one; null without pixels."""


class FoldTraining(_Document):
    """One training of a cross-validation, on the images of its fold, pooled."""

    fold: int = Field(ge=1)
    seed: Count
    checkpoint: str
    """Relative to the document's folder."""
    epoch: int = Field(ge=1)
    """The one that was kept."""
    seconds: float = Field(ge=0)
    accuracy: Share
    mean_iou: Share
    iou: tuple[Share | None, ...]


class CrossValidation(_Document):
    """Trainings of one version, each on all labelled images but those of a fold (Stone 1974)."""

    images: tuple[tuple[str, ...], ...]
    """Stems of each fold's images."""
    trainings: tuple[FoldTraining, ...]
    mean_iou: Spread
    """Over the trainings, as the next two."""
    accuracy: Spread
    iou: tuple[Spread | None, ...]
    notes: tuple[str, ...] = ()
    """Sentences on folds whose trainings lack a class."""


class EvaluationDocument(Figures):
    """A model's figures on one folder of labelled images; those at the top level are pooled over its images."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    """`<dataset>_<version>`."""
    split: str
    dataset: str | None = None
    """The data set, where it is not the model's own."""
    label_classes: tuple[int, ...] | None = None
    """Class of the model for each class of that data set's label arrays, matched by name."""
    model: str
    """The checkpoint or ONNX file, relative to the document's folder."""
    classes: tuple[ClassInfo, ...]
    boundary_tolerance: float = Field(ge=0)
    """Pixels."""
    confusion_matrix: tuple[tuple[Count, ...], ...]
    """Pixel counts: row = labelled class, column = predicted class."""
    spread: SpreadOfImages
    reliability: tuple[ReliabilityBin, ...]
    images: tuple[ImageResult, ...]
    """In natural order of their names; `disagreement.rank` orders them from the worst."""
    folds: CrossValidation | None = None
    """Trainings of a cross-validation. Each image is then predicted by those that have not seen it, by the mean of
    their probabilities where they have several seeds."""

    @model_validator(mode="after")
    def _one_value_per_class(self) -> EvaluationDocument:
        count = len(self.classes)
        holders: list[tuple[str, EvaluationDocument | ImageResult]] = [("", self)]
        holders += [(f"images.{item.stem}.", item) for item in self.images]
        values = [(f"spread.{name}", getattr(self.spread, name)) for name in _per_class(SpreadOfImages)]
        for place, figures in holders:
            values += [(f"{place}{name}", getattr(figures, name)) for name in _per_class(Figures)]
            rows = (figures.confusion_matrix, *figures.confusion_matrix)
            values += [(f"{place}confusion_matrix", row) for row in rows]
        for place, found in values:
            if len(found) != count:
                raise ValueError(
                    f"{place}: expected one value for each of {count} classes, found {len(found)}"
                )
        for item in self.images:
            confused = (*item.disagreement.confusions, item.disagreement.largest_region)
            if any(not 0 <= i < count for one in confused if one for i in (one.labelled, one.predicted)):
                raise ValueError(f"images.{item.stem}: confuses a class beyond the {count} that there are")
        return self

    @property
    def title(self) -> str:
        """The model, and what it was evaluated on."""
        if self.folds is not None:
            return f"{self.name}, cross-validated"
        return f"{self.name} on {self.split if self.dataset is None else f'{self.dataset}, {self.split}'}"

    def load_labels(self, image: ImageResult, folder: Path) -> NDArray[np.uint8]:
        """(H, W) labels of one of `images` in the model's classes, or 255; `folder` is where this document lies.

        Raises:
            DatasetError: the label array is gone or damaged.
        """
        indices = self.label_classes or range(len(self.classes))
        return in_classes(indices, load_array(folder / image.array, len(indices), unlabelled=True))

    @property
    def worst_first(self) -> tuple[ImageResult, ...]:
        """The images by rank."""
        return tuple(sorted(self.images, key=lambda image: image.disagreement.rank))


def in_classes(indices: Sequence[int], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Other class indices for each of a label array's; what is unlabelled stays so."""
    table = np.full(UNLABELLED + 1, UNLABELLED, np.uint8)
    table[: len(indices)] = indices
    return table[labels]


def _per_class(kind: type[BaseModel]) -> list[str]:
    """The fields that have one value per class."""
    return [name for name, field in kind.model_fields.items() if get_origin(field.annotation) is tuple]


def read_evaluation(path: Path) -> EvaluationDocument:
    """Read a document that `matseg-evaluate` wrote.

    Raises:
        MetadataError: it is missing or no such document; lists every problem.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MetadataError(
            f"{path}: expected an evaluation, found no file that can be read ({error.strerror or error}); "
            "run matseg-evaluate"
        ) from error
    try:
        return EvaluationDocument.model_validate_json(text)
    except ValidationError as error:
        raise MetadataError(
            f"{path}: is not an evaluation of this version; run matseg-evaluate again", problems_of(error)
        ) from error
