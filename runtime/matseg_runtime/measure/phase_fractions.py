"""Phase fractions: what the labels amount to, per slice and in all."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.records import SliceRecord
from matseg_runtime.units import VoxelSize
from matseg_shared.contract.metadata import Histogram, ModelMetadata
from matseg_shared.system.files import write_csv

CSV_NAME = "phase_fractions.csv"
DRIFT_WARNING = 0.5
"""Drift of the median slice from which on a summary warns."""
_FEW_CLASSES = 12
"""Up to here, a pass per class that compares 32 pixels at a time is faster than one that counts pixel by pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFraction:
    """One class's share of all labelled pixels."""

    name: str
    pixels: int
    fraction: float


def class_counts(labels: NDArray[np.uint8], n_class: int) -> tuple[int, ...]:
    """Pixels per class of (H, W) class indices."""
    if n_class > _FEW_CLASSES:
        return tuple(int(count) for count in _value_counts(labels)[:n_class])
    return tuple(int(np.count_nonzero(labels == index)) for index in range(n_class))


def drift(image: NDArray[np.generic], histogram: Histogram) -> float:
    """Distance of intensities from the training set's: 0 the same distribution, 1 nothing in common.

    Total variation distance between the histograms of the training set and of a (C, H, W) image in the model's dtype,
    with one bin more for what lies outside the training range.
    """
    expected = np.asarray(histogram.counts, np.float64)
    if expected.sum() == 0 or image.size == 0:
        return 0.0
    found = binned(image, histogram)
    outside = image.size - found.sum()
    distance = np.abs(found / image.size - expected / expected.sum()).sum() + outside / image.size
    return round(float(distance) / 2, 4)


def binned(image: NDArray[np.generic], histogram: Histogram) -> NDArray[np.float64]:
    """Pixels per training bin; 8- and 16-bit images by way of a count per value, which is ten times faster."""
    edges = (histogram.low, max(histogram.high, np.nextafter(histogram.low, np.inf)))
    bins = len(histogram.counts)
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        counts = _value_counts(image)
        return np.histogram(np.arange(counts.size), bins=bins, range=edges, weights=counts)[0]
    return np.histogram(image, bins=bins, range=edges)[0].astype(np.float64)


def _value_counts(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count of each value; 8-bit ones are counted by Pillow, which need not widen them to 64 bits first."""
    flat = np.ascontiguousarray(values).reshape(1, -1)
    if values.dtype == np.uint8:
        size = (flat.shape[1], 1)
        return np.asarray(Image.frombuffer("L", size, flat, "raw", "L", 0, 1).histogram(), np.int64)
    return np.bincount(flat[0])


def phase_fractions(records: Iterable[SliceRecord], metadata: ModelMetadata) -> tuple[PhaseFraction, ...]:
    """Shares of the classes over all labelled slices; 0 where nothing is labelled."""
    counts = [record.counts for record in records]
    totals = np.array(counts, np.int64).reshape(-1, len(metadata.classes)).sum(axis=0)
    pixels = int(totals.sum())
    return tuple(
        PhaseFraction(name=item.name, pixels=int(count), fraction=float(count / pixels) if pixels else 0.0)
        for item, count in zip(metadata.classes, totals, strict=True)
    )


def write_phase_fractions(
    path: Path, records: Sequence[SliceRecord], metadata: ModelMetadata, voxel: VoxelSize | None
) -> None:
    """Write a CSV: a row per slice, then one with the totals.

    Columns: file; height, width in pixels; for each class its fraction; for each class its pixels; drift; where the
    voxel size is known, the area of each class in its unit squared; and, where any slice has some, pixels without data,
    which are in no fraction; after a consensus, the share of its pixels for which the axes disagree. A slice that has
    nothing else has no fractions either.
    """
    names = [item.name for item in metadata.classes]
    header = ["file", "height", "width", *names, *(f"{name} (pixels)" for name in names), "drift"]
    if voxel is not None:
        header += [f"{name} ({voxel.unit}^2)" for name in names]
    rows = [
        [Path(record.where).name, *record.shape, *_row(record.counts, voxel, f"{record.drift:.4f}")]
        for record in records
    ]
    totals = [item.pixels for item in phase_fractions(records, metadata)]
    rows.append(["total", "", "", *_row(totals, voxel, "")])
    if no_data := sum(record.no_data for record in records):
        header.append("no data (pixels)")
        for row, count in zip(rows, [*(record.no_data for record in records), no_data], strict=True):
            row.append(count)
    if any(record.disagreement is not None for record in records):
        header.append("axes disagree")
        shares = [disagreement_share(record) for record in records]
        total = sum(record.disagreement or 0 for record in records) / max(1, sum(totals))
        for row, share in zip(rows, [*shares, total], strict=True):
            row.append(f"{share:.6f}")
    write_csv(path, [header, *rows])


def disagreement_share(record: SliceRecord) -> float:
    """Share of a slice's pixels with data for which the axes of a consensus do not all have the same class."""
    return (record.disagreement or 0) / max(1, sum(record.counts))


def counted_files(path: Path) -> frozenset[str] | None:
    """The column `file` of such a CSV; None where it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return frozenset(row["file"] for row in rows)
    except (OSError, ValueError, KeyError, csv.Error):
        return None


def _row(counts: Sequence[int], voxel: VoxelSize | None, drift_text: str) -> list[str | int]:
    pixels = sum(counts)
    fractions = [f"{count / pixels:.6f}" if pixels else "" for count in counts]
    row: list[str | int] = [*fractions, *counts, drift_text]
    if voxel is not None:
        row += [f"{count * voxel.area:.6g}" for count in counts]
    return row
