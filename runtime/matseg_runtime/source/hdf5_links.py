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
from matseg_shared.errors import MissingExtraError, UsageError
from matseg_shared.system.names import printable

_SAME_FILE = "."
_BLOCK_NUMBER = "%b"
"""Stands for a number in the names of virtual datasets that grow."""
_LINK_PREFIX, _VIRTUAL_PREFIX = "HDF5_EXT_PREFIX", "HDF5_VDS_PREFIX"
"""Environment variables with a folder that external links, and sources of virtual datasets, are looked for in first."""


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
                f"{where}: takes values from {printable(name)}, which is not there or cannot be opened; HDF5 "
                "would hand out its fill value instead: bring it, or use --fill-missing-chunks if that value is meant"
            )
        if not options.follow_links:
            refuse_elsewhere(where, path, other)
        found[other] = None
    if not found:
        return ""
    if dataset.file.driver == "fileobj":  # HDF5 would look for everything in the one file that it is given
        raise UsageError(
            f"{where}: takes values from {printable(next(iter(found)).name)}, and {path.name} was not closed by the "
            "program that writes it; name that file itself"
        )
    listed = "\n".join(f"{other.name} {file_identity(other)}" for other in found)
    digest = hashlib.sha256(listed.encode(errors="backslashreplace")).hexdigest()
    return f"; {len(found)} more files {digest}"


def refuse_elsewhere(where: str, path: Path, other: Path) -> None:
    """Refuse with a UsageError a file that does not lie in the folder of `path` or below."""
    if not other.is_relative_to(_absolute(path).parent):
        raise UsageError(
            f"{where}: takes values from {printable(str(other))}, which does not lie in the folder of {path.name} "
            "or below; name that file itself, or use --follow-links if you trust the file"
        )


def linked_file(name: str, file: Path) -> Path | None:
    """The file that an external link in `file` leads to; None: there is none."""
    return _first(*_places(name, _absolute(file).parent, _LINK_PREFIX))


def require_filters(where: str, dataset: Any) -> None:
    """Make sure that a dataset can be decompressed, or raise a MissingExtraError or UsageError."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    if all(h5py.h5z.filter_avail(code) for code, *_ in filters):
        return
    try:
        import hdf5plugin  # noqa: F401 (brings filters as it is imported)
    except ImportError as error:
        raise MissingExtraError("hdf5-filters", f"{where}: decompressing it") from error
    if missing := [(code, name) for code, *_, name in filters if not h5py.h5z.filter_avail(code)]:
        code, name = missing[0]
        raise UsageError(
            f"{where}: is compressed with {printable(name.decode(errors='replace')) or 'a filter'} (number {code} in "
            "HDF5's registry), which neither h5py nor hdf5plugin brings; save it with gzip, or install that filter"
        )


def _references(dataset: Any, start: Path, seen: set[tuple[Path, str]]) -> Iterator[tuple[str, Path | None]]:
    """Other files than `start` that a dataset, and those that it is made of, take values from.

    Yields:
        The name as the dataset has it, and where HDF5 finds the file; None: nowhere.
    """
    file = _absolute(dataset.file.filename)
    if (file, dataset.name) in seen:
        return
    seen.add((file, dataset.name))
    require_filters(f"{file}::{dataset.name}", dataset)
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
        found = _first(*_places(source.file_name, file.parent, _VIRTUAL_PREFIX))
        yield source.file_name, found
        if found is None:
            continue
        try:
            with h5py.File(found, "r", locking=False) as opened:
                inner = opened.get(source.dset_name)
                if isinstance(inner, h5py.Dataset):
                    yield from _references(inner, start, seen)
                else:
                    yield f"{source.file_name}::{source.dset_name}", None
        except OSError:  # which HDF5 takes for one that is missing
            yield source.file_name, None


def _places(name: str, folder: Path, variable: str) -> list[Path]:
    """Paths at which HDF5 looks for another file, in its order."""
    given = Path(name)
    if given.is_absolute():
        return [given, folder / given.name]
    prefix = os.environ.get(variable)
    first = [Path(prefix.replace("${ORIGIN}", str(folder))) / given] if prefix else []
    return [*first, folder / given, given]


def _first(*places: Path) -> Path | None:
    """The first that exists."""
    return next((_absolute(place) for place in places if place.exists()), None)


def _absolute(path: Path | str) -> Path:
    """Without `..`; links are left as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100
