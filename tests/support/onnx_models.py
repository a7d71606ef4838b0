"""Small ONNX models that keep the whole contract, made without torch: raw pixels in, labels out, metadata inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from matseg_shared.contract.metadata import (
    ClassInfo,
    ExportInfo,
    Histogram,
    InputInfo,
    ModelMetadata,
    ParityInfo,
    TilingInfo,
    TrainingInfo,
)
from matseg_shared.contract.onnx_properties import SelfTest, encode

ELEMENT_TYPES = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "float32": TensorProto.FLOAT}
STRIDE = 4
HALO = 16
"""Halo of `_Graph.network`: convolutions 1 + 2 + 4 + 2 + 1 pixels, the pooling grid 3; then up to the stride."""
BRIGHTEST = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


@dataclass(kw_only=True)
class _Graph:
    """A U-Net of three levels with seeded random weights, written node by node."""

    channels: int
    n_class: int
    width: int
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def gaussian(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:]))
        return self.constant((self.random.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32))

    def convolve(self, value: str, before: int, after: int) -> str:
        return self.add(
            "Relu", [self.add("Conv", [value, self.gaussian(after, before, 3, 3)], pads=[1, 1, 1, 1])]
        )

    def pool(self, value: str) -> str:
        return self.add("MaxPool", [value], kernel_shape=[2, 2], strides=[2, 2])

    def upsample(self, value: str, before: int, after: int) -> str:
        return self.add("ConvTranspose", [value, self.gaussian(before, after, 2, 2)], strides=[2, 2])

    def network(self, image: str, mean: float, std: float) -> str:
        """Logits of (N, C, H, W) raw pixels."""
        width = self.width
        value = self.add("Cast", [image], to=TensorProto.FLOAT)
        value = self.add("Sub", [value, self.constant(np.float32(mean))])
        value = self.add("Div", [value, self.constant(np.float32(std))])
        fine = self.convolve(value, self.channels, width)
        middle = self.convolve(self.pool(fine), width, width)
        coarse = self.convolve(self.pool(middle), width, width)
        value = self.add("Concat", [middle, self.upsample(coarse, width, width)], axis=1)
        value = self.convolve(value, 2 * width, width)
        value = self.add("Concat", [fine, self.upsample(value, width, width)], axis=1)
        value = self.convolve(value, 2 * width, width)
        return self.add("Conv", [value, self.gaussian(self.n_class, width, 1, 1)])

    def outputs(self, logits: str) -> None:
        self.nodes.append(helper.make_node("Softmax", [logits], ["probabilities"], axis=1))
        best = self.add("ArgMax", ["probabilities"], axis=1, keepdims=0)
        self.nodes.append(helper.make_node("Cast", [best], ["labels"], to=TensorProto.UINT8))


def build_graph(
    *, channels: int = 1, dtype: str = "uint8", n_class: int = 3, width: int = 4, seed: int = 0
) -> onnx.ModelProto:
    """A model file's graph without metadata."""
    graph = _Graph(channels=channels, n_class=n_class, width=width, seed=seed)
    graph.outputs(graph.network("image", BRIGHTEST[dtype] / 2, BRIGHTEST[dtype] / 4))
    image = helper.make_tensor_value_info("image", ELEMENT_TYPES[dtype], ["n", channels, "h", "w"])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", "h", "w"])
    chances = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", n_class, "h", "w"])
    proto = helper.make_graph(graph.nodes, "matseg", [image], [labels, chances], graph.weights)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def build_metadata(
    *,
    channels: int = 1,
    dtype: str = "uint8",
    n_class: int = 3,
    precision: str = "fp32",
    name: str = "alloy_v1",
    context: int = 0,
) -> ModelMetadata:
    """The document that belongs to `build_graph`."""
    dataset, _, version = name.rpartition("_")
    colours = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115))
    return ModelMetadata(
        name=name,
        classes=tuple(
            ClassInfo(index=i, name=f"phase {i}", colour=colours[i], label_value=i) for i in range(n_class)
        ),
        input=InputInfo(
            channels=channels,
            context=context,
            dtype=dtype,
            mean=(BRIGHTEST[dtype] / 2,) * channels,
            std=(BRIGHTEST[dtype] / 4,) * channels,
            histogram=Histogram(low=0, high=BRIGHTEST[dtype], counts=(1,) * 16),
        ),
        tiling=TilingInfo(stride=STRIDE, halo=HALO),
        training=TrainingInfo(
            dataset=dataset,
            version=version,
            network="unet",
            config={},
            epoch=1,
            metrics={},
            fingerprint="0" * 64,
            seed=0,
            packages={},
        ),
        export=ExportInfo(
            precision=precision,
            opset=17,
            parity=ParityInfo(
                cases=1, pixels=1, max_probability_difference=0, label_mismatches=0, label_ties=0
            ),
            packages={},
        ),
    )


def random_pixels(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Smooth random raw pixels over the whole range of a dtype."""
    random = np.random.default_rng(seed)
    values = random.random(shape)
    for axis in (-1, -2):
        values = (values + np.roll(values, 1, axis) + np.roll(values, 2, axis)) / 3
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    return (values * BRIGHTEST[dtype]).astype(dtype)


def run_graph(graph: onnx.ModelProto, image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(labels, probabilities) of a batch, straight from onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(["labels", "probabilities"], {"image": image})
    return labels, probabilities


def self_test_of(graph: onnx.ModelProto, channels: int, dtype: str) -> SelfTest:
    """Document that export would have embedded."""
    image = random_pixels((1, channels, 32, 32), dtype, seed=7)
    labels, probabilities = run_graph(graph, image)
    ordered = np.sort(probabilities, axis=1)
    return SelfTest(image=image, labels=labels, margin=ordered[:, -1] - ordered[:, -2])


def save(graph: onnx.ModelProto, properties: Mapping[str, str], path: Path) -> Path:
    """Write a model file with these `metadata_props`."""
    helper.set_model_props(graph, dict(properties))
    path.write_bytes(graph.SerializeToString())
    return path


def save_model(
    path: Path,
    *,
    channels: int = 1,
    dtype: str = "uint8",
    n_class: int = 3,
    width: int = 4,
    seed: int = 0,
    precision: str = "fp32",
    name: str = "alloy_v1",
    context: int = 0,
) -> Path:
    """Write a whole model file."""
    graph = build_graph(channels=channels, dtype=dtype, n_class=n_class, width=width, seed=seed)
    metadata = build_metadata(
        channels=channels, dtype=dtype, n_class=n_class, precision=precision, name=name, context=context
    )
    return save(graph, encode(metadata, self_test_of(graph, channels, dtype)), path)
