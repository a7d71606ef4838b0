"""What of a PNG is checked before it is decoded: Pillow looks at neither the checksum of pixels nor the file's end."""

from __future__ import annotations

import zlib
from pathlib import Path

from matseg_shared.errors import ImageError
from matseg_shared.images.limits import require_whole_stream

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel, by colour type (PNG, section 11.2.2)."""


def check_png(path: Path, content: bytes) -> None:
    """Refuse a PNG that is not whole, has changed since it was written, or cannot be read without loss.

    Other formats pass, and what Pillow takes for none. Pillow reads 16-bit colour as 8-bit, and takes pixels whose
    checksum is wrong.

    Args:
        path: named in errors.
        content: the whole file.

    Raises:
        ImageError: see above.
    """
    if not content.startswith(_SIGNATURE) or len(content) < 33 or content[12:16] != b"IHDR":
        return
    depth, colour = content[24], content[25]
    if depth == 16 and colour != 0:
        raise ImageError(
            path, "is a PNG of 16 bits per colour channel, which would be read as 8 bits; save it as a TIFF"
        )
    stored = _check_chunks(path, content)
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    pixels = height * (width * depth * _CHANNELS.get(colour, 1) // 8)
    require_whole_stream(path, stored, "deflate", pixels)


def _check_chunks(path: Path, content: bytes) -> int:
    """Bytes of compressed pixels."""
    view, at, stored = memoryview(content), len(_SIGNATURE), 0
    while at + 12 <= len(content):
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if end + 4 > len(content):
            break
        is_critical = not kind[0] & 0x20  # section 5.4: what all readers must understand has a capital first
        if is_critical and zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageError(
                path,
                f"has changed since it was written: the checksum of its part {kind.decode('ascii', 'replace')!r} at "
                f"byte {at} is wrong; copy or save it again from its source",
            )
        stored += length if kind == b"IDAT" else 0
        if kind == b"IEND":
            return stored
        at = end + 4
    raise ImageError(path, "is not whole: a PNG without its end; copy or save it again from its source")
