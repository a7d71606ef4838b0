"""The stored chunks of a zarr array: whether they are there, and what they would become when decoded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matseg_runtime.source.streams import OBJECT_CODECS, check_chunk
from matseg_shared.errors import ImageError, UsageError

_MOST_CHUNKS = 1_000_000
"""Files of one read; more are a mistake in the metadata, or chunks so small that nobody could wait for them."""
_NAMED = 3
"""Missing chunks that an error names."""
_ABSENT = 2**64 - 1
"""Offset and length of an inner chunk that a shard does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCheck:
    """Looks at the chunks of a region before they are read."""

    where: str
    """Named in errors."""
    array: Any
    chunk_shape: tuple[int, ...]
    """Of the stored files: shards, where there are any."""
    fill_missing: bool
    """Whether chunks that are not there count as their fill value."""

    def __call__(self, index: tuple[slice | int, ...]) -> None:
        """Check every chunk that an index touches.

        Raises:
            ImageError: one is missing, too many, or would become far more than its pixels.
        """
        require_few_chunks(
            self.where, math.prod(len(numbers) for numbers in _ranges(self.array, index, self.chunk_shape))
        )
        missing: list[str] = []
        for key, _ in chunk_boxes(self.array, index, self.chunk_shape):
            path = _local_path(self.array, key)
            if not (_exists(self.array, key) if path is None else path.is_file()):
                missing.append(key)
                if len(missing) > _NAMED and not self.fill_missing:
                    break  # a volume of which nothing is there would take hours to go through
            elif path is not None:
                self._check_streams(key, path)
        if missing and not self.fill_missing:
            listed = ", ".join(missing[:_NAMED]) + (" (and more)" if len(missing) > _NAMED else "")
            raise ImageError(
                self.where,
                f"its chunk {listed} is missing; zarr leaves out chunks that hold only the fill value "
                f"{self.array.fill_value}: if that is so here, use --fill-missing-chunks",
            )

    def _check_streams(self, key: str, path: Path) -> None:
        codec, shard = _outermost(self.array)
        if codec is None:
            return
        pixels = math.prod(self.array.chunks) * self.array.dtype.itemsize
        pieces = [(0, path.stat().st_size)] if shard is None else _inner_chunks(path, shard, self.chunk_shape)
        try:
            for offset, length in pieces:
                check_chunk(self.where, path, offset, length, codec, pixels)
        except ImageError as error:
            reason = str(error).removeprefix(f"{error.path}: ")
            raise ImageError(self.where, f"its chunk {key} cannot be read: {reason}") from error


def require_few_chunks(where: str, count: int) -> None:
    """Refuse a read of so many chunks that they could not even be listed.

    Raises:
        ImageError: there are too many.
    """
    if count > _MOST_CHUNKS:
        raise ImageError(where, f"one slice of it is cut into {count} chunks; store it in larger ones")


def refuse_object_codecs(where: str, array: Any) -> None:
    """Refuse an array whose chunks a codec makes into Python objects: `pickle` executes what it is given.

    Raises:
        UsageError: it has such a codec.
    """
    found = sorted(OBJECT_CODECS & {name.removeprefix("numcodecs.") for name in _codec_names(array)})
    if found:
        raise UsageError(
            f"{where}: expected an array of numbers, found chunks coded as Python objects ({', '.join(found)}), which "
            "are never decoded; write it again without that codec"
        )


def _codec_names(array: Any) -> Iterator[str]:
    metadata = array.metadata
    if metadata.zarr_format == 2:
        for codec in (*(metadata.filters or ()), metadata.compressor):
            if codec is not None:
                yield str(codec.codec_id)
        return
    waiting = [*metadata.codecs]
    while waiting:
        codec = waiting.pop()
        yield str(codec.to_dict()["name"])
        waiting += [*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())]


def _outermost(array: Any) -> tuple[str | None, Any]:
    """Name of the codec that has written the stored bytes, and the sharding codec, where there is one."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        codecs = [codec for codec in (*(metadata.filters or ()), metadata.compressor) if codec is not None]
        return (str(codecs[-1].codec_id) if codecs else None), None
    codec, shard = metadata.codecs[-1], None
    if hasattr(codec, "index_codecs"):
        codec, shard = codec.codecs[-1], codec
    return str(codec.to_dict()["name"]).removeprefix("numcodecs."), shard


def _inner_chunks(path: Path, shard: Any, chunk_shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Offset and length of the chunks of a shard; none where its index is coded in an unusual way."""
    if [codec.to_dict()["name"] for codec in shard.index_codecs] != ["bytes", "crc32c"]:
        return []
    count = math.prod(outer // inner for outer, inner in zip(chunk_shape, shard.chunk_shape, strict=True))
    size, length = path.stat().st_size, 16 * count
    if size < length + 4:
        return []
    with path.open("rb") as stream:
        stream.seek(size - length - 4 if shard.index_location.value == "end" else 0)
        content = stream.read(length)
    numbers = [int.from_bytes(content[at : at + 8], "little") for at in range(0, length, 8)]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [(offset, count) for offset, count in pairs if offset != _ABSENT and offset + count <= size]


def chunk_boxes(
    array: Any, index: tuple[slice | int, ...], chunk_shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Key, within the array, and region of every stored chunk (or shard) that an index touches."""
    for position in itertools.product(*_ranges(array, index, chunk_shape)):
        box = tuple(
            slice(number * chunk, (number + 1) * chunk)
            for number, chunk in zip(position, chunk_shape, strict=True)
        )
        yield array.metadata.encode_chunk_key(position), box


def _ranges(array: Any, index: tuple[slice | int, ...], chunk_shape: tuple[int, ...]) -> list[range]:
    """Numbers of the chunks along every axis."""
    ranges = []
    for part, length, chunk in zip(index, array.shape, chunk_shape, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    return ranges


def _local_path(array: Any, key: str) -> Path | None:
    """The file of a chunk; None for stores that are no folder."""
    from zarr.storage import LocalStore

    store = array.store
    return Path(store.root) / f"{array.path}/{key}".lstrip("/") if isinstance(store, LocalStore) else None


def _exists(array: Any, key: str) -> bool:
    from zarr.core.sync import sync

    return bool(sync(array.store.exists(f"{array.path}/{key}".lstrip("/"))))
