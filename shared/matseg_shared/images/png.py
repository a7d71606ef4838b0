"""Label images as palette PNGs, packed straight from class indices.

Pillow writes the same pixels, but packs them one by one and searches longer: 2.5 ms against 0.9 ms for 852 x 852
pixels of two classes, when the network itself takes 10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE_COLOURS = 3
"""The colour type of indexed images (PNG, section 11.2.1)."""
_FASTEST = 1
_LARGEST_EDGE = 2**31 - 1


def write_label_png(
    stream: BinaryIO,
    labels: NDArray[np.uint8],
    colours: Sequence[tuple[int, int, int]],
    text: Mapping[str, str] | None = None,
) -> None:
    """Write a palette PNG whose pixel values are class indices, in the 1, 2, 4 or 8 bits that its palette needs.

    Args:
        stream: open for writing in binary mode.
        labels: (H, W) class indices, each below the number of colours.
        colours: RGB per class, 1 to 256 of them.
        text: keywords (Latin-1, at most 79 characters) and their values, kept in the file.

    Raises:
        ValueError: an index without a colour, or an image that no PNG can hold.
    """
    height, width = labels.shape
    if not 0 < min(labels.shape) <= max(labels.shape) <= _LARGEST_EDGE:
        raise ValueError(f"a PNG cannot hold {height} x {width} pixels")
    if (largest := int(labels.max())) >= len(colours):
        raise ValueError(f"index {largest} has none of the {len(colours)} colours")
    bits = next(bits for bits in (1, 2, 4, 8) if len(colours) <= 1 << bits)
    rows = _packed(labels, bits)
    # each row begins with its filter, 0 for none: neighbouring indices have no difference worth coding
    lines = np.zeros((height, rows.shape[1] + 1), np.uint8)
    lines[:, 1:] = rows
    stream.write(_SIGNATURE)
    _write_chunk(stream, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _PALETTE_COLOURS, 0, 0, 0))
    _write_chunk(stream, b"PLTE", bytes(channel for colour in colours for channel in colour))
    for keyword, value in (text or {}).items():
        _write_chunk(stream, b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + value.encode())
    _write_chunk(stream, b"IDAT", zlib.compress(lines.data, _FASTEST))
    _write_chunk(stream, b"IEND", b"")


def _packed(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Rows of whole bytes, the leftmost pixel in the highest bits."""
    if bits == 1:
        return np.packbits(indices, axis=1)
    if bits == 8:
        return indices
    per_byte = 8 // bits
    height, width = indices.shape
    padded = np.zeros((height, -(-width // per_byte) * per_byte), np.uint8)
    padded[:, :width] = indices
    packed = np.zeros((height, padded.shape[1] // per_byte), np.uint8)
    for position in range(per_byte):
        packed <<= bits
        packed |= padded[:, position::per_byte]
    return packed


def _write_chunk(stream: BinaryIO, kind: bytes, content: bytes) -> None:
    stream.write(struct.pack(">I", len(content)) + kind)
    stream.write(content)
    stream.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))
