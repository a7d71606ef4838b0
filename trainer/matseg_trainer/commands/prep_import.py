"""`matseg-prep import`: labels from other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from matseg_shared.console.command import show
from matseg_shared.console.help import Command
from matseg_shared.console.options import Choice, gathered, parsed
from matseg_shared.console.progress import shown_progress
from matseg_trainer.commands.options import class_options, replace_option, usual_options
from matseg_trainer.workspace import Workspace

if TYPE_CHECKING:
    from matseg_trainer.prepare.imports.base import ImportRequest


@click.command(
    name="import",
    cls=Command,
    examples="""
        matseg-prep import cvat.zip steel --images raw/  # masks of CVAT over the pictures in raw/
        matseg-prep import instances.json steel  # COCO, its pictures beside it
        matseg-prep import drawn/ steel --outside unlabelled  # LabelMe; what was not drawn is no class
        matseg-prep import volume.zarr scan --labels labels.tif --unlabelled 0
            # the slices of a volume that have labels in napari, where 0 is not labelled
        matseg-prep import volume.zarr scan3 --labels labels.tif --context 1
            # each labelled slice with the one above and the one below, for a network that sees three
        matseg-prep import strokes/ beads --images raw/ --unlabelled 0  # .npy or .txt, one for each picture
    """,
)
@click.argument("source")
@click.argument("name")
@click.option(
    "--images", metavar="PATH", help="Folder, file or stack of the pictures, where not beside SOURCE."
)
@click.option(
    "--labels", metavar="PATH", help="Label volume or folder of label images for SOURCE, a volume or folder."
)
@click.option(
    "--split",
    type=Choice(["train", "validate", "test"]),
    default="train",
    show_default=True,
    help="What the pictures are for.",
)
@click.option(
    "--outside",
    metavar="NAME",
    help='Class of what lies outside of all shapes; "unlabelled": none. Default: background.',
)
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="V",
    help="Label value, or name of a class, that means that nobody labelled the pixel; repeatable.",
)
@class_options
@click.option(
    "--axis", type=click.IntRange(0, 2), metavar="N", help="Axis to slice a volume along (default: 0)."
)
@click.option(
    "--axes",
    type=parsed("matseg_runtime.source.layout:parse_axes"),
    metavar="LETTERS",
    help="What each axis of a volume is, for files that do not say: zcyx, yxc. c: channels, t: times, one of them.",
)
@click.option(
    "--channels",
    type=parsed("matseg_shared.images.channels:parse_channels"),
    metavar="N,N,...|grey",
    help="Channels that are taken of the pictures, from 0; grey: the mean of colours. Default: all.",
)
@click.option(
    "--window",
    type=parsed("matseg_runtime.source.transform:Window.parse"),
    metavar="LO,HI",
    help="Intensities that become black and white of 16-bit pictures; needed where pixels are signed or wide.",
)
@click.option(
    "--context",
    type=click.IntRange(0, 31),  # so that a slice of one channel has 63
    default=0,
    metavar="K",
    help="Store K slices of the volume on either side of each labelled one with it, as channels. Default: none.",
)
@replace_option
@usual_options
@gathered("request", "matseg_trainer.prepare.imports.base:ImportRequest")
def import_command(
    name: str, request: ImportRequest, overwrite: bool, workspace: Path | None, as_json: bool
) -> None:
    """Make a data set of labels from another tool.

    SOURCE, recognised by its content, is an export of CVAT (segmentation masks), COCO, LabelMe, QuPath (GeoJSON),
    ImageJ (ROIs), VIA, Labelbox or ilastik (HDF5), or label values (.npy, rows of numbers as text); with --labels it
    is a volume or folder of which some slices have labels. Where data/NAME has other splits, this becomes one more.
    """
    from matseg_trainer.overview.survey import next_words
    from matseg_trainer.prepare.imports.write import import_labels

    place = Workspace.find(workspace)
    target = place.dataset_root(name)
    with shown_progress() as progress:
        result = import_labels(target, request, overwrite=overwrite, progress=progress)
    pixels = max(1, sum(item.pixels for item in result.classes) + result.unlabelled)
    lines = [f"{target / result.split}: {result.images} labelled picture(s) from {result.tool}"]
    lines += [
        f"  {item.index}: {item.name}, {item.pixels / pixels:.2%} of the pixels" for item in result.classes
    ]
    if result.unlabelled:
        lines.append(f"  nobody labelled {result.unlabelled / pixels:.2%} of the pixels")
    lines += [f"note: {note}" for note in result.notes]
    lines.append(f"next: {next_words(place, name)}")
    show(result, lines, as_json=as_json)
