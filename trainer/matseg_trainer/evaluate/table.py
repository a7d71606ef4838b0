"""The images of an evaluation as CSV, the worst first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.evaluate.document import EvaluationDocument, ImageResult


def image_table(document: EvaluationDocument) -> str:
    """One line per image, by rank; an undefined figure is an empty cell. RFC 4180 with a line of names."""
    text = io.StringIO()
    rows = [dict(_cells(image, document.classes)) for image in document.worst_first]
    csv.writer(text).writerows([[*rows[0]], *([*row.values()] for row in rows)])
    return text.getvalue()


def _cells(image: ImageResult, classes: Sequence[ClassInfo]) -> Iterator[tuple[str, object]]:
    why = image.disagreement
    yield "rank", why.rank
    yield "image", image.stem
    for name in ("mean_iou", "labelled_share", "accuracy", "loss", "brier", "calibration_error"):
        yield name, getattr(image, name)
    yield "boundary_displacement_px", image.boundary.displacement
    yield "boundary_f1", image.boundary.f1
    yield "wrong_pixels", why.wrong_pixels
    yield "wrong_near_boundary", why.near_boundary
    for item in classes:
        boundary = image.class_boundaries[item.index]
        mark = f"{item.index}:{item.name}"
        for name in ("iou", "precision", "recall", "f1"):
            yield f"{name} {mark}", getattr(image, name)[item.index]
        yield f"fraction_labelled {mark}", image.labelled_fraction[item.index]
        yield f"fraction_error {mark}", image.fraction_error[item.index]
        yield f"boundary_displacement_px {mark}", boundary.displacement
        yield f"boundary_f1 {mark}", boundary.f1
    yield "reason", why.reason
