"""The properties of an ONNX file, read without onnx or onnxruntime and without its weights.

An ONNX file is a protobuf message `ModelProto`: fields one after the other, each a tag (number and wire type) and a
value. Properties are field 14, entries of a key (field 1) and a value (field 2); everything else is skipped, so that
a model of any size is read in no time. Formats: protobuf.dev/programming-guides/encoding, onnx.proto.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from matseg_shared.errors import ModelError

_PROPERTY_FIELD = 14
_LARGEST_PROPERTY = 16 << 20
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5


def read_properties(path: Path) -> dict[str, str]:
    """The `metadata_props` of a model file.

    Raises:
        ModelError: the file cannot be read, or is no ONNX file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            return dict(_entry(content) for content in _fields(stream, size, _PROPERTY_FIELD))
    except OSError as error:
        raise ModelError(f"{path}: the model file cannot be read: {error.strerror or error}") from error
    except (EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: expected an ONNX file, found a damaged one or another format") from error


def _entry(content: bytes) -> tuple[str, str]:
    parts = {
        number: next(_fields(io.BytesIO(content), len(content), number), b"").decode() for number in (1, 2)
    }
    return parts[1], parts[2]


def _fields(stream: BinaryIO, size: int, wanted: int) -> Iterator[bytes]:
    """The contents of a message's fields of one number; the others are skipped."""
    while stream.tell() < size:
        tag = _varint(stream)
        kind = tag & 7
        if kind == _VARINT:
            _varint(stream)
            continue
        length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if kind == _COUNTED:
            length = _varint(stream)
        if length is None or stream.tell() + length > size:
            raise ValueError("no field begins here")
        if tag >> 3 == wanted and kind == _COUNTED and length <= _LARGEST_PROPERTY:
            yield stream.read(length)
        else:
            stream.seek(length, io.SEEK_CUR)


def _varint(stream: BinaryIO) -> int:
    """A whole number in groups of seven bits, the lowest first; the highest bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")
