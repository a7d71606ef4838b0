"""The command `matseg-quantify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from matseg_shared.console.command import EXIT_DONE, EXIT_EXCLUDED, debug_option, json_option, print_json
from matseg_shared.console.help import Choice, Command, Example, option_group
from matseg_shared.console.progress import shown_progress
from matseg_shared.system.names import printable

if TYPE_CHECKING:
    from matseg_runtime.measure.quantify import Quantified, QuantifyOptions

_EXAMPLES = (
    Example(
        "measure what matseg-run wrote; the tables go where its report is", "matseg-quantify labels.zarr"
    ),
    Example(
        "labels of another program, in micrometres, the mask 255 left out",
        "matseg-quantify masks/ --voxel-size 0.65um --ignore 255 --names pore,matrix",
    ),
    Example("regions that share a corner are two", "matseg-quantify labels.tif --connectivity 4 -o tables/"),
)

input_options = option_group(
    "Input",
    click.option(
        "--voxel-size",
        metavar="SIZE",
        help="Edge of a voxel, such as 0.65um, or Z,Y,X as 1.3,0.65,0.65um. Default: what the labels say.",
    ),
    click.option("--names", metavar="A,B,...", help="Names of the classes, by ascending value."),
    click.option(
        "--ignore", type=click.IntRange(min=0), metavar="VALUE", help="Pixels of this value have no class."
    ),
    click.option("--axis", type=click.IntRange(0, 2), help="Axis of a volume to cut slices along."),
    click.option("--range", "range_", metavar="START:STOP", help="Only these slices of a volume, from 0."),
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


@click.command(name="matseg-quantify", cls=Command, examples=_EXAMPLES)
@click.argument("labels")
@input_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the tables. Default: where matseg-run left its report, else <LABELS>_quantities beside them.",
)
@click.option(
    "--connectivity",
    type=Choice(["4", "8"]),
    default="8",
    show_default=True,
    help="Pixels belong together that share an edge (4), or a corner too (8).",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes. Default: as many as pay, one per core at most."
)
@json_option
@debug_option
def quantify_main(labels: str, output: Path | None, as_json: bool, **choices: Any) -> int:
    """Measure labelled phases: fractions, number and sizes of connected regions, specific surface.

    LABELS is what matseg-run wrote, or any other folder of label images, TIFF stack, zarr, HDF5 or .npy volume of
    whole numbers. Writes quantities.csv (slices and classes), region_sizes.csv (histograms) and quantities.json.

    \b
    Exit codes:
      0  done
      2  wrong use, or an input that is no labels; nothing was written
      3  scikit-image is not installed (extra quantify)
      4  done, but some slices were excluded; each is named with the reason
      1  anything else, such as a full disk
    """
    from matseg_runtime.measure.quantify import quantify

    options = _options(labels, output, choices)
    with shown_progress() as progress:
        result = quantify(options, progress)
    for line in _lines(result):
        click.echo(printable(line), err=as_json)
    if as_json:
        print_json(
            {
                **result.tables.summary(result.tables.total()),
                "output": str(result.folder),
                "excluded": [{"where": item.where, "reason": item.reason} for item in result.excluded],
            }
        )
    return EXIT_EXCLUDED if result.excluded else EXIT_DONE


def _options(labels: str, output: Path | None, choices: dict[str, Any]) -> QuantifyOptions:
    from matseg_runtime.measure.quantify import QuantifyOptions
    from matseg_runtime.run.options import parse_range
    from matseg_runtime.source.base import SourceOptions

    names, range_ = choices["names"], choices["range_"]
    connectivity: Literal[4, 8] = 4 if choices["connectivity"] == "4" else 8
    return QuantifyOptions(
        labels=labels,
        source=SourceOptions(
            axis=choices["axis"],
            slices=None if range_ is None else parse_range(range_),
            level=choices["level"],
            fill_missing_chunks=choices["fill_missing_chunks"],
            follow_links=choices["follow_links"],
        ),
        output=output,
        voxel_size=choices["voxel_size"],
        connectivity=connectivity,
        names=() if names is None else _parse_names(names),
        ignore=choices["ignore"],
        workers=choices["workers"],
    )


def _parse_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise click.UsageError(
            f"--names {text}: expected different names with commas between them, such as pore,matrix"
        )
    return names


def _lines(result: Quantified) -> list[str]:
    tables = result.tables
    size = "lengths are in pixels: no voxel size is known; give it with --voxel-size"
    if tables.voxel is not None:
        size = f"voxel size: {tables.voxel} ({tables.voxel.origin})"
    lines = [f"excluded {item.reason}" for item in result.excluded]
    lines.append(f"{len(tables.rows)} slices measured")
    if tables.unlabelled:
        lines.append(f"{tables.unlabelled} slices have no labels and were left out")
    return [*lines, size, *tables.lines(), f"tables: {result.folder}"]
