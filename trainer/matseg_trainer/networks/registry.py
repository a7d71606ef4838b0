"""All networks by name: the three of the user guide, and ours; each is one module for training and export alike."""

from __future__ import annotations

from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.effunet import EffUNet
from matseg_trainer.networks.patchunet import PatchUNet
from matseg_trainer.networks.pixelnet import PixelNet
from matseg_trainer.networks.segnet import SegNet
from matseg_trainer.networks.unet import UNet, VGGUNet

NETWORKS: dict[str, type[SegmentationNetwork]] = {
    "unet": UNet,
    "segnet": SegNet,
    "pixelnet": PixelNet,
    "patchunet": PatchUNet,
    "effunet": EffUNet,
    "vggunet": VGGUNet,
}


def build_network(
    name: str,
    *,
    in_channels: int,
    n_class: int,
    width: int | None = None,
    encoder: str | None = None,
    scale: int = 1,
) -> SegmentationNetwork:
    """A network with fresh random weights.

    Args:
        name: key of `NETWORKS`.
        in_channels: of the images.
        n_class: classes.
        width: channels of the first level, with which all others scale, but for a given encoder; None: its usual one.
        encoder: of an `effunet`: its variant; None: the smallest.
        scale: pixels along the edge of those squares whose means it works on; see `SegmentationNetwork.work_at`.
    """
    kind = NETWORKS[name]
    given = {} if encoder is None else {"encoder": encoder}
    network = kind(in_channels=in_channels, n_class=n_class, width=width or kind.default_width, **given)
    if scale > 1:
        network.work_at(scale)
    return network
