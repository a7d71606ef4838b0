"""A model file is looked through before onnxruntime sees it: it is data, and nothing else may come with it.

onnxruntime executes whatever graph it is handed: operators of other domains, subgraphs that loop, weights that lie in
other files, settings for itself. No model that matseg-export writes has any of it, so a file that does is refused, by
name. The operators are those of our exports, no more: each further one is code that a hostile file could reach, and
`Loop`, `Tile` or `ConstantOfShape` make a few bytes take any time or memory.
"""

from __future__ import annotations

from pathlib import Path

from matseg_runtime.model.wire import (
    COUNTED,
    EIGHT_BYTES,
    FOUR_BYTES,
    VARINT,
    MessageKind,
    Reader,
    RefusedError,
    WireError,
)
from matseg_shared.errors import ModelError

OPERATORS = frozenset(
    (
        *("Add", "And", "ArgMax", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace"),
        *(
            "DequantizeLinear",
            "Div",
            "Equal",
            "Exp",
            "Greater",
            "MaxPool",
            "Mul",
            "Not",
            "Or",
            "QuantizeLinear",
        ),
        *(
            "ReduceMax",
            "ReduceSum",
            "Relu",
            "Reshape",
            "Resize",
            "Shape",
            "Sigmoid",
            "Slice",
            "Squeeze",
            "Sub",
        ),
        *("Transpose", "Unsqueeze"),
        "Softmax",  # for files that others make after the contract
    )
)
"""Every operator that an export of any network in any precision has: an export with another one is not written."""
_DOMAINS = ("", "ai.onnx")
_ENGINE_SETTINGS = "ort_config"
"""Key of metadata that onnxruntime takes for options of its own when a variable tells it to."""
_LARGEST_DENSITY = 2
"""Elements per byte of a tensor, at most: four bits each."""

_MODEL = MessageKind(
    name="a model",
    single={1: VARINT, 2: COUNTED, 3: COUNTED, 4: COUNTED, 5: VARINT, 6: COUNTED, 7: COUNTED},
    repeated={8: (COUNTED,), 14: (COUNTED,)},
    refused={20: "information to train on", 25: "functions of its own", 26: "settings for several devices"},
)
_GRAPH = MessageKind(
    name="a graph",
    single={2: COUNTED, 10: COUNTED},
    repeated=dict.fromkeys((1, 5, 11, 12, 13, 14, 16), (COUNTED,)),
    refused={15: "sparse weights"},
)
_NODE = MessageKind(
    name="an operator",
    single={3: COUNTED, 4: COUNTED, 6: COUNTED, 7: COUNTED},
    repeated=dict.fromkeys((1, 2, 5, 9), (COUNTED,)),
    refused={8: "an overloaded operator", 10: "an operator with settings for several devices"},
)
_ATTRIBUTE = MessageKind(
    name="an attribute",
    single={1: COUNTED, 2: FOUR_BYTES, 3: VARINT, 4: COUNTED, 5: COUNTED, 13: COUNTED, 20: VARINT},
    repeated={7: (COUNTED, FOUR_BYTES), 8: (COUNTED, VARINT), 9: (COUNTED,)},
    refused={
        **dict.fromkeys((6, 11), "a graph within an operator"),
        **dict.fromkeys((10, 14, 15, 22, 23), "an attribute of a kind that our operators do not have"),
        21: "an attribute of a function",
    },
)
_TENSOR = MessageKind(
    name="weights",
    single={2: VARINT, 8: COUNTED, 9: COUNTED, 12: COUNTED, 14: VARINT},
    repeated={
        1: (COUNTED, VARINT),
        4: (COUNTED, FOUR_BYTES),
        5: (COUNTED, VARINT),
        6: (COUNTED,),
        7: (COUNTED, VARINT),
        10: (COUNTED, EIGHT_BYTES),
        11: (COUNTED, VARINT),
        16: (COUNTED,),
    },
    refused={3: "weights in segments", 13: "weights that lie in another file"},
)
_OPERATOR_SET = MessageKind(name="an operator set", single={1: COUNTED, 2: VARINT}, repeated={})
_ENTRY = MessageKind(name="a property", single={1: COUNTED, 2: COUNTED}, repeated={})


def vet_model(path: Path, content: bytes) -> None:
    """Refuse a model file with anything in it that matseg-export does not write.

    Args:
        path: named in errors.
        content: the whole file; what is looked through is what has to be loaded.

    Raises:
        ModelError: it is no ONNX file, or one that onnxruntime is not to be handed.
    """
    try:
        _vet_model(Reader(), memoryview(content))
    except RefusedError as error:
        raise ModelError(
            f"{path}: expected a model written by matseg-export, found an ONNX file that holds {error}; it is not "
            "loaded; export the checkpoint again, or ask whoever made the file"
        ) from error
    except WireError as error:
        raise ModelError(
            f"{path}: expected an ONNX model written by matseg-export, found a damaged file or another format "
            f"({error}); copy or export it again"
        ) from error


def _vet_model(reader: Reader, content: memoryview) -> None:
    model = reader.read(content, _MODEL)
    if not model.parts(7):
        raise WireError("no graph in it")
    for part in model.parts(8):
        domain = reader.read(part, _OPERATOR_SET).text(1)
        if domain not in _DOMAINS:
            raise RefusedError(f"operators of the foreign domain {domain!r}")
    for part in model.parts(14):
        if reader.read(part, _ENTRY).text(1) == _ENGINE_SETTINGS:
            raise RefusedError(f"settings for onnxruntime ({_ENGINE_SETTINGS})")
    graph = reader.read(model.parts(7)[0], _GRAPH)
    for part in graph.parts(5):
        _vet_tensor(reader, part)
    for part in graph.parts(1):
        _vet_node(reader, part)


def _vet_node(reader: Reader, content: memoryview) -> None:
    node = reader.read(content, _NODE)
    domain, operator = node.text(7), node.text(4)
    if domain not in _DOMAINS:
        raise RefusedError(f"the operator {operator!r} of the foreign domain {domain!r}")
    if operator not in OPERATORS:
        raise RefusedError(f"the operator {operator!r}, which no export of matseg has")
    for part in node.parts(5):
        for tensor in reader.read(part, _ATTRIBUTE).parts(5):
            _vet_tensor(reader, tensor)


def _vet_tensor(reader: Reader, content: memoryview) -> None:
    """Its data are in it, all of them: a shape alone could ask for any amount of memory."""
    tensor = reader.read(content, _TENSOR)
    if tensor.number(14):
        raise RefusedError("weights that lie in another file")
    elements = 1
    for length in tensor.numbers(1):
        elements *= length
        if elements > _LARGEST_DENSITY * tensor.size:
            raise RefusedError(f"weights ({tensor.text(8)!r}) of a shape for which it has not the data")
