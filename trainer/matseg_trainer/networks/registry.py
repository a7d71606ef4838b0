"""The three networks of the user guide and one for fast deployment, each one module for training and export alike."""

from __future__ import annotations

from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.patchunet import PatchUNet
from matseg_trainer.networks.pixelnet import PixelNet
from matseg_trainer.networks.segnet import SegNet
from matseg_trainer.networks.unet import UNet

DEFAULT_WIDTH = 64
"""Channels of the first level in all three papers."""
NETWORKS: dict[str, type[SegmentationNetwork]] = {
    "unet": UNet,
    "segnet": SegNet,
    "pixelnet": PixelNet,
    "patchunet": PatchUNet,
}


def build_network(
    name: str, *, in_channels: int, n_class: int, width: int | None = None
) -> SegmentationNetwork:
    """A network with fresh random weights; all widths scale with that of the first level (None: the paper's 64)."""
    return NETWORKS[name](in_channels=in_channels, n_class=n_class, width=width or DEFAULT_WIDTH)
