"""Limits of the memory that one piece of an input may take, decided from its header before anything is decoded.

A header of a few bytes can promise any size, and a compressed stream can hold a thousand times its own length. What a
decoder would ask for is compared with what this process may still take, so that a damaged or hostile file is refused
in one sentence, and neither fills the machine nor is killed with everything else on it.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matseg_shared.errors import ImageError
from matseg_shared.system.machine import available_memory

ALWAYS = 64 << 20
"""Bytes that are granted without looking; so small inputs cost no question to the system."""
_COPIES = 6
"""Decoded pixels are held several times: by the decoder, as channels, as the network's input, for the writer."""
DENSEST = {"deflate": 1032, "bz2": 50_000, "lzma": 8_000}
"""The most bytes that one byte of a stream can become; a bound for all streams of the format."""
Format = Literal["deflate", "bz2", "lzma"]
_PIECE = 1 << 20


def memory_limit() -> int:
    """Bytes that one decoded image or chunk may have on this machine at this moment."""
    return max(ALWAYS, available_memory() // _COPIES)


def require_memory(where: Path | str, shape: Sequence[int], itemsize: int, what: str = "image") -> None:
    """Refuse what would not fit into memory.

    Args:
        where: named in the error.
        shape: of the decoded pixels, as the header has it.
        itemsize: bytes of one of them.
        what: `image`, `tile`, `chunk`.

    Raises:
        ImageError: it is larger than what this process may take for one.
    """
    wanted = math.prod(shape) * itemsize
    if wanted > ALWAYS and wanted > (limit := memory_limit()):
        lengths = " x ".join(str(length) for length in shape)
        raise ImageError(
            where,
            f"its header promises one {what} of {lengths} ({_size(wanted)}), expected at most {_size(limit)}, a sixth "
            "of the memory that is free here; check the file, cut it into smaller pieces, or use a machine with more "
            "memory",
        )


def could_fill(stored: int, kind: Format) -> bool:
    """True when a stream of so many bytes could become more than fits into memory."""
    most = stored * DENSEST[kind]
    return most > ALWAYS and most > memory_limit()


def require_bounded_stream(where: Path | str, content: bytes, kind: Format, pixels: int) -> None:
    """Refuse a stream that becomes longer than the header promises, before a decoder makes room for all of it.

    Only streams that could fill the memory are looked into.

    Args:
        where: named in the error.
        content: the compressed stream.
        kind: its format.
        pixels: bytes that the header promises.

    Raises:
        ImageError: it becomes longer.
    """
    if could_fill(len(content), kind) and _becomes_longer(content, kind, pixels):
        raise ImageError(
            where,
            f"its {len(content)} compressed bytes become more than the {pixels} that its header promises",
        )


def _becomes_longer(content: bytes, kind: Format, most: int) -> bool:
    """Counts, and holds no more than a piece; a damaged stream ends where its damage is."""
    length, waiting = 0, content
    decoder: Any = {
        "deflate": lambda: zlib.decompressobj(wbits=47),  # with the header of zlib or of gzip
        "bz2": bz2.BZ2Decompressor,
        "lzma": lzma.LZMADecompressor,
    }[kind]()
    try:
        while not decoder.eof:
            piece = decoder.decompress(waiting, _PIECE)
            length += len(piece)
            waiting = getattr(decoder, "unconsumed_tail", b"")  # the others keep it themselves
            if length > most:
                return True
            if not piece and not waiting:
                return False
    except (zlib.error, OSError, lzma.LZMAError):
        return False
    return False


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
