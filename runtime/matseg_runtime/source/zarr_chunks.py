"""The stored chunks of a zarr array: whether they are there, and what they would become when decoded."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from zarr.core.sync import sync
from zarr.storage import LocalStore

from matseg_runtime.source.layout import chunk_ranges, require_few_chunks
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.limits import ALWAYS, Format, could_fill, memory_limit, require_bounded_stream

_NAMED = 3
"""Missing chunks that an error names."""
_ABSENT = 2**64 - 1
"""Offset and length of an inner chunk that a shard does not hold."""
_COUNTED: Mapping[str, Format] = {
    "gzip": "deflate",
    "zlib": "deflate",
    "deflate": "deflate",
    "bz2": "bz2",
    "lzma": "lzma",
}
"""Formats whose streams do not say what they become."""
_SPARE = 16
"""A filter behind the compression may make as many bytes of one, such as a change of dtype."""
OBJECT_CODECS = frozenset(
    {"pickle", "json", "json2", "msgpack", "msgpack2", "categorize", "vlen-utf8", "vlen-bytes", "vlen-array"}
)
"""Codecs of numcodecs that make Python objects; `pickle` executes what it is given."""
_HEADER_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCheck:
    """Looks at the chunks of a region before they are read."""

    where: str
    """Named in errors."""
    array: Any
    fill_missing: bool
    """Take chunks that are not there for their fill value."""

    def __call__(self, index: tuple[slice | int, ...]) -> None:
        """Refuse with an ImageError an index that touches a chunk that is missing or unsound, or too many."""
        array, store = self.array, self.array.store
        require_few_chunks(self.where, chunk_ranges(index, array.shape, stored_chunks(array)))
        missing: list[str] = []
        for key, _ in chunk_boxes(array, index):
            stored_key = f"{array.path}/{key}".lstrip("/")
            path = Path(store.root) / stored_key if isinstance(store, LocalStore) else None
            if not (sync(store.exists(stored_key)) if path is None else path.is_file()):
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
                f"{array.fill_value}: if that is so here, use --fill-missing-chunks",
            )

    def _check_streams(self, key: str, path: Path) -> None:
        codec, shard = _outermost(self.array)
        if codec is None:
            return
        pixels = math.prod(self.array.chunks) * self.array.dtype.itemsize
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            pieces = [(0, size)] if shard is None else _inner_chunks(stream, size, shard, self.array)
            try:
                for offset, length in pieces:
                    stream.seek(offset)
                    _check_stream(self.where, stream, length, codec, pixels)
            except ImageError as error:
                reason = str(error).removeprefix(f"{error.path}: ")
                raise ImageError(self.where, f"its chunk {key} cannot be read: {reason}") from error


def refuse_object_codecs(where: str, array: Any) -> None:
    """Refuse with a UsageError an array with a codec that makes Python objects: `pickle` executes what it is given."""
    found = sorted(OBJECT_CODECS & {_name(codec) for codec in _codecs(array)})
    if found:
        raise UsageError(
            f"{where}: expected an array of numbers, found chunks coded as Python objects ({', '.join(found)}), which "
            "are never decoded; write it again without that codec"
        )


def _codecs(array: Any) -> list[Any]:
    """Codecs of the stored bytes in the order of encoding, then those within each sharding codec."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        return [codec for codec in (*(metadata.filters or ()), metadata.compressor) if codec is not None]
    found = [*metadata.codecs]
    for codec in found:
        found += [*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())]
    return found


def _name(codec: Any) -> str:
    """As numcodecs has it, for a codec of zarr version 2 or 3."""
    name = codec.codec_id if hasattr(codec, "codec_id") else codec.to_dict()["name"]
    return str(name).removeprefix("numcodecs.")


def _outermost(array: Any) -> tuple[str | None, Any]:
    """Name of the codec that has written the stored bytes, and the sharding codec, where there is one."""
    metadata = array.metadata
    codecs = _codecs(array) if metadata.zarr_format == 2 else metadata.codecs
    if not codecs:
        return None, None
    last = codecs[-1]
    return (_name(last.codecs[-1]), last) if hasattr(last, "index_codecs") else (_name(last), None)


def _inner_chunks(stream: BinaryIO, size: int, shard: Any, array: Any) -> list[tuple[int, int]]:
    """Offset and length of the chunks of a shard; none where its index is coded in an unusual way."""
    if [codec.to_dict()["name"] for codec in shard.index_codecs] != ["bytes", "crc32c"]:
        return []
    length = 16 * math.prod(outer // inner for outer, inner in zip(array.shards, array.chunks, strict=True))
    if size < length + 4:
        return []
    stream.seek(size - length - 4 if shard.index_location.value == "end" else 0)
    pairs = np.frombuffer(stream.read(length), "<u8").reshape(-1, 2).tolist()
    return [(offset, count) for offset, count in pairs if offset != _ABSENT and offset + count <= size]


def _check_stream(where: str, stream: BinaryIO, length: int, codec: str, pixels: int) -> None:
    """Refuse a compressed chunk that would become far more than the array's metadata say, in bytes: `pixels`.

    Codecs other than the known pass.
    """
    if (kind := _COUNTED.get(codec)) is not None:
        if could_fill(length, kind):
            require_bounded_stream(where, stream.read(length), kind, _SPARE * pixels)
        return
    declared = _declared(codec, stream.read(min(length, _HEADER_BYTES)))
    if declared > max(_SPARE * pixels, ALWAYS) and declared > memory_limit():
        raise ImageError(
            where,
            f"its {codec} chunk says that it becomes {declared} bytes, expected about {pixels}; it is damaged",
        )


def _declared(codec: str, head: bytes) -> int:
    """Bytes that a chunk's own header promises; 0 where it does not say."""
    if codec == "blosc" and len(head) >= 16:  # c-blosc, README_CHUNK_FORMAT: nbytes at 4
        return int.from_bytes(head[4:8], "little")
    if codec == "lz4" and len(head) >= 4:  # numcodecs puts it in front
        return int.from_bytes(head[:4], "little")
    if codec != "zstd" or head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 18:
        return 0
    flags, is_single = head[4], bool(head[4] & 0x20)  # RFC 8878, section 3.1.1.1
    width = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
    at = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)


def stored_chunks(array: Any) -> tuple[int, ...]:
    """Shape of what one stored file holds: a shard, where there are any, else a chunk."""
    return tuple(array.shards or array.chunks)


def chunk_boxes(array: Any, index: tuple[slice | int, ...]) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Key, within the array, and region of every stored chunk (or shard) that an index touches."""
    stored = stored_chunks(array)
    for position in itertools.product(*chunk_ranges(index, array.shape, stored)):
        box = tuple(
            slice(number * chunk, min((number + 1) * chunk, length))
            for number, chunk, length in zip(position, stored, array.shape, strict=True)
        )
        yield array.metadata.encode_chunk_key(position), box
