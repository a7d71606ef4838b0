"""Test-time augmentation within the file: the mean of what a network says of flipped and turned views.

A network that has learned on flipped and turned crops should say the same of every one of them, and does not quite;
the mean errs less than one of them (Simonyan and Zisserman 2015, arXiv:1409.1556, section 3.2). Views are copies of the
finished graph that share its weights, so they do for every network and every precision. The class scores are averaged,
not the probabilities, which takes less and did as well: sums of int8's scores are rounded alike wherever a pixel lies
and on every processor, exponentials are not, and the labels of int8 are to be the same everywhere.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME, PROBABILITIES_NAME
from matseg_shared.errors import ExportError
from matseg_trainer.export.graph import DeployedNetwork, decide
from matseg_trainer.export.index import GraphIndex, constant, prune

if TYPE_CHECKING:
    import onnx

_ROWS, _COLUMNS = 2, 3
"""Axes of (N, C, H, W)."""
_TO_THE_FRONT = np.iinfo(np.int64).min
"""End of a Slice that runs backwards over a whole axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One of the eight ways to lay a square on itself: flipped along axes, then perhaps mirrored at the diagonal."""

    flipped: tuple[int, ...]
    """Axes of (N, C, H, W) that run backwards."""
    transposed: bool

    def of(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) as it is shown to the network; (N, C, W, H) where it is transposed."""
        turned = pixels.flip(self.flipped)
        return turned.transpose(_ROWS, _COLUMNS) if self.transposed else turned

    def undo(self, pixels: Tensor) -> Tensor:
        """Back from what `of` makes."""
        straight = pixels.transpose(_ROWS, _COLUMNS) if self.transposed else pixels
        return straight.flip(self.flipped)


def views(count: int) -> tuple[View, ...]:
    """One view, the image itself; four, its flips; or eight, those and their quarter turns."""
    if count not in (1, 4, 8):
        raise ValueError(f"expected 1, 4 or 8 views, found {count}")
    flips = [axes for size in range(3) for axes in itertools.combinations((_ROWS, _COLUMNS), size)]
    every = [View(flipped=axes, transposed=transposed) for transposed in (False, True) for axes in flips]
    return tuple(every[:count])


