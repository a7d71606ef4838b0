"""The nodes of an ONNX graph by the tensors they make and read, and the tensors where its network begins and ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME
from matseg_shared.errors import ExportError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphIndex:
    """A graph's nodes by the tensors they make and read."""

    nodes: tuple[onnx.NodeProto, ...]
    producer: Mapping[str, onnx.NodeProto]
    consumers: Mapping[str, tuple[onnx.NodeProto, ...]]
    constants: Mapping[str, NDArray[Any]]
    floats: frozenset[str]
    """The float32 tensors that nodes make."""
    outputs: frozenset[str]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphIndex:
        """The index of a model's main graph."""
        import onnx

        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                consumers.setdefault(name, []).append(node)
        producer = {name: node for node in model.graph.node for name in node.output}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        typed = (*inferred.value_info, *inferred.output)
        return cls(
            nodes=tuple(model.graph.node),
            producer=producer,
            consumers={name: tuple(nodes) for name, nodes in consumers.items()},
            constants={item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer},
            floats=frozenset(
                item.name
                for item in typed
                if item.name in producer and item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            ),
            outputs=frozenset(item.name for item in model.graph.output),
        )

    def readers(self, name: str) -> tuple[onnx.NodeProto, ...]:
        """The nodes that read a tensor."""
        return self.consumers.get(name, ())


def normalised_image(index: GraphIndex) -> str:
    """The image after `(image - mean) / std`."""
    name = INPUT_NAME
    for kind in ("Cast", "Sub", "Div"):
        found = [node for node in index.readers(name) if node.op_type == kind]
        if len(found) == 1 and found[0].input[0] == name:
            name = found[0].output[0]
        elif kind != "Cast":  # which float32 pixels do without
            raise ExportError("the graph's normalisation is not found; it can be exported in fp32 only")
    return name


def class_scores(index: GraphIndex) -> str:
    """The tensor that the class is decided by: the logits, or the difference of two."""
    name = LABELS_NAME
    while (node := index.producer.get(name)) is not None:
        name = str(node.input[0])
        if node.op_type in ("ArgMax", "Greater"):
            return name
    raise ExportError("the graph's class scores are not found; it can be exported in fp32 only")


def following(name: str, index: GraphIndex) -> list[onnx.NodeProto]:
    """All nodes that depend on a tensor, in graph order."""
    reached, found = {name}, []
    for node in index.nodes:
        if reached.intersection(node.input):
            found.append(node)
            reached.update(node.output)
    return found


def layer_name(node: onnx.NodeProto) -> str:
    """Name of a layer for users: the module in the network, where the exporter kept its name."""
    weight = node.input[1]
    name, found, _ = str(weight).removeprefix("network.").partition(".weight")
    return name if found else str(node.output[0])


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, or what it is by default."""
    import onnx

    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def prune(model: onnx.ModelProto) -> None:
    """Remove nodes and constants that no output needs."""
    needed = {item.name for item in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    constants = [item for item in model.graph.initializer if item.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
