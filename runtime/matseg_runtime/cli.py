"""The command `matseg-run`; `matseg-inspect` and `matseg-verify` stand in `model_cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from matseg_runtime.model_cli import inspect_main, verify_main
from matseg_shared.command import debug_option

if TYPE_CHECKING:
    from matseg_runtime.providers import ProviderChoice
    from matseg_runtime.report import Summary

__all__ = ["inspect_main", "run_main", "verify_main"]

PROVIDERS = click.Choice(["auto", "cpu", "cuda", "tensorrt", "openvino"])
# the same words as matseg_runtime.providers.PROVIDER_CHOICES, here because --help must not load that


@click.command(name="matseg-run")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("input_", metavar="INPUT")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: <INPUT>_predictions/<dataset>_<version> beside the input.",
)
@click.option(
    "--provider",
    type=PROVIDERS,
    default="auto",
    show_default=True,
    help="Where the network runs; anything but auto is taken at its word or refused.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Default: all cores this process may use.",
)
@click.option(
    "--tile", type=click.IntRange(min=1), help="Edge of the largest tile in pixels. Default: whole slices."
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Tiles per call of the network."
)
@click.option(
    "--window",
    metavar="LO,HI",
    help="Intensities that become the model's darkest and brightest, for inputs of another dtype or range.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier results instead of going on with them.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@debug_option
def run_main(
    model: Path,
    input_: str,
    output: Path | None,
    provider: ProviderChoice,
    threads: int | None,
    tile: int | None,
    batch: int,
    window: str | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Label every slice of INPUT with MODEL, an ONNX file that matseg-export wrote.

    INPUT is a folder of images. Run again after an interruption, the same command goes on where it stopped.

    \b
    Exit codes:
      0  done
      2  wrong use, or an input that does not fit the model; nothing was written
      3  this machine or installation cannot do it
      4  done, but some inputs were set aside; each is named with the reason
      1  anything else, such as a full disk
    """
    from matseg_runtime.intake import Window
    from matseg_runtime.job import RunOptions, run_job
    from matseg_runtime.progress import slice_progress

    options = RunOptions(
        model=model,
        input=input_,
        output=output,
        provider=provider,
        threads=threads,
        tile=tile,
        batch=batch,
        window=None if window is None else Window.parse(window),
        overwrite=overwrite,
    )
    summary = run_job(options, lambda total: slice_progress("labelling", total, quiet=as_json))
    _print_summary(summary, as_json)
    return summary.exit_code


def _print_summary(summary: Summary, as_json: bool) -> None:
    import json

    from matseg_runtime.report import summary_lines

    if as_json:
        click.echo(json.dumps(summary.as_dict(), indent=1))
        return
    for line in summary_lines(summary):
        click.echo(line)
