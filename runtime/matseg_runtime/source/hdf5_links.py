"""Other files that an HDF5 dataset takes its values from: external links, virtual datasets, raw storage outside.

Master files of detectors are made of them, and their data lie beside or below. But what a file's content names is
chosen by whoever wrote it: a dataset can name any file that its reader may open, and where a file is missing HDF5 hands
out the fill value without a word. So others than those beside are taken only when the user says so, and missing ones
never silently.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from matseg_runtime.source.base import SourceOptions, file_identity
from matseg_shared.errors import UsageError
from matseg_shared.system.names import printable

_SAME_FILE = "."
_BLOCK_NUMBER = "%b"
"""Stands for a number in the names of virtual datasets that grow."""
_PREFIX_VARIABLE = "HDF5_VDS_PREFIX"


def references_digest(where: str, path: Path, dataset: Any, options: SourceOptions) -> str:
    """Identify all other files that a dataset's values come from, a change of which makes another input.

    Args:
        where: the dataset, named in errors.
        path: of the file that was opened; the dataset may lie behind a link to another.
        dataset: an open one.
        options: whether files may lie anywhere, or be missing; else a UsageError says so.

    Returns:
        An addition to `StoredArray.content`; "" where there are none.
    """
    start = _absolute(path)
    found: dict[Path, None] = {}
    for name, other in _references(dataset, start, set()):
        if other is None:
            if options.fill_missing_chunks or _BLOCK_NUMBER in name:
                continue
            raise UsageError(
                f"{where}: takes values from {printable(name)}, which is not there; HDF5 would hand out its fill value "
                "instead: bring the file, or use --fill-missing-chunks if that value is meant"
            )
        if not options.follow_links and not other.is_relative_to(start.parent):
            raise UsageError(
                f"{where}: takes values from {printable(str(other))}, which does not lie in the folder of {start.name} "
                "or below; name that file itself, or use --follow-links if you trust the file"
            )
        found[other] = None
    if not found:
        return ""
    listed = "\n".join(f"{other.name} {file_identity(other)}" for other in found)
    digest = hashlib.sha256(listed.encode(errors="backslashreplace")).hexdigest()
    return f"; {len(found)} more files {digest}"


def _references(dataset: Any, start: Path, seen: set[tuple[Path, str]]) -> Iterator[tuple[str, Path | None]]:
    """Other files than `start` that a dataset, and those that it is made of, take values from.

    Yields:
        The name as the dataset has it, and where HDF5 finds the file; None: nowhere.
    """
    file = _absolute(dataset.file.filename)
    if (file, dataset.name) in seen:
        return
    seen.add((file, dataset.name))
    if file != start:
        yield str(file), file
    for name, _offset, _size in dataset.external or ():
        yield os.fsdecode(name), _first(Path(os.fsdecode(name)))
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name == _SAME_FILE:
            inner = dataset.file.get(source.dset_name)
            if isinstance(inner, h5py.Dataset):
                yield from _references(inner, start, seen)
            continue
        found = _first(*_places(source.file_name, file.parent))
        yield source.file_name, found
        if found is None:
            continue
        try:
            with h5py.File(found, "r") as opened:
                inner = opened.get(source.dset_name)
                if isinstance(inner, h5py.Dataset):
                    yield from _references(inner, start, seen)
                else:
                    yield f"{source.file_name}::{source.dset_name}", None
        except OSError:  # told when it is read
            continue


def _places(name: str, folder: Path) -> list[Path]:
    """Where HDF5 looks for a source of a virtual dataset, in its order."""
    given = Path(name)
    if given.is_absolute():
        return [given, folder / given.name]
    prefix = os.environ.get(_PREFIX_VARIABLE)
    first = [Path(prefix.replace("${ORIGIN}", str(folder))) / given] if prefix else []
    return [*first, folder / given, given]


def _first(*places: Path) -> Path | None:
    """The first that exists."""
    return next((_absolute(place) for place in places if place.exists()), None)


def _absolute(path: Path | str) -> Path:
    """Without `..`; links are left as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100
