"""The options of `matseg-run`, in the groups that its help shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import cloup

from matseg_runtime.cli.options import (
    device_option,
    provider_option,
    sha256_option,
    source_options,
    threads_option,
)
from matseg_shared.console.options import COUNT, PATH, Choice, Range, flag, parsed

if TYPE_CHECKING:
    from matseg_runtime.ledger import Part


def _part(text: str) -> Part | None:
    from matseg_runtime.ledger import Part

    part = Part.parse(text)
    return part if part.total > 1 else None  # one of one is the whole


input_options = cloup.option_group(
    "Input",
    *source_options,
    click.option(
        "--channels",
        type=parsed("matseg_shared.images.channels:parse_channels"),
        metavar="N,N,...|grey",
        help="Channels of INPUT that the model is to take, from 0, in its order; grey: the mean of colours. Default: "
        "as the model was trained.",
    ),
    click.option(
        "--channel-files",
        type=parsed("matseg_shared.images.channel_files:ChannelFiles.parse"),
        metavar="PATTERN",
        help="INPUT is a folder with a file per channel: '*_{Fe,Ni,Cr}.tif', * for the picture, channels in order.",
    ),
    sha256_option,
    click.option(
        "--window",
        type=parsed("matseg_runtime.source.transform:Window.parse"),
        metavar="LO,HI",
        help="Intensities that become the model's darkest and brightest, for inputs of another dtype or range.",
    ),
    click.option(
        "--no-data",
        type=parsed("matseg_runtime.source.transform:parse_no_data"),
        multiple=True,
        metavar="VALUE|circle",
        help="Pixels that are no sample, besides NaN: of this value, or outside the circle inscribed in a slice; more "
        "than once if need be. Their label is 255, and they are in no fraction.",
    ),
    click.option(
        "--mask",
        metavar="FILE",
        help="An image, or a volume of INPUT's shape, that is 0 where there is no sample.",
    ),
    click.option(
        "--crop-bottom",
        type=click.IntRange(0),
        metavar="ROWS",
        help="Rows at the foot of each picture that are no sample, such as a bar of data. Default: as its file says, "
        "else as the model was trained.",
    ),
    flag(
        "--accept-intensities",
        "Go on where intensities have little in common with the training set's, and note it in the report.",
    ),
)
output_options = cloup.option_group(
    "Output",
    click.option(
        "-o",
        "--output",
        "path",
        type=PATH,
        help="A folder for label images, or a volume: labels.zarr, .tif, .mhd, .nrrd, .mrc, .nii. "
        "Default: <INPUT>_predictions/<dataset>_<version> beside the input.",
    ),
    click.option(
        "--label",
        metavar="NAME",
        help="Write into the OME-Zarr INPUT itself, as labels/NAME, where napari shows them over the image, whose own "
        "data stay as they are.",
    ),
    click.option(
        "--format",
        "image_format",
        type=Choice(["png", "tiff"]),
        default="png",
        show_default=True,
        help="File format of label images in a folder.",
    ),
    flag("--probabilities", "Write class probabilities too, 0 to 255."),
    flag("--pyramid", "Zarr: add levels of lower resolution."),
    flag("--shards", "Zarr: one file per layer of chunks, for slow file systems."),
    flag("--overwrite", "Replace earlier results instead of going on with them."),
)
consensus_options = cloup.option_group(
    "Several axes",
    click.option(
        "--consensus",
        is_flag=False,
        flag_value="0,1,2",
        type=parsed("matseg_runtime.run.options:Consensus.parse"),
        metavar="[AXES]",
        help="Label along several axes of a volume, and give each voxel the class of the mean probability. Default "
        "AXES: all three; 0,2 takes two.",
    ),
    click.option(
        "--disagreement",
        type=PATH,
        metavar="PATH",
        help="With --consensus: write a volume that says how many axes' own class is another.",
    ),
)
measure_options = cloup.option_group(
    "Quantities and next labels",
    flag(
        "--quantify",
        "Measure connected regions too: quantities.csv, region_sizes.csv and quantities.json (extra quantify).",
    ),
    click.option(
        "--connectivity",
        type=Choice([4, 8]),
        help="With --quantify: pixels belong together that share an edge (4), or a corner too (8, the default).",
    ),
    click.option(
        "--voxel-size",
        metavar="SIZE",
        help="Edge of a voxel, such as 0.65um, or Z,Y,X as 1.3,0.65,0.65um. Default: what the input or the model says.",
    ),
    click.option(
        "--uncertain",
        type=COUNT,
        metavar="N",
        help="Copy the N most uncertain slices, with their labels to be corrected, to <OUT>_uncertain/.",
    ),
    click.option(
        "--uncertain-crop",
        "crop",
        type=click.IntRange(min=16),
        metavar="EDGE",
        help="With --uncertain: crops of EDGE by EDGE pixels instead of whole slices.",
    ),
    click.option(
        "--uncertain-spacing",
        type=COUNT,
        metavar="N",
        help="With --uncertain: at least N slices apart. Default: half of an even spread over the stack.",
    ),
)
machine_options = cloup.option_group(
    "Machine and parts",
    provider_option,
    device_option,
    threads_option,
    click.option(
        "--memory",
        type=parsed("matseg_runtime.units:parse_size"),
        metavar="SIZE",
        help="Most memory to take, such as 2GB; of a GPU's own as much. Default: 60 % of what is free, and what a GPU "
        "has.",
    ),
    click.option(
        "--tile",
        type=COUNT,
        metavar="PIXELS",
        help="Edge of the largest tile. Default: whole slices, or what memory allows.",
    ),
    click.option("--batch", type=COUNT, metavar="N", default=1, show_default=True, help="Tiles per call."),
    click.option(
        "--skip-constant/--no-skip-constant",
        default=True,
        help="Run the network once for tiles that are constant, halo included, or every time. Default: once.",
    ),
    click.option(
        "--part", type=_part, metavar="K/N", help="Only every N-th block of slices, starting with the K-th."
    ),
    click.option(
        "--dask",
        metavar="ADDRESS",
        help="Label on the workers of this dask scheduler (address or .json file).",
    ),
    flag("--finish", "Label nothing, only complete an output whose parts are done."),
)


watch_options = cloup.option_group(
    "Watching a scan",
    flag("--watch", "INPUT is a folder in which images are still being written."),
    click.option("--until", type=COUNT, metavar="N", help="With --watch: stop after N slices in all."),
    click.option(
        "--idle",
        "idle_seconds",
        type=Range(min=0, min_open=True),
        metavar="SECONDS",
        help="With --watch: stop when no new slice has come for SECONDS.",
    ),
)
