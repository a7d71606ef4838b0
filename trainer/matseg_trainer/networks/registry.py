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
    """A network with fresh random weights.

    Args:
        name: one of `NETWORKS`.
        in_channels: 1 or 3.
        n_class: number of classes, at least 2.
        width: channels of the first level; None: the paper's 64. All other widths scale with it.
    """
    return NETWORKS[name](in_channels=in_channels, n_class=n_class, width=width or DEFAULT_WIDTH)
