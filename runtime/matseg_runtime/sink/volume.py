"""Outputs that hold all slices, TIFF stacks and zarr volumes: they grow under another name until they are whole.

```
<out>.matseg/partial    the growing output
<out>.matseg/           ledger, report and phase fractions
<out>                   appears by one rename when every slice is labelled or excluded
```
"""

from __future__ import annotations

import filecmp
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import LabelInfo, LabelVolume, Result, Sink
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import OutputError, UsageError
from matseg_shared.system.files import (
    make_folder,
    output_errors,
    remove,
    sweep,
    sync_folder,
    temporary_beside,
)

SIDE_SUFFIX = ".matseg"
LABELS_GROUP = "labels"
"""Place of an image's label images within its OME-Zarr group."""


@dataclass(eq=False)
class VolumeSink(Sink):
    """One output for all slices; `start` begins it under another name, `finish` makes `path`."""

    path: Path
    volume: LabelVolume
    info: LabelInfo

    whole_units = True

    def __post_init__(self) -> None:
        self.ledger_folder = self.report_folder = side_folder(self.path)
        self.partial = self.ledger_folder / "partial"

    def check_place(self, *, overwrite: bool) -> None:
        with output_errors(self.path):
            exists, ours = self.path.exists(), (self.ledger_folder / "job.json").exists()
            # another part may have renamed the one to the other between two looks
            has_two = exists and self.partial.exists() and self.path.exists()
        if has_two and ours and not overwrite:
            self._refuse_two_contents()
        if not exists or ours:
            return
        if self.path.is_dir():
            raise UsageError(
                f"{self.path}: a folder of that name exists and is not known to be an earlier result of matseg-run; "
                "delete it, or choose another output with -o"
            )
        if not overwrite:
            raise UsageError(
                f"{self.path}: exists and is not known to be an earlier result of matseg-run; replace it with "
                "--overwrite, or choose another output with -o"
            )

    def remove_earlier(self, names: Sequence[str]) -> None:  # noqa: ARG002 (slices have no files of their own)
        with output_errors(self.path):
            if self.path.exists():
                # at once, because half a volume must not stand under its name
                away = temporary_beside(self.partial)
                self.path.rename(away)
                sync_folder(self.path.parent)
                remove(away)

    def clean(self, *, is_new: bool) -> None:
        with output_errors(self.path):
            sweep(self.ledger_folder)
            if is_new:
                remove(self.partial)

    def start(self) -> None:
        with output_errors(self.path):
            make_folder(self.ledger_folder)
            self._settle_two_names()
            if self.partial.exists():
                return
            if self.path.exists():
                # slices that were excluded are tried again; until that is done the output is not whole
                self._take_back()
                return
            fresh = temporary_beside(self.partial)
            self._create(fresh)
            fresh.rename(self.partial)
            sync_folder(self.ledger_folder)

    def lost(self, records: Iterable[SliceRecord]) -> tuple[str, ...]:
        records = list(records)
        with output_errors(self.path):
            place = self.partial if self.partial.exists() else self.path
            if not place.exists():
                return tuple(record.name for record in records)
            return tuple(self._lost_in(place, records))

    def finish(self) -> None:
        with output_errors(self.path):
            self._settle_two_names()
            if self.path.exists() and not self.partial.exists():
                if self._is_complete():
                    return
                self._take_back()
            if not self.partial.exists():
                raise OutputError(
                    f"{self.path}: its unfinished form {self.partial} is gone; run with --overwrite"
                )
            self._complete()
            self.partial.rename(self.path)
            sync_folder(self.path.parent)
            sync_folder(self.ledger_folder)

    def labels(self, results: Sequence[Result]) -> NDArray[np.uint8]:
        """(n, H, W) labels; a slice that was excluded is all `UNLABELLED`."""
        block = np.full((len(results), *self.volume.slice_shape), UNLABELLED, np.uint8)
        for target, result in zip(block, results, strict=True):
            if result.segmentation is not None:
                target[...] = result.segmentation.labels
        return block

    def damaged(self, place: Path, found: str) -> OutputError:
        """The error of an output, or its unfinished form, that cannot be mended slice by slice."""
        return OutputError(
            f"{place}: is not what matseg-run wrote ({found}); label everything again with --overwrite, or choose "
            "another output with -o"
        )

    def _settle_two_names(self) -> None:
        """After a power cut a renamed output may be found under both names."""
        if self.path.exists() and self.partial.exists():
            self._refuse_two_contents()
            remove(self.partial)

    def _refuse_two_contents(self) -> None:
        if not _same_content(self.path, self.partial):
            raise UsageError(
                f"{self.path}: expected nothing there before the unfinished {self.partial} is whole, found something; "
                "move it away, or replace both with --overwrite"
            )

    def _take_back(self) -> None:
        self.path.rename(self.partial)
        sync_folder(self.ledger_folder)
        sync_folder(self.path.parent)

    @abstractmethod
    def _lost_in(self, place: Path, records: Sequence[SliceRecord]) -> Iterable[str]:
        """Names of the slices that the output, or its unfinished form, no longer holds whole.

        Raises:
            OutputError: it is damaged such that single slices cannot be made again.
        """

    def _is_complete(self) -> bool:
        """True where nothing of what `_complete` made is missing."""
        return True

    @abstractmethod
    def _create(self, path: Path) -> None:
        """Make the empty output."""

    def _complete(self) -> None:
        """Do what is left when every slice is in."""


def _same_content(one: Path, other: Path) -> bool:
    """True where two files, or two folders with all that is in them, are equal byte for byte."""
    if one.is_file() and other.is_file():
        return filecmp.cmp(one, other, shallow=False)
    names = [sorted(path.relative_to(top) for path in top.rglob("*")) for top in (one, other)]
    return names[0] == names[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names[0] if (one / name).is_file()
    )


def side_folder(output: Path) -> Path:
    """Paths of the ledger, the report and the growing output of a volume.

    Beside it; for labels in the zarr of their image beside that zarr, in which nothing may lie but arrays and groups:
    of `scan.zarr/labels/phases` it is `scan.zarr.phases.matseg`.
    """
    if output.parent.name != LABELS_GROUP or not is_zarr_group(output.parent.parent):
        return output.with_name(output.name + SIDE_SUFFIX)
    root = output.parent.parent
    while root.suffix != ".zarr" and is_zarr_group(root.parent):
        root = root.parent
    parts = [part for part in output.relative_to(root).parts if part != LABELS_GROUP]
    return root.with_name(".".join([root.name, *parts]) + SIDE_SUFFIX)


def is_zarr_group(folder: Path) -> bool:
    """True where a folder holds the metadata of a zarr group, of either version."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup"))


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
