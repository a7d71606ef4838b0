"""An OME-Zarr label image: class names and colours, optionally levels of lower resolution."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.inference.tiles import scaled_probabilities
from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import Block, Result
from matseg_runtime.sink.multiscale import Multiscale
from matseg_runtime.sink.volume import VolumeSink, sync_file
from matseg_runtime.source.zarr_chunks import chunk_boxes
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.system.files import output_errors, sync_folder, write_text

LEVELS_NAME = "levels.json"
"""In the ledger's folder: how large the coarser levels are, which the ledger's units say nothing of."""
_PLANE_CHUNK = 256
"""About the edge of a chunk within a slice, in pixels: a slice and a block are both read at a bearable price."""
_UNFINISHED = "*.partial"
"""Names of chunks' files while zarr writes them; a killed process leaves one behind."""


@dataclass(eq=False)
class ZarrSink(VolumeSink):
    """`<out>.zarr` with the labels in array `0`; a block is one layer of chunks (or of shards)."""

    multiscale: Multiscale
    """Its levels, the first of the volume's own shape; those after it are made at the end."""
    block: int
    """Slices per chunk, so that no two blocks write to one chunk."""
    shards: bool = False
    """One file per block instead of one per chunk; not in zarr version 2."""
    probabilities: bool = False
    """Add the array `probabilities`, (K, Z, Y, X) uint8 from 0 to 255."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._arrays: dict[str, Any] = {}
        self._opening = threading.Lock()  # zarr's settings are the whole process's

    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:
        start, axis = block.slices[0].index, self.volume.axis
        region = slice(start, start + len(results))
        with output_errors(self.path):
            size = self._store("0", region, np.moveaxis(self.labels(results), 0, axis))
            if self.probabilities:
                scaled = self._layers(results, len(self.info.metadata.classes), scaled_probabilities)
                size += self._store("probabilities", region, np.moveaxis(scaled, 1, axis + 1))
        return (size,) * len(results)

    def _store(self, name: str, slices: slice, values: NDArray[np.uint8]) -> int:
        """Write some slices; returns the bytes of their files, which are durable."""
        array = self._open(name)
        index = self._index(array, slices)
        if values.ndim > array.ndim:  # of a single image: without the axis of its one slice
            values = values.squeeze(self.volume.axis + values.ndim - 3)
        files = [self.partial / name / key for key, _ in chunk_boxes(array, index)]
        try:
            array[index] = values
        except (ValueError, RuntimeError):
            # a shard that a crash has torn: zarr reads it before it replaces it
            for file in files:
                file.unlink(missing_ok=True)
            array[index] = values
        sync_files(files, self.partial)
        return sum(file.stat().st_size for file in files)

    def _index(self, array: Any, slices: slice) -> tuple[slice, ...]:
        """Index an array with slices; it may have a class axis in front, or no axis along the slices."""
        index = [slice(None)] * array.ndim
        if len(self.multiscale.axes) == 3:
            index[self.volume.axis + array.ndim - 3] = slices
        return tuple(index)

    def _lost_in(self, place: Path, records: Sequence[SliceRecord]) -> Iterable[str]:
        arrays = self._read_all(place)
        numbers = {record.index // self.block for record in records}
        sizes = {number: self._block_bytes(place, arrays, number) for number in numbers}
        for record in records:
            size = sizes[record.index // self.block]
            if not size or record.bytes not in (0, size):
                yield record.name

    def _read_all(self, place: Path) -> dict[str, Any]:
        """Open all arrays, by name.

        Raises:
            OutputError: one is not there, or the group is not.
        """
        names = [str(number) for number in range(len(self.multiscale.levels))]
        try:
            group = zarr.open_group(
                str(place), mode="r", zarr_format=self.multiscale.zarr_format, use_consolidated=False
            )
            return {name: group[name] for name in names + ["probabilities"] * self.probabilities}
        except Exception as error:  # zarr and torn documents have many kinds
            raise self.damaged(place, f"{type(error).__name__}: {error}") from error

    def _block_bytes(self, place: Path, arrays: Mapping[str, Any], number: int) -> int:
        """Bytes of a block's files; 0 when one is missing."""
        slices = slice(number * self.block, (number + 1) * self.block)
        try:
            return sum(
                (place / name / key).stat().st_size
                for name in ("0", "probabilities")
                if name in arrays
                for key, _ in chunk_boxes(arrays[name], self._index(arrays[name], slices))
            )
        except FileNotFoundError:
            return 0

    def _is_complete(self) -> bool:
        if len(self.multiscale.levels) == 1:
            return True
        self._read_all(self.path)
        try:
            noted = json.loads((self.ledger_folder / LEVELS_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(noted == self._bytes_of_levels(self.path))

    def _bytes_of_levels(self, place: Path) -> dict[str, int]:
        """Bytes of the files of all levels but the finest."""
        return {
            str(number): sum(file.stat().st_size for file in files_below(place / str(number)))
            for number in range(1, len(self.multiscale.levels))
        }

    def _open(self, name: str) -> Any:
        with self._opening:
            if name not in self._arrays:
                # looking whether a chunk holds only the fill value takes as long as compressing it
                with zarr.config.set({"array.write_empty_chunks": True}):
                    self._arrays[name] = zarr.open_array(
                        str(self.partial), path=name, mode="r+", zarr_format=self.multiscale.zarr_format
                    )
            return self._arrays[name]

    def _layers(
        self,
        results: Sequence[Result],
        count: int,
        values: Callable[[Segmentation], NDArray[np.uint8] | None],
    ) -> NDArray[np.uint8]:
        """(`count`, n, H, W) values from 0 to 255, such as probabilities; those of a slice that was excluded are 0."""
        layers = np.zeros((count, len(results), *self.volume.slice_shape), np.uint8)
        for number, result in enumerate(results):
            if result.segmentation is not None:
                found = values(result.segmentation)
                assert found is not None, "the network was not asked for them"
                layers[:, number] = found
        return layers

    def _create(self, path: Path) -> None:
        shown = self.multiscale.attributes(self.path.stem, self.info.metadata)
        group = zarr.create_group(
            str(path),
            zarr_format=self.multiscale.zarr_format,
            attributes=shown | {"matseg": json.loads(self.info.provenance)},
        )
        for number, level in enumerate(self.multiscale.levels):
            self._create_array(group, str(number), level.shape)
        if self.probabilities:
            finest = self.multiscale.levels[0].shape
            self._create_array(group, "probabilities", (len(self.info.metadata.classes), *finest))
        sync_files(list(files_below(path)), path)

    def _create_array(self, group: Any, name: str, shape: tuple[int, ...]) -> None:
        axes = self.multiscale.axes
        spatial = shape[-len(axes) :]
        sliced = self.volume.axis if len(axes) == 3 else None
        # chunks are stored whole, so within a slice their edges leave the last one full, or nearly so
        parts = [max(1, round(length / _PLANE_CHUNK)) for length in spatial]
        chunks = [-(-length // part) for length, part in zip(spatial, parts, strict=True)]
        layer = [-(-length // chunk) * chunk for length, chunk in zip(spatial, chunks, strict=True)]
        if sliced is not None:
            chunks[sliced] = layer[sliced] = min(self.block, spatial[sliced])
        extra = (1,) * (len(shape) - len(axes))
        stored_as: dict[str, Any]  # what both versions of zarr call differently
        if self.multiscale.zarr_format == 2:
            separator = {"name": "v2", "separator": "/"}
            stored_as = {"compressors": Zstd(level=1), "chunk_key_encoding": separator}
        else:
            names = ("c", *axes) if extra else axes
            stored_as = {"compressors": ZstdCodec(level=1), "dimension_names": names}
        group.create_array(
            name,
            shape=shape,
            dtype="uint8",
            chunks=(*extra, *chunks),
            shards=(*extra, *layer) if self.shards else None,
            fill_value=0 if name == "probabilities" else UNLABELLED,
            **stored_as,
        )

    def _complete(self) -> None:
        for leftover in list(self.partial.rglob(_UNFINISHED)):
            leftover.unlink(missing_ok=True)
            sync_folder(leftover.parent)
        for number in range(1, len(self.multiscale.levels)):
            fine, coarse = self._open(str(number - 1)), self._open(str(number))
            for _, box in chunk_boxes(coarse, (slice(None),) * coarse.ndim):
                coarse[box] = _sample(fine, coarse.shape, box)
            sync_files(list(files_below(self.partial / str(number))), self.partial)
        if len(self.multiscale.levels) > 1:
            sizes = self._bytes_of_levels(self.partial)
            write_text(self.ledger_folder / LEVELS_NAME, json.dumps(sizes) + "\n")


def _sample(fine: Any, shape: tuple[int, ...], box: tuple[slice, ...]) -> NDArray[np.uint8]:
    """A box of the level of that `shape`: every second voxel, say, of the finer level.

    Not their mean: between class 0 and class 2 there is no class 1.
    """
    indices = []
    for part, length, finer in zip(box, shape, fine.shape, strict=True):
        factor = max(1, round(finer / length))
        indices.append(np.minimum(np.arange(part.start, part.stop) * factor, finer - 1))
    block = np.asarray(fine[tuple(slice(index[0], index[-1] + 1) for index in indices)])
    sampled: NDArray[np.uint8] = block[np.ix_(*(index - index[0] for index in indices))]
    return sampled


def sync_files(files: Sequence[Path], root: Path) -> None:
    """Make files durable, and the folders between them and `root`, which zarr makes as it needs them."""
    folders: set[Path] = set()
    for file in files:
        sync_file(file)
        folders.update(folder for folder in file.parents if folder.is_relative_to(root))
    for folder in folders:
        sync_folder(folder)


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and the folders in it."""
    return (path for path in folder.rglob("*") if path.is_file())
