"""`matseg-sign`: somebody stands behind a model file."""

from __future__ import annotations

from pathlib import Path

import click

from matseg_runtime.cli.options import model_argument
from matseg_shared.console.command import debug_option, json_option, print_json
from matseg_shared.console.help import Command, examples


@click.command(
    name="matseg-sign",
    cls=Command,
    examples=examples("""
        matseg-sign steel.onnx --key group.key  # write steel.onnx.sig
        matseg-sign zoo:tomography --key group.key  # a model of the zoo, by a key of one's own
    """),
)
@model_argument
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PEM",
    help="Private key on P-256, P-384 or P-521; its password is asked for if it has one.",
)
@json_option
@debug_option
def sign_main(model: Path, key: Path, as_json: bool) -> None:
    """Sign MODEL (a file, or zoo:NAME) with a private key: writes MODEL.sig beside it (extra sign).

    The signature is in the format of Model Signing 1.0. Keys are made with openssl; see docs/security.md.
    """
    from matseg_runtime.model.signature import is_encrypted
    from matseg_runtime.model.signing import sign_model
    from matseg_runtime.model.zoo import locate

    password = None
    if is_encrypted(key):
        password = click.prompt(f"Password of {key}", hide_input=True, err=True)
    signed = sign_model(locate(model), key, password)
    if as_json:
        print_json({"model": signed.model, "sha256": signed.sha256, "signature": signed.path})
        return
    click.echo(f"{signed.path}: {signed.model} (SHA-256 {signed.sha256}) is signed")
