"""Votes of a pass along one axis in a zarr, whose chunks suit both the pass and the run that decides along another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from matseg_runtime.inference.votes import STORED_TOGETHER, Ballot, Votes
from matseg_runtime.ledger import Ledger, Part
from matseg_runtime.sink.base import Block, Result
from matseg_runtime.sink.volume import side_folder
from matseg_runtime.sink.zarr import ZarrSink, files_below, sync_files
from matseg_shared.system.files import output_errors

_LONGEST = 1024
"""Voxels of a chunk along the axis that neither cuts."""


@dataclass(eq=False, kw_only=True)
class VoteSink(ZarrSink):
    """Array `0` of (K - 1, Z, Y, X) uint8 votes."""

    across: int
    """Spatial axis that the run which decides cuts slices along."""

    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:
        start, axis = block.slices[0].index, self.volume.axis
        votes = self._layers(results, len(self.info.metadata.classes) - 1, lambda found: found.votes)
        with output_errors(self.path):
            size = self._store("0", slice(start, start + len(results)), np.moveaxis(votes, 1, axis + 1))
        return (size,) * len(results)

    def _create(self, path: Path) -> None:
        shape = self.volume.shape
        chunks = [-(-length // -(-length // _LONGEST)) for length in shape]
        for axis, depth in ((self.across, STORED_TOGETHER), (self.volume.axis, self.block)):
            chunks[axis] = min(depth, shape[axis])
        few = len(self.info.metadata.classes) - 1
        group = zarr.create_group(
            str(path), zarr_format=3, attributes={"matseg": json.loads(self.info.provenance)}
        )
        group.create_array(
            "0",
            shape=(few, *shape),
            dtype="uint8",
            chunks=(few, *chunks),
            fill_value=0,
            compressors=ZstdCodec(level=1),
            chunk_key_encoding={"name": "default", "separator": "."},  # one folder, which is synced once
        )
        sync_files(list(files_below(path)), path)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredVotes:
    """Votes that a finished pass has left, read along the axis of the decision; opened when it is first asked for."""

    path: Path
    """Place of the pass; its ledger is beside it."""
    own: int
    """Spatial axis of the pass."""
    axis: int
    """Spatial axis of the decision."""

    def read(self, start: int, stop: int) -> Votes:
        """(K - 1, n, H, W) of the slices `start` to `stop` of the decision."""
        array, _ = self._opened
        index: list[slice] = [slice(None)] * 4
        index[self.axis + 1] = slice(start, stop)
        return np.moveaxis(np.asarray(array[tuple(index)]), self.axis + 1, 1)

    def ballot(self, votes: Votes, index: int) -> Ballot:
        """Votes (K - 1, H, W) on the slice at `index` of the decision, with where the pass has any."""
        _, read = self._opened
        if read is None:
            return Ballot(votes=votes)
        shape = votes.shape[1:]
        if self.own == self.axis:
            return Ballot(votes=votes, cast=np.full(shape, read[index]))
        first = [axis for axis in range(3) if axis != self.axis].index(self.own) == 0
        return Ballot(votes=votes, cast=np.broadcast_to(read[:, np.newaxis] if first else read, shape))

    @cached_property
    def _opened(self) -> tuple[Any, NDArray[np.bool_] | None]:
        """The array, and for each slice of the pass whether it could be read; None: all could."""
        array = zarr.open_array(str(self.path), path="0", mode="r")
        ledger = Ledger(side_folder(self.path), Part())
        ledger.reload()
        if not ledger.excluded:
            return array, None
        read = np.ones(array.shape[self.own + 1], np.bool_)
        read[[item.index for item in ledger.excluded.values()]] = False
        return array, read
