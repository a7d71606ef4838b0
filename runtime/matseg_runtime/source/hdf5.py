"""HDF5 datasets, named as `file.h5::/exchange/data`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions, file_identity
from matseg_runtime.source.hdf5_chunks import WrittenCheck
from matseg_runtime.source.hdf5_file import open_file
from matseg_runtime.source.hdf5_links import references_digest
from matseg_runtime.source.hdf5_nodes import Nodes
from matseg_shared.errors import MatsegError, UsageError


def open_hdf5(location: str, options: SourceOptions) -> ArraySource:
    """Open one dataset: that of `options.node`, one that NeXus attributes lead to, or the file's only volume."""
    path = Path(location)
    with ExitStack() as opened:
        file, doubt = open_file(path)
        opened.callback(file.close)
        try:
            nodes = Nodes(file, path, follow_links=options.follow_links)
            name, dataset = nodes.find(options.node)
            where = f"{path}::{name}"
            if np.any(dataset.attrs.get("IMAGE_WHITE_IS_ZERO", 0)):
                raise UsageError(f"{where}: says that zero is white; save it with black as zero")
            content = f"{file_identity(path)}; {dataset.name} {dataset.shape} {dataset.dtype}"
            check = WrittenCheck(
                where, dataset, fill_missing=options.fill_missing_chunks, may_end=doubt is not None
            )
            names = nodes.axis_names(name, dataset)
            doubts = [] if doubt is None else [f"{where}: {doubt}"]
            if signs := nodes.projection_signs(name, dataset):
                doubts.append(
                    f"{where}: looks like raw projections and not like reconstructed slices, as {', '.join(signs)} "
                    "beside it are of projections; name the reconstruction instead"
                )
            stored = StoredArray(
                kind="hdf5",
                location=where,
                path=path,
                array=dataset,
                content=content + references_digest(where, path, dataset, options),
                chunk_shape=dataset.chunks,
                piece_shape=dataset.chunks,
                copies=4,  # as it is stored, inflated, which makes room by doubling it, and shuffled back
                axis_names=names,
                voxel=nodes.voxel(name, dataset, names),
                warnings=tuple(doubts),
                check=check,
                closing=file.close,
            )
        except MatsegError:
            raise
        except Exception as error:  # h5py raises many kinds for what is damaged behind the file's first bytes
            raise UsageError(f"{path}: expected an HDF5 file, found a damaged one ({error})") from error
        source = ArraySource(stored, options)
        opened.pop_all()
    return source
