"""Protobuf's wire format, read strictly and without copying what is large.

A message is a row of fields: a tag (number and kind) and a value. What a lenient reader skips or merges (unknown
fields, fields of another kind, a single field given twice) is refused here, so that another reader cannot see in a file
what this one has not seen. Formats: protobuf.dev/programming-guides/encoding, onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5
_LENGTHS = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
_LARGEST_NUMBER = 1 << 64


class WireError(ValueError):
    """No message of that kind; the text completes `found ...`."""


class RefusedError(ValueError):
    """A well-formed message with something that does not belong into a model; the text completes `holds ...`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageKind:
    """The fields a message may have, by number."""

    name: str
    single: Mapping[int, int]
    """Number to kind."""
    repeated: Mapping[int, tuple[int, ...]]
    """Number to kinds: numbers come one by one, or packed into one counted field."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Number to what it would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message, with the values of its fields in the order they came in."""

    size: int
    """Bytes."""
    values: Mapping[int, list[int | memoryview]]

    def number(self, field_number: int, default: int = 0) -> int:
        """A single field that is a whole number, as unsigned 64 bits."""
        found = self.values.get(field_number)
        return default if not found or isinstance(found[0], memoryview) else found[0]

    def parts(self, field_number: int) -> list[memoryview]:
        """Every counted value of a field."""
        return [value for value in self.values.get(field_number, ()) if isinstance(value, memoryview)]

    def text(self, field_number: int) -> str:
        """A single text; "" where it is missing."""
        found = self.parts(field_number)
        return bytes(found[0]).decode(errors="replace") if found else ""

    def numbers(self, field_number: int) -> Iterator[int]:
        """Every whole number of a repeated field, packed or not, as unsigned 64 bits."""
        for value in self.values.get(field_number, ()):
            if isinstance(value, memoryview):
                position = 0
                while position < len(value):
                    number, position = _varint(value, position)
                    yield number
            else:
                yield value


class Reader:
    """Reads the messages of one file, and no more fields in all than a model has: each takes time and memory."""

    def __init__(self, most_fields: int = 1_000_000) -> None:
        self._left = most_fields

    def read(self, content: memoryview, kind: MessageKind) -> Message:
        """Read one message and check its fields.

        Raises:
            WireError: it is damaged, or has fields that are none of its kind.
            RefusedError: it has a field that no model of ours needs.
        """
        values: dict[int, list[int | memoryview]] = {}
        for number, wire_kind, value in _fields(content):
            self._left -= 1
            if self._left < 0:
                raise RefusedError("more operators, weights and settings than any model needs")
            if number in kind.refused:
                raise RefusedError(kind.refused[number])
            if number in kind.single:
                if wire_kind != kind.single[number] or number in values:
                    raise WireError(f"field {number} of {kind.name} twice or of another kind")
            elif wire_kind not in kind.repeated.get(number, ()):
                raise WireError(f"the unknown field {number} in {kind.name}")
            values.setdefault(number, []).append(value)
        return Message(size=len(content), values=values)


def _fields(content: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, kind, value) of each field."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, position = _varint(content, position)
            yield number, kind, value
            continue
        length = _LENGTHS.get(kind)
        if kind == COUNTED:
            length, position = _varint(content, position)
        if length is None or length > len(content) - position:
            raise WireError("bytes that are no fields")
        yield number, kind, content[position : position + length]
        position += length


def _varint(content: memoryview, position: int) -> tuple[int, int]:
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
