"""A model file is looked through before onnxruntime sees it: it is data, and nothing else may come with it.

onnxruntime executes whatever graph it is handed: operators of other domains, subgraphs that loop, weights that lie in
other files, settings for itself. No model that matseg-export writes has any of it, so a file that does is refused, by
name. What a lenient reader of protobuf skips or merges (unknown fields, fields of another wire type, a single field
given twice) is refused, too, so that another reader cannot see in a file what this one has not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path

from matseg_shared.errors import MetadataError, ModelError

# wire types of protobuf (protobuf.dev/programming-guides/encoding)
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5
_LENGTHS = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_LARGEST_NUMBER = 1 << 64

_CALCULATION = ("Add", "Clip", "Div", "Exp", "Mul", "Relu", "Sigmoid", "Softmax", "Sub")
_CHOICE = ("And", "ArgMax", "Equal", "Greater", "Not", "Or", "ReduceMax", "ReduceSum")
_LAYERS = ("AveragePool", "Conv", "ConvTranspose", "MaxPool", "Resize")
_SHAPES = ("Concat", "DepthToSpace", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_NUMBERS = ("Cast", "DequantizeLinear", "QuantizeLinear")
OPERATORS = frozenset((*_CALCULATION, *_CHOICE, *_LAYERS, *_SHAPES, *_NUMBERS))
"""Every operator that an export of any network in any precision has, and Softmax for files that others make.

An export with another one is not written. Each further one would be code that a hostile file could reach: `Loop`,
`Tile` or `ConstantOfShape` make a few bytes take any time or memory.
"""
_DOMAINS = ("", "ai.onnx")
_ENGINE_SETTINGS = "ort_config"
"""Key of metadata that onnxruntime takes for options of its own when a variable tells it to."""
_LARGEST_DENSITY = 2
"""Elements per byte of a tensor, at most: four bits each."""
_MOST_FIELDS = 1_000_000
"""In a whole file: each takes time and memory, here and in onnxruntime."""


class _WireError(ValueError):
    """Bytes that are no protobuf message; the text completes `found ...`."""


class _RefusedError(ValueError):
    """A well-formed message with something that does not belong into a model; the text completes `holds ...`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _MessageKind:
    """The fields a message may have, by number."""

    name: str
    single: Mapping[int, int]
    """Number to wire type."""
    repeated: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Number to wire types: numbers come one by one, or packed into one counted field."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Number to what it would be."""


