"""Fields of protobuf messages, of which an ONNX file is one: a tag (number and wire type) and a value each.

Format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5
_LENGTHS = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
_LARGEST_NUMBER = 1 << 64


class WireError(ValueError):
    """Bytes that are no protobuf message; the text completes `found ...`."""


def fields(content: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of each field of a message, in the order of the file; counted values are parts of it.

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


def varint(content: memoryview, position: int) -> tuple[int, int]:
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
