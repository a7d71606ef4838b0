"""Halo of a network: the distance from a cut edge up to which its output is disturbed."""

from __future__ import annotations

import functools

import torch

from matseg_shared.contract.tiling import padded_length
from matseg_shared.errors import ExportError
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.registry import build_network


def measure_halo(network: SegmentationNetwork, channels: int) -> int:
    """Pixels next to a cut edge whose output depends on what lies beyond the edge.

    Found by dependency, not by size of effect: everything beyond a cut on the stride grid is set to NaN, which
    passes through every operator of the networks, and the affected outputs are counted, for all four sides.

    Returns:
        A multiple of the network's stride. It depends on the architecture alone, not on width or weights.
    """
    return _halo_of(type(network).__name__.lower(), network.variant, network.scale, channels)


@functools.cache
def _halo_of(name: str, variant: str | None, scale: int, channels: int) -> int:
    with torch.random.fork_rng(devices=[]):
        network = build_network(
            name, in_channels=channels, n_class=2, width=1, encoder=variant, scale=scale
        ).eval()
    reach = 256
    while True:
        halos = [_affected(network, channels, reach, axis, sign) for axis in (2, 3) for sign in (-1, 1)]
        if max(halos) < reach:
            return padded_length(max(halos), network.stride)
        reach *= 2
        if reach > 4096:
            raise ExportError(
                f"{name}: its output depends on pixels more than 4096 pixels away; it cannot be tiled"
            )


@torch.inference_mode()
def _affected(network: SegmentationNetwork, channels: int, reach: int, axis: int, sign: int) -> int:
    """Outputs on the kept side of a cut in the middle of a strip that NaNs beyond the cut reach, in pixels."""
    shape = [1, channels, network.stride, network.stride]
    shape[axis] = 2 * reach
    image = torch.zeros(shape)
    image.narrow(axis, reach if sign > 0 else 0, reach).fill_(float("nan"))
    output = network(image)
    lost = torch.isnan(output).flatten(0, 1).any(dim=0).any(dim=3 - axis)
    kept = lost[:reach] if sign > 0 else lost[reach:]
    return int(kept.sum())
