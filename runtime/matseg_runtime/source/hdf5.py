"""HDF5 datasets, named as `file.h5::/exchange/data`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions, Spacing
from matseg_runtime.source.folder import file_identity
from matseg_runtime.source.hdf5_chunks import WrittenCheck
from matseg_runtime.source.hdf5_links import with_references
from matseg_shared.errors import MissingExtraError, UsageError

HDF5_SUFFIXES = frozenset({".h5", ".hdf5", ".hdf", ".nxs", ".he5", ".nx5"})


def open_hdf5(path: Path, dataset: str | None, options: SourceOptions) -> ArraySource:
    """Open one dataset.

    Args:
        path: the file.
        dataset: the path within it; None: the only volume of the file.
        options: how to slice it.

    Raises:
        MissingExtraError: h5py is not installed.
        UsageError: no HDF5 file, a damaged or still open one, or no such dataset, or one that was never written.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("hdf5", f"{path}: reading HDF5") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UsageError(f"{path}: {_opening_problem(error)}") from error
    try:
        return ArraySource(_stored(h5py, file, path, dataset, options), options)
    except BaseException:
        file.close()
        raise


def _stored(h5py: Any, file: Any, path: Path, name: str | None, options: SourceOptions) -> StoredArray:
    try:
        dataset = _dataset(h5py, file, path, name)
        where = f"{path}::{dataset.name}"
        if np.any(dataset.attrs.get("IMAGE_WHITE_IS_ZERO", 0)):
            raise UsageError(f"{where}: says that zero is white; save it with black as zero")
        stored = StoredArray(
            kind="hdf5",
            location=where,
            path=path,
            array=dataset,
            content=f"{file_identity(path)}; {dataset.name} {dataset.shape} {dataset.dtype}",
            chunk_shape=dataset.chunks,
            piece_shape=dataset.chunks,
            spacing=_spacing(dataset),
            watched=path,
            check=WrittenCheck.of(where, dataset, fill_missing=options.fill_missing_chunks),
            explain=lambda _, error: _reading_problem(error),
            closing=file.close,
        )
        return with_references(h5py, dataset, stored, options)
    except UsageError:
        raise
    except Exception as error:  # h5py raises many kinds for what is damaged behind the file's first bytes
        raise UsageError(f"{path}: expected an HDF5 file, found a damaged one ({error})") from error


def _spacing(dataset: Any) -> Spacing | None:
    """As Fiji's HDF5 plugin and ilastik note it: (z, y, x) in micrometres."""
    try:
        scale = tuple(float(value) for value in dataset.attrs.get("element_size_um", ()))
    except (TypeError, ValueError):
        return None
    if len(scale) != 3 or dataset.ndim != 3:
        return None
    return Spacing(scale=scale, translation=(0.0, 0.0, 0.0), units=("micrometer",) * 3)


def _dataset(h5py: Any, file: Any, path: Path, name: str | None) -> Any:
    candidates: list[str] = []

    def visit(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim >= 2:
            candidates.append(str(node.name))

    file.visititems(visit)
    listed = ", ".join(candidates[:8]) or "none"
    if name is None:
        volumes = [candidate for candidate in candidates if file[candidate].ndim >= 3] or candidates
        if len(volumes) != 1:
            raise UsageError(
                f"{path}: name the dataset to segment, as {path}::/path/to/data; its images and volumes: {listed}"
            )
        name = volumes[0]
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise UsageError(f"{path}: has no dataset {name}; its images and volumes: {listed}")
    return found


def _opening_problem(error: OSError) -> str:
    """By the words of HDF5, which has no kinds of errors; those of a cut-off file speak of an `sblock`."""
    text = str(error)
    if "truncated" in text:
        return f"is damaged or still being written ({text}); run again when it is complete"
    if "unable to lock" in text:
        return f"is open for writing in another program ({text}); run again when that is done"
    if "already open for" in text:
        return (
            f"was not closed by the program that writes it, which is at work or has died ({text}); run again when "
            "that is done, or, if nothing writes any more, on a copy repaired with `h5clear -s COPY`"
        )
    return f"expected an HDF5 file, found something else or a damaged file ({text})"


def _reading_problem(error: Exception) -> str:
    text = str(error)
    if "filter" in text or "plugin" in text:
        return (
            f"its compression needs a filter that h5py does not bring along: pip install hdf5plugin ({text})"
        )
    return f"{type(error).__name__}: {text}"
