"""Options that several commands of the runtime take."""

from __future__ import annotations

import click

from matseg_runtime.cli.completion import complete_model
from matseg_runtime.inference.providers import PROVIDER_CHOICES
from matseg_shared.console.options import COUNT, PATH, Choice, flag, gathered, parsed

model_argument = click.argument("model", type=PATH, shell_complete=complete_model)
sha256_option = click.option(
    "--sha256",
    metavar="HEX|FILE",
    help="Load MODEL only if it has this SHA-256, or one on this list (as sha256sum writes it).",
)
provider_option = click.option(
    "--provider",
    type=Choice(PROVIDER_CHOICES),
    default="auto",
    show_default=True,
    help="Where the network runs: auto takes the fastest that works, the others are refused where they cannot be had.",
)
device_option = click.option(
    "--device",
    "devices",
    type=parsed("matseg_runtime.inference.providers:Devices.parse"),
    metavar="cpu|cuda:N,...",
    help="Run the network on this device, and on no other should it be missing; cuda:0,cuda:1 share the work. Default: "
    "the first of the provider.",
)
threads_option = click.option(
    "--threads", type=COUNT, metavar="N", help="Default: all cores this process may use."
)
source_options = (
    click.option(
        "--axis", type=Choice([0, 1, 2]), help="Axis of a volume to cut slices along. Default: the first."
    ),
    click.option(
        "--range",
        "slices",
        type=parsed("matseg_runtime.run.options:parse_range"),
        metavar="START:STOP",
        help="Only these slices of a volume, from 0.",
    ),
    click.option(
        "--level", type=click.IntRange(0), metavar="N", help="Resolution level of an OME-Zarr. Default: 0."
    ),
    flag(
        "--fill-missing-chunks",
        "Read chunks that a zarr or HDF5 lacks as its fill value instead of refusing it.",
    ),
    flag(
        "--follow-links",
        "HDF5 and headers: read files in other folders, too. Default: only those beside or below the input.",
    ),
    click.option(
        "--raw",
        type=parsed("matseg_runtime.source.formats.raw:parse_raw"),
        metavar="SHAPE,DTYPE[,ORDER]",
        help="INPUT is plain pixels: 512x1024x1024,uint16 (slices, rows, columns); ORDER: big for big-endian.",
    ),
    click.option(
        "--axes",
        type=parsed("matseg_runtime.source.layout:parse_axes"),
        metavar="LETTERS",
        help="What each axis of a volume is, for files that do not say: zcyx, yxc. c: channels, t: times, one of them.",
    ),
)
"""Options on how an input is read, for the group `Input`; a command with these gets them by `with_source`."""
with_source = gathered("source", "matseg_runtime.source.base:SourceOptions")
