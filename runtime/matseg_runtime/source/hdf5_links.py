"""Other files that an HDF5 dataset takes its values from: external links, virtual datasets, raw storage outside.

Master files of detectors are made of them, and their data lie beside or below. But what a file's content names is
chosen by whoever wrote it: a dataset can name any file that its reader may open, and where a file is missing HDF5 hands
out the fill value without a word. So others than those beside are taken only when the user says so, and missing ones
never silently.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matseg_runtime.source.array import StoredArray
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.folder import file_identity
from matseg_shared.errors import UsageError
from matseg_shared.system.names import printable

_SAME_FILE = "."
_BLOCK_NUMBER = "%b"
"""Stands for a number in the names of virtual datasets that grow."""
_PREFIX_VARIABLE = "HDF5_VDS_PREFIX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One other file."""

    name: str
    """As the dataset has it."""
    path: Path | None
    """Where HDF5 finds it; None: nowhere."""


@dataclass(kw_only=True)
class _Search:
    h5py: Any
    start: Path
    seen: set[tuple[str, str]] = field(default_factory=set)

    def of(self, dataset: Any) -> Iterator[Reference]:
        """Of one dataset, and of those that it is made of."""
        file = Path(os.path.abspath(dataset.file.filename))  # noqa: PTH100 (links are left as they are)
        if (str(file), dataset.name) in self.seen:
            return
        self.seen.add((str(file), dataset.name))
        if file != self.start:
            yield Reference(name=str(file), path=file)
        for name, _offset, _size in dataset.external or ():
            text = os.fsdecode(name)
            yield Reference(name=text, path=_first([Path(text)]))
        if dataset.is_virtual:
            for source in dataset.virtual_sources():
                yield from self._source(dataset, file, source)

    def _source(self, dataset: Any, file: Path, source: Any) -> Iterator[Reference]:
        if source.file_name == _SAME_FILE:
            inner = dataset.file.get(source.dset_name)
            yield from self.of(inner) if isinstance(inner, self.h5py.Dataset) else ()
            return
        found = _first(_places(source.file_name, file.parent))
        yield Reference(name=source.file_name, path=found)
        if found is None:
            return
        try:
            with self.h5py.File(found, "r") as opened:
                inner = opened.get(source.dset_name)
                if not isinstance(inner, self.h5py.Dataset):
                    yield Reference(name=f"{source.file_name}::{source.dset_name}", path=None)
                    return
                yield from self.of(inner)
        except OSError:  # told when it is read
            return


def with_references(h5py: Any, dataset: Any, stored: StoredArray, options: SourceOptions) -> StoredArray:
    """Look at all other files that a dataset's values come from; a change of one makes another input.

    Args:
        h5py: the module.
        dataset: opened.
        stored: what is known of it.
        options: whether files may lie anywhere, or be missing.

    Raises:
        UsageError: one lies elsewhere, or is missing.
    """
    found = _checked_references(h5py, dataset, stored, options)
    if not found:
        return stored
    listed = "\n".join(f"{path.name} {file_identity(path)}" for path in found)
    digest = hashlib.sha256(listed.encode(errors="backslashreplace")).hexdigest()
    return dataclasses.replace(stored, content=f"{stored.content}; {len(found)} more files {digest}")


def _checked_references(
    h5py: Any, dataset: Any, stored: StoredArray, options: SourceOptions
) -> tuple[Path, ...]:
    """The files that are there, each once."""
    start = Path(os.path.abspath(stored.path))  # noqa: PTH100
    found: dict[Path, None] = {}
    for reference in _Search(h5py=h5py, start=start).of(dataset):
        if reference.path is None:
            if options.fill_missing_chunks or _BLOCK_NUMBER in reference.name:
                continue
            raise UsageError(
                f"{stored.location}: takes values from {printable(reference.name)}, which is not there; HDF5 "
                "would hand out its fill value instead: bring the file, or use --fill-missing-chunks if that value is "
                "meant"
            )
        if not options.follow_links and not reference.path.is_relative_to(start.parent):
            raise UsageError(
                f"{stored.location}: takes values from {printable(str(reference.path))}, which does not lie in the "
                f"folder of {start.name} or below; name that file itself, or use --follow-links if you trust the file"
            )
        found[reference.path] = None
    return tuple(found)


def _places(name: str, folder: Path) -> list[Path]:
    """Where HDF5 looks for a source of a virtual dataset, in its order."""
    given = Path(name)
    prefix = os.environ.get(_PREFIX_VARIABLE)
    first = [Path(prefix.replace("${ORIGIN}", str(folder))) / given] if prefix else []
    if given.is_absolute():
        return [given, folder / given.name]
    return [*first, folder / given, given]


def _first(places: list[Path]) -> Path | None:
    """The first that exists, as an absolute path without `..`."""
    for place in places:
        if place.exists():
            return Path(os.path.abspath(place))  # noqa: PTH100
    return None