_MODEL = _MessageKind(
    name="a model",
    single={1: _VARINT, 2: _COUNTED, 3: _COUNTED, 4: _COUNTED, 5: _VARINT, 6: _COUNTED, 7: _COUNTED},
    repeated={8: (_COUNTED,), 14: (_COUNTED,)},
    refused={20: "information to train on", 25: "functions of its own", 26: "settings for several devices"},
)
_GRAPH = _MessageKind(
    name="a graph",
    single={2: _COUNTED, 10: _COUNTED},
    repeated=dict.fromkeys((1, 5, 11, 12, 13, 14, 16), (_COUNTED,)),
    refused={15: "sparse weights"},
)
_NODE = _MessageKind(
    name="an operator",
    single={3: _COUNTED, 4: _COUNTED, 6: _COUNTED, 7: _COUNTED},
    repeated=dict.fromkeys((1, 2, 5, 9), (_COUNTED,)),
    refused={8: "an overloaded operator", 10: "an operator with settings for several devices"},
)
_ATTRIBUTE = _MessageKind(
    name="an attribute",
    single={1: _COUNTED, 2: _FOUR_BYTES, 3: _VARINT, 4: _COUNTED, 5: _COUNTED, 13: _COUNTED, 20: _VARINT},
    repeated={7: (_COUNTED, _FOUR_BYTES), 8: (_COUNTED, _VARINT), 9: (_COUNTED,)},
    refused={
        **dict.fromkeys((6, 11), "a graph within an operator"),
        **dict.fromkeys((10, 14, 15, 22, 23), "an attribute of a kind that our operators do not have"),
        21: "an attribute of a function",
    },
)
_TENSOR = _MessageKind(
    name="weights",
    single={2: _VARINT, 8: _COUNTED, 9: _COUNTED, 12: _COUNTED, 14: _VARINT},
    repeated={
        **dict.fromkeys((1, 5, 7, 11), (_COUNTED, _VARINT)),
        **dict.fromkeys((6, 16), (_COUNTED,)),
        4: (_COUNTED, _FOUR_BYTES),
        10: (_COUNTED, _EIGHT_BYTES),
    },
    refused={3: "weights in segments", 13: "weights that lie in another file"},
)
_OPERATOR_SET = _MessageKind(name="an operator set", single={1: _COUNTED, 2: _VARINT})
_ENTRY = _MessageKind(name="a property", single={1: _COUNTED, 2: _COUNTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """One message, with the values of its fields in the order they came in."""

    size: int
    """Bytes."""
    values: Mapping[int, list[int | memoryview]]

    def parts(self, number: int) -> list[memoryview]:
        """Every counted value of a field."""
        return [value for value in self.values.get(number, ()) if isinstance(value, memoryview)]

    def text(self, number: int, errors: str = "replace") -> str:
        """A single text; "" where it is missing."""
        return b"".join(self.parts(number)[:1]).decode(errors=errors)

    def numbers(self, number: int) -> Iterator[int]:
        """Every whole number of a field, packed or not, as unsigned 64 bits."""
        for value in self.values.get(number, ()):
            if isinstance(value, int):
                yield value
                continue
            position = 0
            while position < len(value):
                item, position = _varint(value, position)
                yield item


def check_model(path: Path, content: bytes | mmap) -> dict[str, str]:
    """Refuse a model file with anything in it that matseg-export does not write.

    Args:
        path: named in errors.
        content: the whole file, or a map of it; what is looked through is what has to be loaded.

    Returns:
        The properties that it carries (`metadata_props`).

    Raises:
        ModelError: it is no ONNX file, or one that onnxruntime is not to be handed.
        MetadataError: its properties are no text.
    """
    try:
        return _Guard().check(memoryview(content))
    except _RefusedError as error:
        raise ModelError(
            f"{path}: expected a model written by matseg-export, found an ONNX file that holds {error}; it is not "
            "loaded; export the checkpoint again, or ask whoever made the file"
        ) from error
    except _WireError as error:
        raise ModelError(
            f"{path}: expected an ONNX model written by matseg-export, found a damaged file or another format "
            f"({error}); copy or export it again"
        ) from error
    except UnicodeDecodeError as error:
        raise MetadataError(f"{path}: its metadata are no text ({error}); copy or export it again") from error


class _Guard:
    """Looks through one file."""

    def __init__(self) -> None:
        self._fields_left = _MOST_FIELDS

    def check(self, content: memoryview) -> dict[str, str]:
        model = self._read(content, _MODEL)
        if not model.parts(7):
            raise _WireError("no graph in it")
        for part in model.parts(8):
            if (domain := self._read(part, _OPERATOR_SET).text(1)) not in _DOMAINS:
                raise _RefusedError(f"operators of the foreign domain {domain!r}")
        entries = [self._read(part, _ENTRY) for part in model.parts(14)]
        if any(entry.text(1) == _ENGINE_SETTINGS for entry in entries):
            raise _RefusedError(f"settings for onnxruntime ({_ENGINE_SETTINGS})")
        graph = self._read(model.parts(7)[0], _GRAPH)
        for part in graph.parts(5):
            self._check_tensor(part)
        for part in graph.parts(1):
            self._check_node(part)
        return {entry.text(1, "strict"): entry.text(2, "strict") for entry in entries}

    def _check_node(self, content: memoryview) -> None:
        node = self._read(content, _NODE)
        domain, operator = node.text(7), node.text(4)
        if domain not in _DOMAINS:
            raise _RefusedError(f"the operator {operator!r} of the foreign domain {domain!r}")
        if operator not in OPERATORS:
            raise _RefusedError(f"the operator {operator!r}, which no export of matseg has")
        for part in node.parts(5):
            for tensor in self._read(part, _ATTRIBUTE).parts(5):
                self._check_tensor(tensor)

    def _check_tensor(self, content: memoryview) -> None:
        """Its data are in it, all of them: a shape alone could ask for any amount of memory."""
        tensor = self._read(content, _TENSOR)
        if any(tensor.numbers(14)):
            raise _RefusedError("weights that lie in another file")
        elements = 1
        for length in tensor.numbers(1):
            elements *= length
            if elements > _LARGEST_DENSITY * tensor.size:
                raise _RefusedError(f"weights ({tensor.text(8)!r}) of a shape for which it has not the data")

    def _read(self, content: memoryview, kind: _MessageKind) -> _Message:
        """One message, its fields checked."""
        values: dict[int, list[int | memoryview]] = {}
        for number, wire_type, value in _fields(content):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _RefusedError("more operators, weights and settings than any model needs")
            if number in kind.refused:
                raise _RefusedError(kind.refused[number])
            if number in kind.single:
                if wire_type != kind.single[number] or number in values:
                    raise _WireError(f"field {number} of {kind.name} twice or of another kind")
            elif wire_type not in kind.repeated.get(number, ()):
                raise _WireError(f"the unknown field {number} in {kind.name}")
            values.setdefault(number, []).append(value)
        return _Message(size=len(content), values=values)


def _fields(content: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of each field of a message, in the order of the file; counted values are parts of it.

    Raises:
        _WireError: the bytes are no fields.
    """
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield number, kind, value
            continue
        length = _LENGTHS.get(kind)
        if kind == _COUNTED:
            length, position = _varint(content, position)
        if length is None or length > len(content) - position:
            raise _WireError("bytes that are no fields")
        yield number, kind, content[position : position + length]
        position += length


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise _WireError("an end in the middle of a number")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _LARGEST_NUMBER:
                break
            return value, position
    raise _WireError("a number of more than 64 bits")
