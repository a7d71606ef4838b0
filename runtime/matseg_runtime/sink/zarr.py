"""An OME-Zarr 0.5 label image: zarr version 3, class names and colours, optionally a resolution pyramid."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.segment import scaled_probabilities
from matseg_runtime.sink.base import UNLABELLED, LabelVolume, Result, Unit
from matseg_runtime.sink.volume import VolumeSink, sync_file
from matseg_runtime.source.base import Spacing
from matseg_shared.files import output_errors, sync_folder
from matseg_shared.metadata import ModelMetadata

_OME_VERSION = "0.5"
_AXES = ("z", "y", "x")
_PLANE_CHUNK = 256
"""About the edge of a chunk within a slice, in pixels: a slice and a block are both read at a bearable price."""
_SMALLEST_LEVEL = 64
"""A pyramid ends when no edge within a slice is longer than this."""
_UNFINISHED = "*.partial"
"""What zarr calls a chunk's file while it is written; a killed process leaves it behind."""


class ZarrSink(VolumeSink):
    """`<out>.zarr` with the labels in array `0`; a unit is one layer of chunks (or of shards)."""

    def __init__(
        self,
        path: Path,
        volume: LabelVolume,
        metadata: ModelMetadata,
        provenance: str,
        *,
        unit: int,
        shards: bool = False,
        pyramid: bool = False,
        probabilities: bool = False,
    ) -> None:
        """Describe the output; nothing is written yet.

        Args:
            path: made by `finish`.
            volume: its shape and axes.
            metadata: for class names and colours.
            provenance: JSON that goes into the attributes.
            unit: slices per chunk, so that no two units write to one chunk.
            shards: one file per unit instead of one per chunk.
            pyramid: add levels of half the resolution at the end.
            probabilities: add the array `probabilities`, (K, Z, Y, X) uint8 from 0 to 255.
        """
        super().__init__(path, volume)
        self._metadata = metadata
        self._provenance = provenance
        self._unit = unit
        self._shards = shards
        self._pyramid = pyramid
        self._probabilities = probabilities
        self._arrays: dict[str, Any] = {}

    def write(self, unit: Unit, results: Sequence[Result]) -> tuple[int, ...]:
        start = unit.slices[0].index
        axis = self.volume.axis
        region = [slice(None)] * 3
        region[axis] = slice(start, start + len(results))
        with output_errors(self.path):
            self._store("0", tuple(region), np.moveaxis(self.block(results), 0, axis))
            if self._probabilities:
                chances = np.moveaxis(self._probability_block(results), 1, axis + 1)
                self._store("probabilities", (slice(None), *region), chances)
        return (0,) * len(results)

    def _store(self, name: str, region: tuple[slice, ...], block: NDArray[np.uint8]) -> None:
        array = self._open(name)
        array[region] = block
        folders = set()
        for key in _chunk_keys(array, region):
            file = self.partial / name / key
            sync_file(file)
            folders.add(file.parent)
        for folder in folders:
            sync_folder(folder)

    def _open(self, name: str) -> Any:
        import zarr

        if name not in self._arrays:
            # looking whether a chunk holds only the fill value takes as long as compressing it
            with zarr.config.set({"array.write_empty_chunks": True}):
                self._arrays[name] = zarr.open_array(str(self.partial), path=name, mode="r+", zarr_format=3)
        return self._arrays[name]

    def _probability_block(self, results: Sequence[Result]) -> NDArray[np.uint8]:
        shape = (len(self._metadata.classes), len(results), *self.volume.slice_shape)
        block = np.zeros(shape, np.uint8)
        for number, result in enumerate(results):
            if result.segmentation is not None:
                block[:, number] = scaled_probabilities(result.segmentation)
        return block

    def _create(self, path: Path) -> None:
        import zarr

        levels = len(list(self._level_shapes()))
        attributes = {
            "ome": self._ome_attributes(levels),
            "matseg": json.loads(self._provenance),
        }
        group = zarr.create_group(str(path), zarr_format=3, attributes=attributes)
        for number, shape in enumerate(self._level_shapes()):
            self._create_array(group, str(number), shape)
        if self._probabilities:
            self._create_array(group, "probabilities", (len(self._metadata.classes), *self.volume.shape))
        for file in path.rglob("zarr.json"):
            sync_file(file)
            sync_folder(file.parent)

    def _create_array(self, group: Any, name: str, shape: tuple[int, ...]) -> None:
        from zarr.codecs import ZstdCodec

        spatial = shape[-3:]
        chunks = [
            min(self._unit, length) if axis == self.volume.axis else _even_chunk(length)
            for axis, length in enumerate(spatial)
        ]
        extra = (1,) * (len(shape) - 3)
        shards = None
        if self._shards:
            whole = [-(-length // chunk) * chunk for length, chunk in zip(spatial, chunks, strict=True)]
            whole[self.volume.axis] = chunks[self.volume.axis]
            shards = (*extra, *whole)
        group.create_array(
            name,
            shape=shape,
            dtype="uint8",
            chunks=(*extra, *chunks),
            shards=shards,
            compressors=ZstdCodec(level=1),
            fill_value=0 if name == "probabilities" else UNLABELLED,
            dimension_names=("c", *_AXES) if extra else _AXES,
        )

    def _ome_attributes(self, levels: int) -> dict[str, Any]:
        spacing = self._spacing()
        unit = {} if spacing.unit is None else {"unit": spacing.unit}
        return {
            "version": _OME_VERSION,
            "multiscales": [
                {
                    "name": self.path.stem,
                    "axes": [{"name": name, "type": "space", **unit} for name in _AXES],
                    "datasets": [
                        {"path": str(level), "coordinateTransformations": _transformations(spacing, level)}
                        for level in range(levels)
                    ],
                }
            ],
            "image-label": {
                "version": _OME_VERSION,
                "colors": [
                    {"label-value": item.index, "rgba": [*item.colour, 255]}
                    for item in self._metadata.classes
                ],
                "properties": [
                    {"label-value": item.index, "name": item.name} for item in self._metadata.classes
                ],
            },
        }

    def _spacing(self) -> Spacing:
        if self.volume.spacing is not None:
            return self.volume.spacing
        size = self._metadata.pixel_size
        scale = 1.0 if size is None else size.value
        return Spacing(
            scale=(scale,) * 3, translation=(0.0,) * 3, unit=None if size is None else _ome_unit(size.unit)
        )

    def _level_shapes(self) -> Iterator[tuple[int, int, int]]:
        shape = self.volume.shape
        yield shape
        while self._pyramid and max(shape[1:]) > _SMALLEST_LEVEL:
            shape = (-(-shape[0] // 2), -(-shape[1] // 2), -(-shape[2] // 2))
            yield shape

    def _complete(self) -> None:
        for leftover in self.partial.rglob(_UNFINISHED):
            leftover.unlink(missing_ok=True)
        levels = [self._open(str(number)) for number, _ in enumerate(self._level_shapes())]
        for fine, coarse in itertools.pairwise(levels):
            for box in _stored_boxes(coarse):
                # nearest, not mean: between class 0 and class 2 there is no class 1
                source = tuple(slice(2 * part.start, 2 * part.stop) for part in box)
                coarse[box] = np.asarray(fine[source])[::2, ::2, ::2]
        for number in range(1, len(levels)):
            for file in _files(self.partial / str(number)):
                sync_file(file)


def _even_chunk(length: int) -> int:
    """An edge near `_PLANE_CHUNK` that leaves the last chunk full, or nearly so: chunks are stored whole."""
    return -(-length // max(1, round(length / _PLANE_CHUNK)))


def _stored_boxes(array: Any) -> Iterator[tuple[slice, ...]]:
    """The region of each chunk or shard."""
    stored = array.shards or array.chunks
    ranges = [range(0, length, chunk) for length, chunk in zip(array.shape, stored, strict=True)]
    for start in itertools.product(*ranges):
        yield tuple(
            slice(begin, min(begin + chunk, length))
            for begin, chunk, length in zip(start, stored, array.shape, strict=True)
        )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _transformations(spacing: Spacing, level: int) -> list[dict[str, Any]]:
    """Level n keeps every 2**n-th voxel, so its first voxel stays where it was."""
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": [value * 2**level for value in spacing.scale]}]
    if any(spacing.translation):
        steps.append({"type": "translation", "translation": list(spacing.translation)})
    return steps


def _ome_unit(unit: str) -> str:
    """OME-Zarr spells units out."""
    return {
        "nm": "nanometer",
        "um": "micrometer",
        "µm": "micrometer",
        "μm": "micrometer",
        "mm": "millimeter",
    }.get(unit, unit)


def _chunk_keys(array: Any, region: tuple[slice, ...]) -> Iterator[str]:
    stored = array.shards or array.chunks
    ranges = []
    for part, length, chunk in zip(region, array.shape, stored, strict=True):
        start, stop, _ = part.indices(length)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    return (array.metadata.encode_chunk_key(position) for position in itertools.product(*ranges))
