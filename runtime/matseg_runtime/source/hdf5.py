"""HDF5 datasets, named as `file.h5::/exchange/data`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions, file_identity
from matseg_runtime.source.hdf5_chunks import WrittenCheck
from matseg_runtime.source.hdf5_links import references_digest
from matseg_runtime.units import VoxelSize, voxel_of_scale
from matseg_shared.errors import UsageError


def open_hdf5(location: str, options: SourceOptions) -> ArraySource:
    """Open one dataset that was written and closed: that of `options.node`, or the only volume of the file."""
    path = Path(location)
    with ExitStack() as opened:
        try:
            file = opened.enter_context(h5py.File(path, "r"))
        except OSError as error:
            raise UsageError(f"{path}: {_opening_problem(error)}") from error
        try:
            dataset = _dataset(file, path, options.node)
            where = f"{path}::{dataset.name}"
            if np.any(dataset.attrs.get("IMAGE_WHITE_IS_ZERO", 0)):
                raise UsageError(f"{where}: says that zero is white; save it with black as zero")
            content = f"{file_identity(path)}; {dataset.name} {dataset.shape} {dataset.dtype}"
            stored = StoredArray(
                kind="hdf5",
                location=where,
                path=path,
                array=dataset,
                content=content + references_digest(where, path, dataset, options),
                chunk_shape=dataset.chunks,
                piece_shape=dataset.chunks,
                voxel=_voxel(dataset),
                check=WrittenCheck(where, dataset, fill_missing=options.fill_missing_chunks),
                explain=lambda _, error: _reading_problem(error),
                closing=file.close,
            )
        except UsageError:
            raise
        except Exception as error:  # h5py raises many kinds for what is damaged behind the file's first bytes
            raise UsageError(f"{path}: expected an HDF5 file, found a damaged one ({error})") from error
        source = ArraySource(stored, options)
        opened.pop_all()
    return source


def _voxel(dataset: Any) -> VoxelSize | None:
    """As Fiji's HDF5 plugin and ilastik note it: (z, y, x) in micrometres."""
    try:
        scale = tuple(float(value) for value in dataset.attrs.get("element_size_um", ()))
    except (TypeError, ValueError):
        return None
    both_three = len(scale) == dataset.ndim == 3
    return voxel_of_scale(scale, ("um",) * 3, 0, "the input") if both_three else None


def _dataset(file: Any, path: Path, name: str | None) -> Any:
    candidates: dict[str, int] = {}

    def visit(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim >= 2:
            candidates[str(node.name)] = node.ndim

    file.visititems(visit)
    listed = ", ".join(list(candidates)[:8]) or "none"
    if name is None:
        volumes = [name for name, ndim in candidates.items() if ndim >= 3] or list(candidates)
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
