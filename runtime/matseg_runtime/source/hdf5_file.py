"""HDF5 files opened for reading: without a lock, and also where the program that wrote one did not close it."""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from matseg_shared.errors import UsageError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF4 = b"\x0e\x03\x13\x01"
_FLAGS, _ADDRESSES = 11, 12
"""Bytes of a superblock of version 3 before its consistency flags, and before its four addresses."""
_NOT_CLOSED = (
    "was not closed by the program that writes it, which is at work or has died: what that program had not written "
    "yet is missing"
)
_MASK = 0xFFFFFFFF


def open_file(path: Path) -> tuple[h5py.File, str | None]:
    """Open a file without taking a lock, which would keep the program that writes it from opening it again.

    Returns:
        The file, and the doubt about one that was not closed: what was flushed is there, and chunks may be missing.

    Raises:
        UsageError: it is no HDF5 file, not whole, or open for writing in another program.
    """
    if _is_locked(path):
        raise UsageError(f"{path}: is open for writing in another program; run again when that is done")
    try:
        return h5py.File(path, "r", locking=False), None
    except (OSError, RuntimeError) as error:
        problem = error
    with suppress(OSError, RuntimeError, ValueError):
        return h5py.File(_WithoutFlags.of(path), "r"), _NOT_CLOSED
    raise UsageError(f"{path}: {_problem(path, problem)}") from problem


def _is_locked(path: Path) -> bool:
    """True while another program has the file open for writing, and this system and its disk can tell."""
    try:
        import fcntl
    except ImportError:  # Windows, where such a file cannot be opened at all
        return False
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back at once, as the file is closed
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks, or a file that cannot be read, which is told by whoever reads it
        return False
    return False


def _problem(path: Path, error: Exception) -> str:
    """By the words of HDF5, which has no kinds of errors; those of a cut-off file speak of an `sblock`."""
    text = str(error)
    if "truncated" in text:
        return f"is damaged or still being written ({text}); run again when it is complete"
    if "already open for" in text:
        return f"{_NOT_CLOSED}; nothing of it can be read ({text})"
    with suppress(OSError), path.open("rb") as stream:
        if stream.read(len(_HDF4)) == _HDF4:
            return "expected an HDF5 file, found HDF4; convert it, as with h4toh5"
    return f"expected an HDF5 file, found something else or a damaged file ({text})"


class _WithoutFlags(mmap.mmap):
    """A file as it would be had its writer closed it at the last flush; the file itself stays as it is.

    HDF5's mode for readers of a file that is being written (SWMR) opens only files that were written for such readers,
    and reads what is damaged in them again and again, for minutes.
    """

    _path: str

    @classmethod
    def of(cls, path: Path) -> _WithoutFlags:
        """Map a file, or raise a ValueError where its superblock has no flags that say it is open for writing."""
        with path.open("rb") as stream:
            found = cls(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        found._path = str(path)
        start, end = 0, len(found)
        while found[start : start + 8] != _SIGNATURE:  # it may stand behind the user's own bytes
            start = start * 2 or 512
            if start >= end:
                raise ValueError("it has no superblock")
        if start + _ADDRESSES > end:
            raise ValueError("it ends in its superblock")
        width = found[start + 9]
        checksum = start + _ADDRESSES + 4 * width
        if found[start + 8] != 3 or not found[start + _FLAGS] or width not in (2, 4, 8) or checksum + 4 > end:
            raise ValueError("it was closed, or cannot tell")
        found[start + _FLAGS] = 0
        place = start + _ADDRESSES + 2 * width
        found[place : place + width] = end.to_bytes(
            width, "little"
        )  # chunks may lie behind the end it was told
        found[checksum : checksum + 4] = _checksum(found[start:checksum]).to_bytes(4, "little")
        return found

    def seek(self, offset: int, whence: Any = os.SEEK_SET) -> int:  # type: ignore[override]
        super().seek(offset, whence)  # returns nothing before Python 3.13
        return self.tell()

    def __repr__(self) -> str:
        """Text that h5py takes for the file's name."""
        return self._path


def _checksum(content: bytes) -> int:
    """Jenkins' lookup3 (2006), as HDF5 has it in its superblock."""
    words = struct.unpack(f"<{-(-len(content) // 12) * 3}I", content + bytes(-len(content) % 12))
    a = b = c = (0xDEADBEEF + len(content)) & _MASK
    for place in range(0, len(words), 3):
        a, b, c = ((old + new) & _MASK for old, new in zip((a, b, c), words[place : place + 3], strict=True))
        if place + 3 < len(words):
            for shift in (4, 6, 8, 16, 19, 4):
                a, b, c = b, (c + b) & _MASK, ((a - c) & _MASK) ^ _rotated(c, shift)
    for shift in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - _rotated(b, shift)) & _MASK, a
    return b


def _rotated(value: int, shift: int) -> int:
    return (value << shift | value >> (32 - shift)) & _MASK
