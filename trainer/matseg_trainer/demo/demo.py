"""The synthetic data set: labelled slices of several scans, and a stack of raw ones of a scan of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import CLASSES_NAME, write_classes
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, MissingExtraError
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import LABEL_MARK
from matseg_trainer.prepare.folders import new_folder, refuse_existing_folder

_HEIGHT = 0.35
"""Labelled slices lie within this of the scan's middle, in units of the field of view."""
_SCAN = {"train": 0, "validate": 1, "test": 2, "raw": 3}
"""Every split has scans of its own, so that a test slice resembles no training slice by more than its making."""
_SMALLEST = 128
_CLASSES = (
    ClassInfo(index=0, name="liquid", colour=(0, 0, 0), label_value=0),
    ClassInfo(index=1, name="dendrite", colour=(255, 255, 255), label_value=255),
)
"""With everything that is no dendrite in class 0, as in the tomography set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """Size and numbers of slices."""

    train: int = 12
    validate: int = 3
    test: int = 3
    raw: int = 20
    """Consecutive slices without labels; 0: no stack."""
    size: int = 256
    """Edge in pixels."""
    seed: int = 0


def make_demo(
    target: Path, request: DemoRequest, *, overwrite: bool = False, progress: Progress = SILENT
) -> Path | None:
    """Write the data set `target` and beside it the stack `<target>_raw`, each all of it or nothing.

    Returns:
        The folder of the stack, or None when none was asked for.

    Raises:
        UsageError: one of them exists and `overwrite` is not given.
        DatasetError: the slices are too small to show anything.
        MissingExtraError: scipy is not installed.
        OutputError: they cannot be written.
    """
    if request.size < _SMALLEST:
        wanted = f"expected slices of at least {_SMALLEST} pixels"
        raise DatasetError(f"{wanted}, found {request.size}; ask for larger ones")
    stack = target.with_name(f"{target.name}_raw") if request.raw else None
    for folder in filter(None, (target, stack)):
        refuse_existing_folder(folder, overwrite=overwrite)
    try:
        from matseg_trainer.demo.phantom import make_scan, render_slice
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", "drawing the synthetic data set") from error

    def seed_of(split: str, index: int) -> int:
        return int(np.random.SeedSequence([request.seed, _SCAN[split], index]).generate_state(1)[0])

    with new_folder(target, overwrite=overwrite) as folder:
        for split in ("train", "validate", "test"):
            number = getattr(request, split)
            progress.stage(f"making {split}", number, unit="slices")
            for index in range(number):
                z = np.random.default_rng([request.seed, _SCAN[split], index]).uniform(-_HEIGHT, _HEIGHT)
                image, labels = render_slice(make_scan(seed_of(split, index)), float(z), request.size)
                stem = f"{split}_{index:03d}"
                _write_png(folder / split / "images" / f"{stem}.png", image)
                _write_png(folder / split / "labels" / f"{stem}{LABEL_MARK}.png", labels * np.uint8(255))
                progress.advance()
        write_classes(folder / CLASSES_NAME, _CLASSES)
    if stack is not None:
        progress.stage("making slices without labels", request.raw, unit="slices")
        raw = make_scan(seed_of("raw", 0))
        with new_folder(stack, overwrite=overwrite) as folder:
            for index in range(request.raw):
                z = (index - request.raw / 2) / request.size  # cubic voxels
                _write_png(folder / f"slice_{index:04d}.png", render_slice(raw, z, request.size)[0])
                progress.advance()
    return stack


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    with atomic_write(path) as stream:
        Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
