"""Options that several commands of the runtime take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from matseg_runtime.cli.completion import complete_model
from matseg_runtime.inference.providers import PROVIDER_CHOICES
from matseg_shared.console.options import Choice, gathered

if TYPE_CHECKING:
    from matseg_runtime.source.base import SourceOptions

model_argument = click.argument("model", type=click.Path(path_type=Path), shell_complete=complete_model)
trust_options = cloup.option_group(
    "Trust",
    click.option(
        "--sha256",
        metavar="HEX|FILE",
        help="Load MODEL only if it has this SHA-256, or one on this list (as sha256sum writes it).",
    ),
    click.option(
        "--trusted-key",
        "trusted_keys",
        type=click.Path(path_type=Path),
        metavar="PEM",
        multiple=True,
        help="Load MODEL only if MODEL.sig is a signature by this public key (extra sign); of several, by any.",
    ),
)
provider_option = click.option(
    "--provider",
    type=Choice(PROVIDER_CHOICES),
    default="auto",
    show_default=True,
    help="Where the network runs; anything but auto is taken at its word or refused.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Default: all cores this process may use."
)


def _range(text: str) -> tuple[int | None, int | None]:
    from matseg_runtime.run.options import parse_range

    return parse_range(text)


source_options = (
    click.option(
        "--axis", type=click.IntRange(0, 2), help="Axis of a volume to cut slices along. Default: the first."
    ),
    click.option(
        "--range",
        "slices",
        type=_range,
        metavar="START:STOP",
        help="Only these slices of a volume, from 0.",
    ),
    click.option("--level", type=click.IntRange(min=0), help="Resolution level of an OME-Zarr. Default: 0."),
    click.option(
        "--fill-missing-chunks", is_flag=True, help="Take what a zarr or HDF5 lacks for its fill value."
    ),
    click.option(
        "--follow-links",
        is_flag=True,
        help="HDF5: take values from linked files in other folders, too; else only from those beside or below.",
    ),
)
"""How an input is read, for the group `Input`; a command with these gets them by `with_source`."""


def _source_options() -> type[SourceOptions]:
    from matseg_runtime.source.base import SourceOptions

    return SourceOptions


with_source = gathered("source", _source_options)
