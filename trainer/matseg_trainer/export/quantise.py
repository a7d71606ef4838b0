"""Write a graph with uint8 activations and int8 weights: static quantisation in the QuantizeLinear notation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import INPUT_NAME, InputInfo
from matseg_trainer.export.index import GraphIndex, constant, layer_name, prune
from matseg_trainer.export.plan import Plan, is_decision, is_inner, make_plan, mask_of, moves_codes
from matseg_trainer.export.ranges import Code, Samples
from matseg_trainer.export.upsample import Upsampling, upsampling_factor

if TYPE_CHECKING:
    import onnx

_LARGEST_BIAS = 1 << 30


def quantise(
    model: onnx.ModelProto, samples: Samples, info: InputInfo, *, keep: frozenset[str], weight_levels: int
) -> tuple[onnx.ModelProto, Plan]:
    """The int8 graph of an fp32 graph.

    Args:
        model: as `to_onnx` makes it, its transposed convolutions rewritten.
        samples: values of `computed_tensors` on calibration crops.
        info: the model's input.
        keep: names of layers that stay in fp32.
        weight_levels: weights become integers from -weight_levels to weight_levels.

    Returns:
        The graph and what was decided for its tensors.
    """
    import onnx

    index = GraphIndex.of(model)
    plan = make_plan(index, samples, info, keep=keep)
    writer = _Writer(index, plan, weight_levels)
    for node in index.nodes:
        writer.write(node)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(writer.nodes)
    result.graph.initializer.extend(writer.constants.values())
    prune(result)
    return result, plan


class _Writer:
    """Writes one node after the other; tensors in uint8 are named after the float tensors they stand for."""

    def __init__(self, index: GraphIndex, plan: Plan, weight_levels: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._index, self._plan, self._weight_levels = index, plan, weight_levels
        self._float_copies = 0

    def write(self, node: onnx.NodeProto) -> None:
        """Write what stands for one node of the fp32 graph."""
        if self._plan.raw is not None and node.output[0] == self._plan.raw:
            return  # the raw pixels are its codes
        if self._rectifies_codes(node):
            self._write_rectifier(node)
            return
        if node.op_type == "Conv" and self._is_integer(node):
            self._write_layer(node)
        elif self._on_codes(node):
            self._write_move(node)
        else:
            self._write_float(node)

    def _is_integer(self, node: onnx.NodeProto) -> bool:
        return node.input[0] in self._plan.codes and (
            node.input[1] in self._index.constants and layer_name(node) in self._plan.int8_layers
        )

    def _on_codes(self, node: onnx.NodeProto) -> bool:
        """Whether a node works on uint8 codes just as on the values they stand for."""
        codes = self._plan.codes
        inputs = [name for name in node.input if name in self._index.floats]
        if not inputs or any(name not in codes for name in inputs if name not in self._masks(node)):
            return False
        shared = {codes[name] for name in inputs if name in codes}
        if len(shared) != 1:
            return False
        if moves_codes(node, self._index):
            return codes.get(node.output[0]) in shared
        return node.op_type in ("Equal", "Shape") or is_decision(node, self._index)

    def _rectifies_codes(self, node: onnx.NodeProto) -> bool:
        """Whether a rectifier must cut off codes: where zero is code 0, the quantisation itself does that."""
        code = self._plan.codes.get(node.output[0])
        return (
            node.op_type == "Relu"
            and code is not None
            and code.zero_point > 0
            and is_inner(node.input[0], self._index)
        )

    def _write_rectifier(self, node: onnx.NodeProto) -> None:
        """Quantise first, then cut off: a layer that is followed by its quantisation runs in int8."""
        from onnx import helper

        code = self._plan.codes[node.output[0]]
        signed = f"{node.output[0]}_signed_uint8"
        zero = self._zero_point(code)
        self._add(helper.make_node("QuantizeLinear", [node.input[0], self._scale(code), zero], [signed]))
        self._add(helper.make_node("Clip", [signed, zero], [self._code(node.output[0])]))

    def _masks(self, node: onnx.NodeProto) -> frozenset[str]:
        found = mask_of(node, self._index) if node.op_type == "Mul" else None
        return frozenset(node.input) - {found[0]} if found else frozenset()

    def _write_move(self, node: onnx.NodeProto) -> None:
        import onnx

        found = mask_of(node, self._index) if node.op_type == "Mul" else None
        if found is not None:
            self._write_masked(*found, node.output[0])
            return
        factor = upsampling_factor(node, self._index)
        if factor is not None:
            self._write_upsampling(node, factor)
            return
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        moved.input[:] = [self._code(name) if name in self._index.floats else name for name in node.input]
        moved.output[:] = [self._code(name) for name in node.output]
        if node.op_type == "Greater":  # than zero
            moved.input[1] = self._zero_point(self._plan.codes[node.input[0]])
        self._add(moved)

    def _write_masked(self, value: str, mask: str, name: str) -> None:
        """Values where a mask is true, zeros elsewhere: a product of codes.

        onnxruntime's Where takes fifteen times as long, on one thread. The mask's scale is 1, so no code changes.
        """
        import onnx
        from onnx import helper

        ones = f"{name}_mask_uint8"
        factors = [f"{name}_value", f"{name}_mask"]
        code = self._plan.codes[value]
        scale, zero = self._scale(code), self._zero_point(code)
        one, none = self._scale(Code(1.0, 0)), self._zero_point(Code(1.0, 0))
        self._add(helper.make_node("Cast", [mask], [ones], to=onnx.TensorProto.UINT8))
        self._add(helper.make_node("DequantizeLinear", [self._code(value), scale, zero], factors[:1]))
        self._add(helper.make_node("DequantizeLinear", [ones, one, none], factors[1:]))
        self._add(helper.make_node("Mul", factors, [f"{name}_product"]))
        self._add(helper.make_node("QuantizeLinear", [f"{name}_product", scale, zero], [self._code(name)]))

    def _write_upsampling(self, node: onnx.NodeProto, factor: int) -> None:
        zero = self._zero_point(self._plan.codes[node.input[0]])
        upsampling = Upsampling(name=self._code(node.output[0]), factor=factor, zero_point=zero)
        upsampling.write(self._code(node.input[0]))
        self.nodes.extend(upsampling.nodes)
        self.constants.update({item.name: item for item in upsampling.constants})

    def _write_layer(self, node: onnx.NodeProto) -> None:
        import onnx

        code = self._plan.codes[node.input[0]]
        weight = self._index.constants[node.input[1]].astype(np.float64)
        bias = (
            self._index.constants[node.input[2]].astype(np.float64)
            if len(node.input) > 2
            else np.zeros(len(weight))
        )
        if self._reads_raw(node.input[0]):
            bias = bias + self._plan.shift * weight.sum(axis=(1, 2, 3))
        scales = self._weight_scales(weight, bias, code)
        levels = np.rint(weight / scales[:, None, None, None]).clip(-self._weight_levels, self._weight_levels)
        layer = onnx.NodeProto()
        layer.CopyFrom(node)
        bias_scales = (code.scale * scales).astype(np.float32)
        layer.input[:] = [
            self._dequantised(node.input[0]),
            self._constant_layer(f"{node.input[1]}_int8", levels.astype(np.int8), scales),
            self._constant_layer(
                f"{node.output[0]}_bias_int32", np.rint(bias / bias_scales).astype(np.int32), bias_scales
            ),
        ]
        self._emit(layer)

    def _reads_raw(self, name: str) -> bool:
        raw = self._plan.raw
        while name != raw:
            node = self._index.producer.get(name)
            if raw is None or node is None or not moves_codes(node, self._index):
                return False
            name = node.input[0]
        return True

    def _weight_scales(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64], code: Code
    ) -> NDArray[np.float32]:
        """One scale per output channel; never so small that the bias leaves the int32 range."""
        largest = np.abs(weight).max(axis=(1, 2, 3)) / self._weight_levels
        smallest = np.abs(bias) / (code.scale * _LARGEST_BIAS)
        scales = np.maximum(np.maximum(largest, smallest), np.finfo(np.float32).tiny * 1e6)
        rounded: NDArray[np.float32] = scales.astype(np.float32)
        return rounded

    def _constant_layer(self, name: str, levels: NDArray[Any], scales: NDArray[np.float32]) -> str:
        """A dequantised constant with a scale per output channel; returns its name."""
        from onnx import helper

        for suffix, value in (
            ("", levels),
            ("_scale", scales),
            ("_zero", np.zeros(len(scales), levels.dtype)),
        ):
            self.constants[name + suffix] = constant(name + suffix, value)
        self._add(
            helper.make_node(
                "DequantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_float"], axis=0
            )
        )
        return f"{name}_float"

    def _write_float(self, node: onnx.NodeProto) -> None:
        import onnx

        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.input[:] = [
            self._dequantised(name) if name in self._plan.codes else name for name in node.input
        ]
        self._emit(plain)

    def _emit(self, node: onnx.NodeProto) -> None:
        """Add a computing node, and the quantisation of its result where that is kept in uint8."""
        from onnx import helper

        name = node.output[0]
        self._add(node)
        code = self._plan.codes.get(name)
        if code is not None and not is_inner(name, self._index):
            scale, zero = self._scale(code), self._zero_point(code)
            self._add(helper.make_node("QuantizeLinear", [name, scale, zero], [self._code(name)]))

    def _dequantised(self, name: str) -> str:
        """A float copy of a tensor in uint8, one for each reader: optimisers look for such pairs."""
        from onnx import helper

        if is_inner(name, self._index):
            return name
        code = self._plan.codes[name]
        self._float_copies += 1
        made = f"{name}_float{self._float_copies}"
        inputs = [self._code(name), self._scale(code), self._zero_point(code)]
        self._add(helper.make_node("DequantizeLinear", inputs, [made]))
        return made

    def _code(self, name: str) -> str:
        if name == self._plan.raw:
            return INPUT_NAME
        return f"{name}_uint8" if name in self._plan.codes else name

    def _scale(self, code: Code) -> str:
        name = f"scale_{np.float32(code.scale).view(np.uint32):08x}"
        self.constants.setdefault(name, constant(name, np.asarray(code.scale, np.float32)))
        return name

    def _zero_point(self, code: Code) -> str:
        name = f"zero_point_{code.zero_point}"
        self.constants.setdefault(name, constant(name, np.asarray(code.zero_point, np.uint8)))
        return name

    def _add(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)
