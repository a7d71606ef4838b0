"""ONNX files read without onnx or onnxruntime: protobuf's fields, and the properties among them.

An ONNX file is a protobuf message `ModelProto`: fields one after the other, each a tag (number and wire type) and a
value. Properties are field 14, entries of a key (field 1) and a value (field 2). Formats:
protobuf.dev/programming-guides/encoding, onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from matseg_shared.errors import ModelError

VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5
PROPERTY_FIELD = 14
_LENGTHS = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
_LARGEST_NUMBER = 1 << 64
_LARGEST_PROPERTY = 16 << 20


class WireError(ValueError):
    """Bytes that are no protobuf message; the text completes `found ...`."""


class _FilePart:
    """A part of a file whose bytes are read when they are asked for."""

    def __init__(self, stream: BinaryIO, start: int, stop: int) -> None:
        self._stream, self._start, self._stop = stream, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return _FilePart(self._stream, self._start + place.start, self._start + place.stop)
        self._stream.seek(self._start + place)
        return self._stream.read(1)[0]

    def __bytes__(self) -> bytes:
        self._stream.seek(self._start)
        return self._stream.read(len(self))


def read_properties(path: Path) -> dict[str, str]:
    """The `metadata_props` of a model file; its weights are skipped, so that a file of any size is read in no time.

    Raises:
        ModelError: the file cannot be read, or is no ONNX file.
    """
    try:
        with path.open("rb") as stream:
            content = _FilePart(stream, 0, os.fstat(stream.fileno()).st_size)
            entries = [entry for entry in _parts(content, PROPERTY_FIELD) if len(entry) <= _LARGEST_PROPERTY]
            return dict(_entry(bytes(entry)) for entry in entries)
    except OSError as error:
        raise ModelError(f"{path}: the model file cannot be read: {error.strerror or error}") from error
    except (IndexError, ValueError) as error:  # IndexError: the file became shorter
        raise ModelError(f"{path}: expected an ONNX file, found a damaged one or another format") from error


def _entry(content: bytes) -> tuple[str, str]:
    key, value = ((_parts(content, number) or [b""])[0] for number in (1, 2))
    return key.decode(), value.decode()


def _parts(content: Any, wanted: int) -> list[Any]:
    """Every counted value of a message's fields of one number."""
    return [value for number, kind, value in fields(content) if kind == COUNTED and number == wanted]


def fields(content: Any) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, value) of each field of a message, in the order of the file.

    Args:
        content: bytes, a memoryview or alike, of which slices are handed out as values of counted fields.

    Raises:
        WireError: the bytes are no fields.
    """
    position = 0
    while position < len(content):
        tag, position = varint(content, position)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, position = varint(content, position)
            yield number, kind, value
            continue
        length = _LENGTHS.get(kind)
        if kind == COUNTED:
            length, position = varint(content, position)
        if length is None or length > len(content) - position:
            raise WireError("bytes that are no fields")
        yield number, kind, content[position : position + length]
        position += length


def varint(content: Any, position: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise WireError("an end in the middle of a number")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _LARGEST_NUMBER:
                break
            return value, position
    raise WireError("a number of more than 64 bits")
