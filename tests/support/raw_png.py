"""PNGs written chunk by chunk: bit depths, colour types and ancillary chunks that no library writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

GREY, RGB, PALETTE = 0, 2, 3


def write_png(
    path: Path,
    width: int,
    depth: int,
    colour: int,
    rows: Sequence[bytes],
    chunks: Mapping[bytes, bytes] | None = None,
) -> Path:
    """Write an image of packed rows, without filters; `chunks` stand between header and pixels, in their order."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *(chunks or {}).items(), (b"IDAT", packed), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts))
    return path


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
