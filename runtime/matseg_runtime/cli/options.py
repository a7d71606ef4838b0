"""The options of all commands that load a model: which model it must be, and who must have signed it."""

from __future__ import annotations

from pathlib import Path

import click

from matseg_shared.console.help import option_group

trust_options = option_group(
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
