"""Does the graph do what the torch network does, and does nothing beyond the halo reach it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from matseg_shared.contract.metadata import ParityInfo
from matseg_shared.errors import ExportError
from matseg_trainer.export.graph import Graph
from matseg_trainer.predict.checkpoint import Checkpoint

MAX_PROBABILITY_DIFFERENCE = 1e-3
"""Largest difference between graph and torch network that fp32 rounding explains in networks this deep."""
TIE_MARGIN = 1e-4
"""Two best probabilities nearer than this are a tie, which rounding may decide either way."""


def parity_inputs(checkpoint: Checkpoint, stride: int) -> list[NDArray[Any]]:
    """Inputs of several sizes and batch sizes: noise, real pixels, and plateaus where max pooling meets ties."""
    info = checkpoint.input
    rng = np.random.default_rng(0)
    low, high = info.histogram.low, info.histogram.high

    def noise(batch: int, rows: int, columns: int, levels: int) -> NDArray[Any]:
        shape = (batch, info.channels, rows * stride, columns * stride)
        steps = rng.integers(0, levels, shape) / max(levels - 1, 1)
        return (low + steps * (high - low)).astype(info.dtype)

    plateaus = noise(2, 2, 2, 3).repeat(2, axis=2).repeat(2, axis=3)
    return [
        checkpoint.sample,
        np.concatenate([checkpoint.sample, checkpoint.sample[..., ::-1, :]]),
        noise(1, 1, 1, 256),
        noise(3, 2, 1, 256),
        noise(1, 5, 3, 256),
        noise(2, 2, 4, 2),
        plateaus,
        np.full((1, info.channels, 2 * stride, 3 * stride), low).astype(info.dtype),
    ]


def check_parity(deployed: nn.Module, graph: Graph, inputs: Sequence[NDArray[Any]]) -> ParityInfo:
    """Compare graph and torch network on every input.

    Args:
        deployed: (N, C, H, W) raw pixels to labels and probabilities, as `DeployedNetwork`.
        graph: what it was exported to.
        inputs: (N, C, H, W) each.

    Raises:
        ExportError: a probability or a label differs by more than rounding explains; says where.
    """
    worst, ties, pixels = 0.0, 0, 0
    for image in inputs:
        pixels_in = np.ascontiguousarray(image)
        with torch.inference_mode():
            expected_labels, expected = (output.numpy() for output in deployed(torch.from_numpy(pixels_in)))
        labels, probabilities = graph(pixels_in)
        difference = float(np.abs(probabilities - expected).max())
        differs = labels != expected_labels
        tied = top_margin(expected) < TIE_MARGIN
        mismatches = int((differs & ~tied).sum())
        if not difference <= MAX_PROBABILITY_DIFFERENCE or mismatches:
            raise ExportError(
                f"the exported graph differs from the torch network on an input of shape {image.shape}: "
                f"probabilities by {difference:.2e} (at most {MAX_PROBABILITY_DIFFERENCE:.0e} is rounding), "
                f"{mismatches} labels; nothing was written"
            )
        worst = max(worst, difference)
        ties += int((differs & tied).sum())
        pixels += labels.size
    return ParityInfo(
        cases=len(inputs),
        pixels=pixels,
        max_probability_difference=worst,
        label_mismatches=0,
        label_ties=ties,
    )


def top_margin(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Best minus second best: (N, K, H, W) probabilities to (N, H, W)."""
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def confirm_halo(graph: Graph, checkpoint: Checkpoint, stride: int, halo: int) -> None:
    """Disturb everything beyond a cut, on each side, and see that nothing changes further away than the halo.

    Raises:
        ExportError: something does.
    """
    info = checkpoint.input
    rng = np.random.default_rng(1)
    kept = halo + 2 * stride
    for axis in (2, 3):
        shape = [1, info.channels, 2 * stride, 2 * stride]
        shape[axis] = 2 * kept
        low, high = info.histogram.low, info.histogram.high
        image, other = (rng.uniform(low, high, shape).astype(info.dtype) for _ in range(2))
        before = graph(image)[1]
        for beyond, inside in (
            (slice(kept, None), slice(0, kept - halo)),
            (slice(0, kept), slice(kept + halo, None)),
        ):
            disturbed = image.copy()
            disturbed.swapaxes(2, axis)[:, :, beyond] = other.swapaxes(2, axis)[:, :, beyond]
            change = float(np.abs(graph(disturbed)[1] - before).swapaxes(2, axis)[:, :, inside].max())
            if change > MAX_PROBABILITY_DIFFERENCE / 10:
                raise ExportError(
                    f"pixels more than the measured halo of {halo} away changed a probability by {change:.2e}; "
                    "tiles would differ from the whole, so nothing was written"
                )
