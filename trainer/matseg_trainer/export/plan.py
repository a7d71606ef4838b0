"""Which tensors of a graph are kept in uint8, and which of them share one code.

Layers and sums compute; what only moves values (pooling, slicing, joining, reshaping) works on the codes themselves,
so its inputs and outputs share one. A tensor is kept in uint8 when at least one layer beside it computes in int8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matseg_shared.contract.metadata import INPUT_NAME, InputInfo
from matseg_trainer.export.index import LAYERS, GraphIndex, attribute, layer_name
from matseg_trainer.export.ranges import Code, Samples, least_confusion_code, least_error_code
from matseg_trainer.export.upsample import upsampling_factor

if TYPE_CHECKING:
    import onnx

MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
ARITHMETIC = frozenset({"Add", "AveragePool", "GlobalAveragePool", "Resize"})
"""Operators without weights that onnxruntime computes in int8 between dequantised inputs and a quantised output."""
RECTIFIERS = frozenset({"Relu", "Clip"})
"""Taken together with the operator before them."""
_SELECTIONS = frozenset({"Gather", "Slice", "Squeeze"})
_WIDEST_SHARE = 4.0
"""Inputs of a Concat share a code unless their ranges differ by more than this factor."""
_LARGEST_SHIFT = 0.5
"""Raw pixels are taken as codes when the mean, rounded, is off by no more than this many grey levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How each tensor of a graph is kept."""

    codes: Mapping[str, Code]
    """Of every tensor that is kept in uint8."""
    int8_layers: frozenset[str]
    """Names of the layers that compute in int8."""
    raw: str | None
    """The normalised image, when the raw uint8 pixels themselves are its codes."""
    shift: float
    """What the rounding of the mean to a code leaves to the biases of the first layers, in normalised units."""


def layers_of(index: GraphIndex) -> tuple[str, ...]:
    """The names of the layers that can compute in int8, in graph order, each once."""
    nodes = (node for node in index.nodes if node.op_type == "Conv" and node.input[1] in index.constants)
    return tuple(dict.fromkeys(layer_name(node) for node in nodes))


def computed_tensors(index: GraphIndex) -> tuple[str, ...]:
    """The float tensors whose values must be known: all that are not mere copies of one other's values."""
    kinds = LAYERS | ARITHMETIC | RECTIFIERS
    wanted = {node.output[0] for node in index.nodes if node.op_type in kinds} | decision_inputs(index)
    wanted |= {node.output[0] for node in index.nodes if _joins_channels(node)}
    first = normalised_image(index)
    return tuple(sorted((wanted | ({first} if first else set())) & index.floats))


def _joins_channels(node: onnx.NodeProto) -> bool:
    """Whether a node joins feature maps, which may have codes of their own before and another behind."""
    return node.op_type == "Concat" and attribute(node, "axis", 0) == 1


def make_plan(index: GraphIndex, samples: Samples, info: InputInfo, *, keep: frozenset[str]) -> Plan:
    """Decide for every tensor.

    Args:
        index: of the fp32 graph.
        samples: values of the computed tensors.
        info: the model's input.
        keep: layers that stay in fp32.
    """
    groups = _Groups(index, samples)
    integer = _integer_groups(index, groups, keep)
    normalised = normalised_image(index)
    raw, shift = _raw_code(index, groups, info, normalised) if normalised else (None, 0.0)
    codes: dict[str, Code] = {}
    for root, members in groups.members().items():
        if root not in integer:
            continue
        code = raw if raw is not None and normalised in members else _code_of(members, index, samples)
        codes.update(dict.fromkeys(members, code))
    return Plan(
        codes=codes,
        int8_layers=frozenset(set(layers_of(index)) - keep),
        raw=normalised if raw is not None and normalised in codes else None,
        shift=shift,
    )


def _integer_groups(index: GraphIndex, groups: _Groups, keep: frozenset[str]) -> set[str]:
    """The roots of the groups that are kept in uint8."""
    scores = _score_tensors(index)
    layers = [node for node in index.nodes if _is_integer_layer(node, index, keep)]
    beside = {name for node in layers for name in (node.input[0], _after(node, index))} - scores
    found = {groups.root(name) for name in beside if name in groups}
    for node in index.nodes:  # a sum of what is kept in uint8 is kept so too
        inputs = [name for name in node.input if name in groups]
        if node.op_type in ARITHMETIC and inputs and all(groups.root(name) in found for name in inputs):
            found.update({groups.root(name) for name in {_after(node, index)} - scores})
    return found


def _is_integer_layer(node: onnx.NodeProto, index: GraphIndex, keep: frozenset[str]) -> bool:
    return node.op_type == "Conv" and node.input[1] in index.constants and layer_name(node) not in keep


def _after(node: onnx.NodeProto, index: GraphIndex) -> str:
    """The tensor a computing node hands on: behind its rectifier, when that is its only reader."""
    readers = index.readers(node.output[0])
    if len(readers) == 1 and readers[0].op_type in RECTIFIERS and node.output[0] not in index.outputs:
        return str(readers[0].output[0])
    return str(node.output[0])


