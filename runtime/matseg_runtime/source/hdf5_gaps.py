"""What an HDF5 dataset lacks: chunks that were never written, files it is made of that are gone.

HDF5 reads both as zeros. A scan that broke off looks whole, with black slices at its end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matseg_shared.errors import ImageError, UsageError

Index = tuple[slice | int, ...]
_WAY_OUT = "if that is meant, use --fill-missing-chunks"


def check_of(where: str, dataset: Any) -> Callable[[Index], None] | None:
    """What raises an ImageError when a part of the dataset was never written; None when all of it was.

    Args:
        where: the dataset, named in errors.
        dataset: of h5py.

    Raises:
        UsageError: nothing of it was ever written, or a virtual dataset's sources are missing.
    """
    if dataset.is_virtual:
        _require_sources(where, dataset)
        return None
    if dataset.id.get_storage_size() == 0:
        raise UsageError(
            f"{where}: was made and never written, so HDF5 fills in {_fill(dataset)}; {_WAY_OUT}"
        )
    if dataset.chunks is None:
        return None
    expected = math.prod(
        -(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)
    )
    if dataset.id.get_num_chunks() >= expected:
        return None

    def check(index: Index) -> None:
        for origin in _origins(dataset, index):
            if dataset.id.get_chunk_info_by_coord(origin).byte_offset is None:
                raise ImageError(
                    where,
                    f"its chunk at {origin} was never written, so HDF5 fills in {_fill(dataset)}; {_WAY_OUT}",
                )

    return check


def _fill(dataset: Any) -> str:
    return "zeros" if not dataset.fillvalue else f"the value {dataset.fillvalue}"


def _origins(dataset: Any, index: Index) -> Iterator[tuple[int, ...]]:
    """Of every chunk that an index touches."""
    ranges = []
    for part, length, chunk in zip(index, dataset.shape, dataset.chunks, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start - start % chunk, stop, chunk))
    return itertools.product(*ranges)


def _require_sources(where: str, dataset: Any) -> None:
    """Raises UsageError when a file or dataset that a virtual dataset is made of is not there."""
    import h5py

    own = Path(dataset.file.filename)
    missing = []
    for file, name in sorted({(item.file_name, item.dset_name) for item in dataset.virtual_sources()}):
        if "%" in file:
            continue  # a numbered series, of which HDF5 itself says how long it is
        path = own if file == "." else own.parent / file
        try:
            with h5py.File(path, "r") as source:
                if name not in source:
                    missing.append(f"{path.name}::{name}")
        except OSError:
            missing.append(path.name)
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UsageError(
            f"{where}: is made of other files, of which {listed} cannot be read, so HDF5 fills in {_fill(dataset)}; "
            f"put them beside it, or, {_WAY_OUT}"
        )
