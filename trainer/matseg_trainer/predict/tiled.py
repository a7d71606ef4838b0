"""Dense predictions with a torch network, in tiles whose memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matseg_shared.contract.metadata import InputInfo
from matseg_shared.contract.tiling import pad_to_stride, plan_tiles, smallest_tile
from matseg_shared.images.read import PixelArray
from matseg_trainer.networks.base import SegmentationNetwork, decide, normalise
from matseg_trainer.networks.halo import measure_halo

TILE_BYTES = 3 << 30
"""Memory that the largest activations of one tile may take, about."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TorchPredictor:
    """A network with its normalisation: raw pixels in, labels and probabilities out."""

    network: SegmentationNetwork
    input: InputInfo
    device: torch.device
    halo: int
    """Pixels; see `measure_halo`."""

    @classmethod
    def of(cls, network: SegmentationNetwork, input_info: InputInfo, device: torch.device) -> TorchPredictor:
        """With the halo of this network measured."""
        halo = measure_halo(network, input_info.channels)
        return cls(network=network, input=input_info, device=device, halo=halo)

    @property
    def tile(self) -> int:
        """Edge of the largest square tile that the memory bound allows, in pixels."""
        edge = int((TILE_BYTES / (4 * self.network.peak_channels)) ** 0.5)
        return max(
            edge // self.network.stride * self.network.stride, smallest_tile(self.halo, self.network.stride)
        )

    def tiles(self, pixels: PixelArray) -> Iterator[tuple[tuple[slice, slice], NDArray[np.float32]]]:
        """Dense logits of an image in parts, the same as untiled.

        Args:
            pixels: (C, H, W) raw, in the data's own dtype.

        Yields:
            The rows and columns of a part, and its (K, h, w) logits.
        """
        stride = self.network.stride
        shape = (pixels.shape[1], pixels.shape[2])
        padded = np.moveaxis(pad_to_stride(np.moveaxis(pixels, 0, -1), stride), -1, 0)
        for tile in plan_tiles(shape, (self.tile, self.tile), halo=self.halo, stride=stride):
            window = np.require(padded[(slice(None), *tile.read.slices())], requirements=("C", "W"))
            part = self._run(window)[(slice(None), *tile.write.relative_to(tile.read).slices())]
            yield tile.write.slices(), part

    def logits(self, pixels: PixelArray) -> NDArray[np.float32]:
        """(C, H, W) raw pixels to (K, H, W) dense logits; see `tiles`."""
        result: NDArray[np.float32] | None = None
        for place, part in self.tiles(pixels):
            if result is None:
                result = np.empty((part.shape[0], *pixels.shape[1:]), dtype=np.float32)
            result[(slice(None), *place)] = part
        assert result is not None
        return result

    def predict(self, pixels: PixelArray) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(C, H, W) raw pixels to (H, W) labels and (K, H, W) probabilities."""
        logits = torch.from_numpy(self.logits(pixels))
        labels: NDArray[np.uint8] = decide(logits.unsqueeze(0))[0].to(torch.uint8).numpy()
        probabilities: NDArray[np.float32] = torch.softmax(logits, dim=0).numpy()
        return labels, probabilities

    @torch.inference_mode()
    def _run(self, window: NDArray[Any]) -> NDArray[np.float32]:
        images = torch.from_numpy(window[np.newaxis]).to(self.device)
        logits = self.network(normalise(images, self.input.mean, self.input.std))
        array: NDArray[np.float32] = logits[0].float().cpu().numpy()
        return array