def is_inner(name: str, index: GraphIndex) -> bool:
    """Whether a tensor only leads from a computing node to its rectifier, and is never stored."""
    node = index.producer.get(name)
    return node is not None and node.op_type in LAYERS | ARITHMETIC and _after(node, index) != name


def _score_tensors(index: GraphIndex) -> frozenset[str]:
    """Class scores that are summed up from several layers: they stay in float, or every sum would be rounded."""
    found: set[str] = set()
    waiting = list(decision_inputs(index))
    while waiting:
        name = waiting.pop()
        node = index.producer.get(name)
        if node is not None and node.op_type == "Add":
            found.add(name)
            waiting += node.input
    return frozenset(found)


def is_decision(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """Whether a node decides the class: the largest score, or the sign of the only one."""
    if node.op_type == "Greater":
        threshold = index.constants.get(node.input[1])
        return threshold is not None and threshold.size == 1 and float(threshold.ravel()[0]) == 0
    return node.op_type == "ArgMax"


def decision_inputs(index: GraphIndex) -> frozenset[str]:
    """The class scores: what the class is decided by, before it is sliced or squeezed."""
    found = set()
    for node in index.nodes:
        if is_decision(node, index):
            name = node.input[0]
            while name in index.producer and index.producer[name].op_type in _SELECTIONS:
                name = index.producer[name].input[0]
            found.add(name)
    return frozenset(found)


def normalised_image(index: GraphIndex) -> str | None:
    """The image after `(image - mean) / std`."""
    name = INPUT_NAME
    for kind in ("Cast", "Sub", "Div"):
        following = [node for node in index.readers(name) if node.op_type == kind]
        if len(following) == 1 and following[0].input[0] == name:
            name = following[0].output[0]
        elif kind != "Cast":  # which float32 pixels do without
            return None
    return name


def _raw_code(
    index: GraphIndex, groups: _Groups, info: InputInfo, normalised: str
) -> tuple[Code | None, float]:
    """The raw pixels as codes of the normalised image, and what rounding the mean leaves to the biases."""
    if info.dtype != "uint8" or info.channels != 1 or not 0 <= round(info.mean[0]) <= 255:
        return None, 0.0
    readers = [
        node for name in groups.group(normalised) for node in index.readers(name) if node.op_type not in MOVES
    ]
    if any(node.op_type != "Conv" or node.input[1] not in index.constants for node in readers):
        return None, 0.0
    zero_point = round(info.mean[0])
    if abs(zero_point - info.mean[0]) > _LARGEST_SHIFT:
        return None, 0.0
    scale = float(np.float32(1 / info.std[0]))
    return Code(scale, zero_point), (zero_point - info.mean[0]) / info.std[0]


def _code_of(members: Iterable[str], index: GraphIndex, samples: Samples) -> Code:
    known = [samples[name] for name in members if name in samples]
    for name in decision_inputs(index).intersection(members, samples):
        return least_confusion_code(samples[name])
    return least_error_code(known)


class _Groups:
    """Tensors that share a code, by union and find."""

    def __init__(self, index: GraphIndex, samples: Samples) -> None:
        self._parent = {name: name for name in sorted(index.floats)}
        for node in index.nodes:
            if node.op_type == "Concat" and not self._shares(node, samples):
                continue
            if moves_codes(node, index):
                for name in node.input:
                    if name in self._parent:
                        self._join(name, node.output[0])

    def __contains__(self, name: str) -> bool:
        return name in self._parent

    def root(self, name: str) -> str:
        """What stands for the group of `name`."""
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def _join(self, one: str, other: str) -> None:
        self._parent[self.root(other)] = self.root(one)

    def group(self, name: str) -> list[str]:
        """All that share a code with `name`."""
        root = self.root(name)
        return [member for member in self._parent if self.root(member) == root]

    def members(self) -> dict[str, list[str]]:
        """All groups by their roots."""
        groups: dict[str, list[str]] = {}
        for name in self._parent:
            groups.setdefault(self.root(name), []).append(name)
        return groups

    def _shares(self, node: onnx.NodeProto, samples: Samples) -> bool:
        spans = []
        for name in node.input:
            members = self.group(name) if name in self else []
            known = [samples[member] for member in members if member in samples]
            if known:
                low = min(float(part.min()) for part in known)
                spans.append(max(float(part.max()) for part in known) - min(low, 0.0))
        return not spans or max(spans) <= _WIDEST_SHARE * min(spans)


def moves_codes(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """Whether a node hands on values of a float tensor as they are, or means of neighbours, which have their range."""
    if node.output[0] not in index.floats:
        return False
    if node.op_type == "Mul":
        return mask_of(node, index) is not None
    nearest = node.op_type == "Resize" and attribute(node, "mode", b"nearest") == b"nearest"
    return node.op_type in MOVES or nearest or upsampling_factor(node, index) is not None


def mask_of(node: onnx.NodeProto, index: GraphIndex) -> tuple[str, str] | None:
    """(values, boolean mask) of a product with a mask of zeros and ones, else None."""
    for value, factor in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
        cast = index.producer.get(factor)
        if cast is None or cast.op_type != "Cast":
            continue
        made = index.producer.get(cast.input[0])
        if made is not None and made.op_type in ("And", "Or", "Not", "Equal"):
            return value, cast.input[0]
    return None
