"""Find the layers that lose most in int8, and leave in fp32 as few of them as the gate demands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import AccuracyInfo, InputInfo
from matseg_shared.errors import ExportError
from matseg_trainer.export.gate import LARGEST_LOSS, AccuracyCheck, passes
from matseg_trainer.export.graph import Graph
from matseg_trainer.export.index import LAYERS, GraphIndex, layer_name
from matseg_trainer.export.plan import Plan, computed_tensors, layers_of
from matseg_trainer.export.quantise import quantise
from matseg_trainer.export.ranges import Samples, sample_tensors

if TYPE_CHECKING:
    import onnx

WEIGHT_LEVELS = 63
"""Of 7 bits: the sum of two products with a uint8 code fits 16 bits, where x86 processors without VNNI add them."""
MOST_TRIALS = 32
"""Layers whose effect is measured one by one: those with the largest rounding errors."""
MOST_KEPT = 8
"""With more layers in fp32 than these, int8 is not worth its name."""
_PROBES = 4
"""Calibration crops on which a layer's effect is measured."""
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantised:
    """An int8 graph that passed the gate."""

    model: onnx.ModelProto
    accuracy: AccuracyInfo
    fp32_layers: tuple[str, ...]
    ranges: str
    """SHA-256 (hex) over the codes of all activations."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantiser:
    """Everything that is the same for every trial."""

    model: onnx.ModelProto
    """The fp32 graph, its transposed convolutions rewritten."""
    info: InputInfo
    crops: Sequence[NDArray[Any]]
    samples: Samples
    gate: AccuracyCheck
    finish: Callable[[onnx.ModelProto], bytes]
    """Adds metadata and self-test: the content of a model file."""

    @classmethod
    def of(
        cls,
        model: onnx.ModelProto,
        info: InputInfo,
        crops: Sequence[NDArray[Any]],
        gate: AccuracyCheck,
        finish: Callable[[onnx.ModelProto], bytes],
    ) -> Quantiser:
        """With the ranges of all activations sampled."""
        tensors = computed_tensors(GraphIndex.of(model))
        samples = sample_tensors(model, tensors, crops, progress=gate.progress)
        return cls(model=model, info=info, crops=crops, samples=samples, gate=gate, finish=finish)

    def run(self) -> Quantised:
        """Quantise all layers; while that fails the gate, give those back to fp32 that bring most back.

        Raises:
            ExportError: the gate is not passed with `MOST_KEPT` layers in fp32; names the costliest.
        """
        result, accuracy = self._attempt(())
        if result is not None:
            return result
        gains = self._gains()
        ranked = sorted(gains, key=lambda name: -gains[name])
        for count in range(1, min(MOST_KEPT, len(ranked)) + 1):
            result, accuracy = self._attempt(tuple(ranked[:count]))
            if result is not None:
                return result
        blamed = ", ".join(f"{name} ({gains[name]:.1e})" for name in ranked[:_NAMED])
        raise ExportError(
            f"int8 loses too much: mean IoU {accuracy.mean_iou:.4f} on {accuracy.images} images of {accuracy.split} "
            f"against {accuracy.mean_iou_fp32:.4f} in fp32 (at most {LARGEST_LOSS} is allowed), even with "
            f"{min(MOST_KEPT, len(ranked))} layers left in fp32; layers to blame, with the error in the probabilities "
            f"that each one brings in: {blamed}; export in fp32, or train a wider network; nothing was written"
        )

    def _quantise(self, keep: Sequence[str]) -> tuple[onnx.ModelProto, Plan]:
        return quantise(
            self.model, self.samples, self.info, keep=frozenset(keep), weight_levels=WEIGHT_LEVELS
        )

    def _attempt(self, keep: tuple[str, ...]) -> tuple[Quantised | None, AccuracyInfo]:
        model, plan = self._quantise(keep)
        accuracy = self.gate.measure(self.finish(model))
        if not passes(accuracy):
            return None, accuracy
        done = Quantised(model=model, accuracy=accuracy, fp32_layers=keep, ranges=digest(plan))
        return done, accuracy

    def _gains(self) -> Mapping[str, float]:
        """By how much each layer, left in fp32 alone, lessens the mean error of the probabilities."""
        probes = self.crops[:_PROBES]
        expected = [Graph(self.model.SerializeToString())(crop)[1] for crop in probes]

        def error(keep: Sequence[str]) -> float:
            graph = Graph(self._quantise(keep)[0].SerializeToString())
            return float(
                np.mean([np.abs(graph(crop)[1] - p).mean() for crop, p in zip(probes, expected, strict=True)])
            )

        everything = error(())
        candidates = self._candidates()
        self.gate.progress.stage("leaving layers in fp32", len(candidates), unit="layers")
        gains = {}
        for name in candidates:
            gains[name] = everything - error((name,))
            self.gate.progress.advance()
        return gains

    def _candidates(self) -> list[str]:
        """The layers whose own rounding, of weights and of results, loses most of the signal."""
        index = GraphIndex.of(self.model)
        _, plan = self._quantise(())
        loss: dict[str, float] = dict.fromkeys(layers_of(index), 0.0)
        for node in index.nodes:
            if node.op_type not in LAYERS or layer_name(node) not in loss:
                continue
            followers = [node.output[0], *(item.output[0] for item in index.readers(node.output[0]))]
            for name in followers:
                if name in plan.codes and name in self.samples:
                    values = self.samples[name]
                    noise = float(np.square(plan.codes[name].rounded(values) - values).mean())
                    share = noise / max(float(values.var()), 1e-12)
                    loss[layer_name(node)] = max(loss[layer_name(node)], share)
        return sorted(loss, key=lambda name: -loss[name])[:MOST_TRIALS]


def digest(plan: Plan) -> str:
    """SHA-256 (hex) over the name, scale and zero point of every activation in uint8."""
    listing = [[name, code.scale, code.zero_point] for name, code in sorted(plan.codes.items())]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
