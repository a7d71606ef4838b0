"""The command `matseg-quantify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import cloup

from matseg_runtime.cli.options import source_options, with_source
from matseg_shared.console.command import EXIT_DONE, EXIT_EXCLUDED, debug_option, json_option, print_json
from matseg_shared.console.help import Command
from matseg_shared.console.options import COUNT, PATH, Choice, gathered
from matseg_shared.console.progress import shown_progress
from matseg_shared.errors import UsageError
from matseg_shared.system.names import printable

if TYPE_CHECKING:
    from matseg_runtime.measure.quantify import Quantified, QuantifyOptions

_EXAMPLES = """
    matseg-quantify labels.zarr  # measure what matseg-run wrote; the tables go where its report is
    matseg-quantify masks/ --voxel-size 0.65um --no-data 255 --names pore,matrix
        # labels of another program, in micrometres, the mask 255 left out
    matseg-quantify labels.zarr --regions 3d --voxel-size 1.3,0.65um
        # regions through the volume, too: a row for each in regions_3d.csv
    matseg-quantify labels.tif --connectivity 4 -o tables/  # regions that share a corner are two
"""


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"--names {text}: expected different names with commas between them, such as pore,matrix"
        )
    return names


@click.command(name="matseg-quantify", cls=Command, examples=_EXAMPLES)
@click.argument("labels")
@cloup.option_group(
    "Input",
    click.option(
        "--voxel-size",
        metavar="SIZE",
        help="Edge of a voxel, such as 0.65um, or Z,Y,X as 1.3,0.65,0.65um. Default: what the labels say.",
    ),
    click.option("--names", type=_names, metavar="A,B,...", help="Names of the classes, by ascending value."),
    click.option(
        "--no-data",
        "--ignore",
        "ignore",
        type=click.IntRange(min=0),
        metavar="VALUE",
        help="Pixels of this value have no class. Default: 255 in labels that matseg-run wrote.",
    ),
    *source_options,
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Folder for the tables. Default: where matseg-run left its report, else <LABELS>_quantities beside them.",
)
@click.option(
    "--connectivity",
    type=Choice([4, 8]),
    default=8,
    show_default=True,
    help="Pixels belong together that share an edge (4), or a corner too (8); voxels a face, or an edge or corner too.",
)
@click.option(
    "--regions",
    type=Choice(["2d", "3d"]),
    default="2d",
    show_default=True,
    help="3d: measure regions that go through the slices, too.",
)
@click.option("--workers", type=COUNT, metavar="N", help="Threads. Default: one per core.")
@json_option
@debug_option
@with_source
@gathered("asked", "matseg_runtime.measure.quantify:QuantifyOptions")
def quantify_main(asked: QuantifyOptions, as_json: bool) -> int:
    """Measure labelled phases: fractions, regions, surfaces.

    LABELS is what matseg-run wrote, or any other folder of label images, TIFF stack, zarr, HDF5 or .npy volume of
    whole numbers. Writes quantities.csv (phase fractions, number and sizes of connected regions, specific surface),
    region_sizes.csv (histograms) and quantities.json; with --regions 3d also regions_3d.csv (volume, diameter, surface
    and place of each region), quantities_3d.csv and quantities_3d.json.

    \b
    Exit codes:
      0  done
      2  wrong use, or an input that is no labels; nothing was written
      3  scikit-image is not installed (extra quantify)
      4  done, but some slices were excluded; each is named with the reason
      1  anything else, such as a full disk
    """
    from matseg_runtime.measure.quantify import quantify

    with shown_progress() as progress:
        result = quantify(asked, progress)
    for line in _lines(result):
        click.echo(printable(line), err=as_json)
    if as_json:
        excluded = [{"where": item.where, "reason": item.reason} for item in result.excluded]
        volume = None if result.volume is None else result.volume.document()
        print_json(
            {
                **result.summary.document(),
                "output": str(result.folder),
                "excluded": excluded,
                "regions_3d": volume,
            }
        )
    return EXIT_EXCLUDED if result.excluded else EXIT_DONE


def _lines(result: Quantified) -> list[str]:
    summary, voxel = result.summary, result.summary.voxel_size
    size = "lengths are in pixels: no voxel size is known; give it with --voxel-size"
    if voxel is not None:
        size = f"voxel size: {voxel} ({voxel.origin})"
    lines = [f"excluded {item.reason}" for item in result.excluded]
    lines.append(f"{summary.slices} slices measured")
    if summary.slices_without_labels:
        lines.append(f"{summary.slices_without_labels} slices have no labels and were left out")
    if summary.no_data_pixels:
        labelled = sum(item.pixels for item in summary.classes)
        share = summary.no_data_pixels / (labelled + summary.no_data_pixels)
        lines.append(
            f"{share:.1%} of the pixels ({summary.no_data_pixels}) have no label and are in no fraction"
        )
    lines += [size, *summary.lines()]
    if result.volume is not None:
        lines += [*result.volume.lines(), *(f"warning: {item}" for item in result.warnings)]
    return [*lines, f"tables: {result.folder}"]
