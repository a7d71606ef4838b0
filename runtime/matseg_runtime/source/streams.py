"""What compressed chunks would become, from their headers or by counting, before a codec makes room for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matseg_shared.errors import ImageError
from matseg_shared.images.limits import ALWAYS, Format, could_fill, require_bounded_stream, room

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


def check_chunk(where: Path | str, path: Path, offset: int, length: int, codec: str, pixels: int) -> None:
    """Refuse a compressed chunk that would become far more than its pixels.

    Args:
        where: named in the error.
        path: the file it lies in.
        offset: where in the file.
        length: its bytes.
        codec: the compression, as zarr names it; others than the known pass.
        pixels: bytes of the decoded chunk, as the array's metadata have them.

    Raises:
        ImageError: it becomes more, or says so.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        kind = _COUNTED.get(codec)
        if kind is not None:
            if could_fill(length, kind):
                require_bounded_stream(where, stream.read(length), kind, _SPARE * pixels)
            return
        declared = _declared(codec, stream.read(min(length, _HEADER_BYTES)))
    if declared is not None and declared > _SPARE * pixels and (declared > ALWAYS and declared > room()):
        raise ImageError(
            where,
            f"its {codec} chunk says that it becomes {declared} bytes, expected about {pixels}; it is damaged",
        )


def _declared(codec: str, head: bytes) -> int | None:
    """Bytes that a chunk's own header promises; None where it does not say."""
    if codec == "blosc" and len(head) >= 16:  # c-blosc, README_CHUNK_FORMAT: nbytes at 4
        return int.from_bytes(head[4:8], "little")
    if codec == "lz4" and len(head) >= 4:  # numcodecs puts it in front
        return int.from_bytes(head[:4], "little")
    if codec == "zstd" and head[:4] == b"\x28\xb5\x2f\xfd" and len(head) >= 18:
        return _zstd_length(head)
    return None


def _zstd_length(head: bytes) -> int | None:
    """The frame's content size (RFC 8878, section 3.1.1.1)."""
    flags = head[4]
    is_single = bool(flags & 0x20)
    width = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
    at = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[flags & 3]
    if width == 0:
        return None
    return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