class MeanOfViews(nn.Module):
    """What `with_views` makes of a graph, in torch."""

    def __init__(self, deployed: DeployedNetwork, count: int) -> None:
        super().__init__()
        self.deployed = deployed
        self.views = views(count)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) raw pixels to labels (N, H, W) uint8 and probabilities (N, K, H, W)."""
        seen = [view.undo(self.deployed.logits(view.of(image))) for view in self.views]
        return decide(torch.stack(seen).mean(dim=0))


def with_views(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """The class that the mean of the scores decides for, which a finished graph gives of so many views.

    Args:
        model: pixels in, labels and probabilities out, in any precision.
        count: 1 (the graph as it is), 4 or 8.

    Raises:
        ExportError: no class scores can be found in the graph.
    """
    import onnx
    from onnx import helper

    if count == 1:
        return model
    scores = _scores(GraphIndex.of(model))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    seen = []
    for number, view in enumerate(views(count)):
        prefix = f"view{number}/"
        turning, shown = _turn(view, INPUT_NAME, f"{prefix}{INPUT_NAME}", backwards=False)
        turning_back, straight = _turn(view, f"{prefix}{scores}", f"{prefix}turned_back", backwards=True)
        result.graph.node.extend([*turning, *_copy(model, prefix, shown), *turning_back])
        seen.append(straight)
    total = seen[0]
    for name in seen[1:]:
        before, total = total, f"{name}/sum"
        result.graph.node.append(helper.make_node("Add", [before, name], [total]))
    result.graph.node.append(helper.make_node("Mul", [total, "views/share"], ["views/mean"]))
    result.graph.node.extend(_decision("views/mean", classes=_classes(model)))
    result.graph.initializer.extend(_constants(count))
    prune(result)
    return result


def _scores(index: GraphIndex) -> str:
    """The float tensor that the probabilities are made of: all class scores, or the difference of two."""
    name = PROBABILITIES_NAME
    for kinds in (("Concat", "Sigmoid"), ("Div", "Exp", "Sub")):
        at = name
        for kind in kinds:
            node = index.producer.get(at)
            if node is None or node.op_type != kind:
                break
            at = node.input[-1] if kind == "Concat" else node.input[0]
        else:
            return at
    raise ExportError(
        "the graph does not make its probabilities as matseg-export does: no views can be averaged"
    )


def _classes(model: onnx.ModelProto) -> int:
    output = next(item for item in model.graph.output if item.name == PROBABILITIES_NAME)
    return int(output.type.tensor_type.shape.dim[1].dim_value)


def _decision(scores: str, *, classes: int) -> list[onnx.NodeProto]:
    """`matseg_trainer.export.graph.decide` of float scores, or of the difference of two."""
    from onnx import TensorProto
    from onnx.helper import make_node

    name = "views/"
    if classes == 2:
        return [
            make_node("Greater", [scores, f"{name}zero"], [f"{name}second_is_larger"]),
            make_node("Cast", [f"{name}second_is_larger"], [f"{name}class"], to=TensorProto.UINT8),
            make_node("Squeeze", [f"{name}class", f"{name}channel"], [LABELS_NAME]),
            make_node("Sigmoid", [scores], [f"{name}second"]),
            make_node("Sub", [f"{name}one", f"{name}second"], [f"{name}first"]),
            make_node("Concat", [f"{name}first", f"{name}second"], [PROBABILITIES_NAME], axis=1),
        ]
    return [
        make_node("ArgMax", [scores], [f"{name}class"], axis=1, keepdims=0),
        make_node("Cast", [f"{name}class"], [LABELS_NAME], to=TensorProto.UINT8),
        make_node("ReduceMax", [scores, f"{name}channel"], [f"{name}largest"], keepdims=1),
        make_node("Sub", [scores, f"{name}largest"], [f"{name}below"]),
        make_node("Exp", [f"{name}below"], [f"{name}powers"]),
        make_node("ReduceSum", [f"{name}powers", f"{name}channel"], [f"{name}sum"], keepdims=1),
        make_node("Div", [f"{name}powers", f"{name}sum"], [PROBABILITIES_NAME]),
    ]


def _copy(model: onnx.ModelProto, prefix: str, image: str) -> list[onnx.NodeProto]:
    """The nodes of a graph under other names, on the same weights and on another image."""
    kept = {item.name: item.name for item in model.graph.initializer} | {"": "", INPUT_NAME: image}
    copies = []
    for node in model.graph.node:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.name = f"{prefix}{node.name}" if node.name else ""
        for names in (copy.input, copy.output):
            names[:] = [kept.get(name, f"{prefix}{name}") for name in names]
        copies.append(copy)
    return copies


def _turn(view: View, source: str, target: str, *, backwards: bool) -> tuple[list[onnx.NodeProto], str]:
    """The nodes that make a view of a tensor, or undo it, and the name of what they make."""
    from onnx import helper

    flip = f"views/{''.join(map(str, view.flipped))}"
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if view.flipped:
        steps.append(("Slice", [f"{flip}/start", f"{flip}/end", f"{flip}/axes", f"{flip}/start"], {}))
    if view.transposed:
        steps.append(("Transpose", [], {"perm": [0, 1, _COLUMNS, _ROWS]}))
    if backwards:
        steps.reverse()
    nodes, name = [], source
    for number, (kind, constants, attributes) in enumerate(steps):
        before, name = name, f"{target}/{number}"
        nodes.append(helper.make_node(kind, [before, *constants], [name], **attributes))
    return nodes, name


def _constants(count: int) -> list[onnx.TensorProto]:
    """What the nodes of the views and of the decision read; those that none does are pruned."""
    made = [
        constant("views/share", np.array(1 / count, np.float32)),
        constant("views/zero", np.array(0, np.float32)),
        constant("views/one", np.array(1, np.float32)),
        constant("views/channel", np.array([1], np.int64)),
    ]
    for axes in dict.fromkeys(view.flipped for view in views(count) if view.flipped):
        name = f"views/{''.join(map(str, axes))}"
        made += [
            constant(f"{name}/start", np.full(len(axes), -1, np.int64)),  # the step is the same number
            constant(f"{name}/end", np.full(len(axes), _TO_THE_FRONT, np.int64)),
            constant(f"{name}/axes", np.array(axes, np.int64)),
        ]
    return made
