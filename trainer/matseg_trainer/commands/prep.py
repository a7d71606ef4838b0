"""`matseg-prep`: from images and label images to a data set that can be trained on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from matseg_shared.console.command import console, debug_option, json_option, print_json, show
from matseg_shared.console.help import Group
from matseg_shared.console.options import COUNT, PATH, Decorator, flag, gathered, parsed
from matseg_shared.console.progress import shown_progress
from matseg_shared.errors import ConfigError, DatasetError, UsageError
from matseg_trainer.commands.completion import complete_split
from matseg_trainer.commands.options import (
    class_options,
    dataset_argument,
    new_dataset_options,
    usual_options,
)
from matseg_trainer.commands.prep_import import import_command
from matseg_trainer.commands.prep_search import search_command
from matseg_trainer.workspace import Workspace

if TYPE_CHECKING:
    from matseg_shared.images.channel_files import ChannelFiles
    from matseg_trainer.demo.demo import DemoRequest
    from matseg_trainer.prepare.crop import CropRequest
    from matseg_trainer.prepare.split import SplitRequest


def _number(
    name: str, default: int, text: str, kind: click.IntRange = COUNT, metavar: str = "N"
) -> Decorator:
    return click.option(name, type=kind, default=default, show_default=True, metavar=metavar, help=text)


@click.group(
    name="matseg-prep",
    cls=Group,
    examples="""
        matseg-prep labels steel train validate test  # label images to arrays, then see what is in the set
        matseg-prep check steel  # is everything as training needs it?
        matseg-prep demo demo  # something to try things on
    """,
)
def main() -> None:
    """Prepare data sets: label arrays, splits, crops, checks, a demo."""


@main.command(
    examples="""
        matseg-prep labels steel train validate test  # arrays for all splits
        matseg-prep labels tomography train validate test --nearest
            # label images with anti-aliased edges: take their pixels for the nearest class
        matseg-prep labels steel train --append  # only for label images that are new
        matseg-prep labels rock train --unlabelled 0  # brush strokes of classes 1, 2, ...
        matseg-prep labels alloy train --class matrix=rest --class pore=0,0,255 --class oxide=255,0,0
            # classes painted over a copy of the picture
    """
)
@dataset_argument
@click.argument("splits", metavar="SPLIT...", nargs=-1, required=True, shell_complete=complete_split)
@class_options
@click.option(
    "--unlabelled",
    type=parsed("matseg_trainer.prepare.label_request:parse_value"),
    multiple=True,
    metavar="VALUE",
    help="Value, or R,G,B, of pixels that nobody labelled; repeatable. They are learnt by no class.",
)
@click.option(
    "--append", "existing", flag_value="append", help="Keep label arrays that are there, make the others."
)
@click.option("--overwrite", "existing", flag_value="overwrite", help="Make all label arrays anew.")
@usual_options
def labels(
    dataset: str,
    splits: tuple[str, ...],
    classes: int | None,
    named: tuple[tuple[str, int | tuple[int, int, int] | None], ...],
    unlabelled: tuple[int | tuple[int, int, int], ...],
    nearest: bool,
    max_moved: float,
    existing: Literal["append", "overwrite"] | None,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """Make label arrays of label images.

    The arrays of SPLIT... (train, validate, test) are labels_npy/*.npy, with values 0 to N-1, and 255
    where nobody labelled. What stands for each class is written to classes.toml.
    """
    from matseg_trainer.prepare.console import is_interactive, print_labels
    from matseg_trainer.prepare.label_request import LabelRequest
    from matseg_trainer.prepare.labels import existing_arrays, found_classes, plan_labels, write_labels

    place = Workspace.find(workspace)
    opened = place.dataset(dataset)
    chosen = tuple(dict.fromkeys(splits))
    may_ask = is_interactive() and not as_json
    mode = existing or "refuse"
    found = existing_arrays(opened, chosen)
    if found and existing is None and may_ask:
        question = f"There are {len(found)} label arrays already. Make them all anew (no: keep them)?"
        mode = "overwrite" if click.confirm(question) else "append"
    with shown_progress() as progress:
        number = classes or len(dict(named)) or place.n_class_of(opened)
        number = number or found_classes(opened, progress, unlabelled)
    request = LabelRequest(
        n_class=number,
        classes=named,
        unlabelled=unlabelled,
        existing=mode,
        nearest=nearest,
        max_moved=max_moved,
    )
    with shown_progress() as progress:
        plan = plan_labels(opened, chosen, request, progress)
    if plan.strays.images and not (nearest and plan.strays.can_move):
        may_ask = may_ask and plan.strays.can_move
        if may_ask:
            click.echo(plan.strays.message(opened.root))
        if not may_ask or not click.confirm("Take these values for their nearest classes?"):
            raise DatasetError(plan.strays.message(opened.root))
    arrays = []
    with shown_progress() as progress:
        progress.stage("writing label arrays", len(plan.pairs) + len(plan.kept), unit="arrays")
        for array in write_labels(plan):
            arrays.append(array)
            progress.advance()
    if as_json:
        print_json(
            {
                "dataset": plan.dataset.name,
                "n_class": len(plan.table.classes),
                "classes": plan.dataset.classes_path,
                "arrays": arrays,
                "strays": [image.path for image in plan.written_strays],
                "unlabelled": plan.table.legend.unlabelled,
                "labels_alone": plan.labels_alone,
            }
        )
    else:
        print_labels(console(), plan, arrays)


@main.command(
    examples="""
        matseg-prep crop tomography 224 400 50  # 400 crops of 224 pixels to train on, 50 to validate with
        matseg-prep crop steel 128 1000 100 -r steel_small  # under a name of your choice
    """
)
@dataset_argument
@click.argument("size", type=COUNT)
@click.argument("n_train", type=COUNT)
@click.argument("n_validate", type=COUNT)
@click.option(
    "-r", "--rename", metavar="NAME", help="Name of the new data set (default: <dataset>_<size>pix<n>num)."
)
@new_dataset_options
@gathered("request", "matseg_trainer.prepare.crop:CropRequest")
def crop(
    dataset: str,
    request: CropRequest,
    rename: str | None,
    overwrite: bool,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """Make a data set of random crops.

    N_TRAIN crops are of images of train, N_VALIDATE of images of validate, each of SIZE x SIZE pixels.
    """
    from matseg_trainer.prepare.crop import crop_dataset

    place = Workspace.find(workspace)
    opened = place.dataset(dataset)
    size, n_train, n_validate = request.size, request.n_train, request.n_validate
    name = rename or f"{dataset}_{size}pix{n_train}num"
    target = place.dataset_root(name)
    with shown_progress() as progress:
        crop_dataset(opened, target, request, overwrite=overwrite, progress=progress)
    n_class = len(opened.classes)
    document = {"dataset": target, "size": size, "train": n_train, "validate": n_validate, "n_class": n_class}
    lines = (
        f"{target}: {n_train} crops to train on, {n_validate} to validate with, {size} x {size} pixels",
        f"Add to {place.config_path}, with versions of your choice:",
        f"\n[{name}.default]\nn_class = {n_class}\nsize = [{size}, {size}]",
    )
    show({**document, "seed": request.seed}, lines, as_json=as_json)


@main.command(
    examples="""
        matseg-prep split rock/ sandstone --validate 2 --test 2  # two to validate, two to test
        matseg-prep split data/steel/train steel_split  # labels that were imported
    """
)
@click.argument("folder", type=PATH)
@click.argument("name")
@_number("--validate", 2, "Images to validate with.")
@_number("--test", 2, "Images to test with.")
@new_dataset_options
@gathered("request", "matseg_trainer.prepare.split:SplitRequest")
def split(
    folder: Path, name: str, request: SplitRequest, overwrite: bool, workspace: Path | None, as_json: bool
) -> None:
    """Share out labelled images to train, validate and test.

    FOLDER holds images/ and labels/, NAME is the new data set. Images are drawn at random and copied, and with them a
    classes.toml. Neighbouring slices of a scan are nearly the same: where a set has such, put them into the splits by
    hand.
    """
    from matseg_trainer.overview.survey import next_words
    from matseg_trainer.prepare.split import class_table, labelled_pairs, split_images

    place = Workspace.find(workspace)
    pairs, target = labelled_pairs(folder), place.dataset_root(name)
    with shown_progress() as progress:
        counts = split_images(
            pairs, target, request, overwrite=overwrite, classes=class_table(folder), progress=progress
        )
    lines = (
        f"{target}: {', '.join(f'{count} to {split_name}' for split_name, count in counts.items())}",
        f"next: {next_words(place, name)}",
    )
    show({"dataset": target, "images": counts, "seed": request.seed}, lines, as_json=as_json)


@main.command(
    examples="""
        matseg-prep channels eds/ data/alloy/train/images '*_{Fe,Ni,Cr}.tif'
            # spot1_Fe.tif, spot1_Ni.tif and spot1_Cr.tif become spot1.tif of three channels
    """
)
@click.argument("folder", type=PATH)
@click.argument("target", type=PATH)
@click.argument("pattern", type=parsed("matseg_shared.images.channel_files:ChannelFiles.parse"))
@flag("--overwrite", "Replace pictures that are there.")
@json_option
@debug_option
def channels(folder: Path, target: Path, pattern: ChannelFiles, overwrite: bool, as_json: bool) -> None:
    """Make pictures of several channels out of files of one channel each.

    FOLDER holds the files, TARGET gets a TIFF per picture. In PATTERN, * stands for the picture, and the names in
    braces are its channels in their order; the model keeps the names. matseg-run reads such files with --channel-files.
    """
    from matseg_trainer.prepare.channels import stack_channels

    with shown_progress() as progress:
        written = stack_channels(folder, target, pattern, overwrite=overwrite, progress=progress)
    show({"pictures": written}, [f"{target}: {len(written)} pictures of {pattern}"], as_json=as_json)


@main.command(
    examples="""
        matseg-prep check steel  # every file of every split
        matseg-prep check steel --label-agreement  # and what IoU these labels allow at all
    """,
    renamed={"--ceiling": "--label-agreement"},
)
@dataset_argument
@flag("--label-agreement", "Measure what moving the labels' boundaries by a pixel costs in IoU.")
@usual_options
def check(dataset: str, label_agreement: bool, workspace: Path | None, as_json: bool) -> int:
    """Check a data set: contents, problems, likely slips.

    Problems end it with exit code 2. What only looks wrong does not: tiny regions, labels beside their image, images
    that are nearly the same.
    """
    from matseg_trainer.check.check import check_dataset
    from matseg_trainer.prepare.console import print_check
    from matseg_trainer.prepare.labels import add_class_table

    place = Workspace.find(workspace)
    opened = place.dataset(dataset)
    with shown_progress() as progress:
        no_table = None
        try:
            add_class_table(opened, place.n_class_of(opened), progress)
        except (DatasetError, ConfigError) as error:
            no_table = None if opened.classes_path.exists() else str(error)
        result = check_dataset(opened, progress, with_agreement=label_agreement, no_table=no_table)
    if as_json:
        print_json(result)
    else:
        print_check(console(), result)
    return 2 if result.problems else 0


@main.command(
    examples="""
        matseg-prep demo demo  # a small set, in seconds
        matseg-prep demo big --size 512 --train 30 --raw 200  # larger slices, and more of them
    """
)
@click.argument("name")
@_number("--train", 12, "Slices to train on.")
@_number("--validate", 3, "Slices to validate with.")
@_number("--test", 3, "Slices to test with.")
@_number("--raw", 20, "Slices without labels.", click.IntRange(0))
@_number("--size", 256, "Edge of a slice.", click.IntRange(128, 4096), "PIXELS")
@new_dataset_options
@gathered("request", "matseg_trainer.demo.demo:DemoRequest")
def demo(name: str, request: DemoRequest, overwrite: bool, workspace: Path | None, as_json: bool) -> None:
    """Make a synthetic data set to try things on.

    It is data/NAME; data/NAME_raw is a stack of slices without labels.
    """
    from matseg_trainer.demo.demo import make_demo
    from matseg_trainer.overview.survey import next_words

    place = Workspace.find(workspace)
    target = place.dataset_root(name)
    with shown_progress() as progress:
        stack = make_demo(target, request, overwrite=overwrite, progress=progress)
    splits = {"train": request.train, "validate": request.validate, "test": request.test}
    told = "{train} slices to train on, {validate} to validate with, {test} to test with".format(**splits)
    raw = [] if stack is None else [f"{stack}: {request.raw} consecutive slices without labels"]
    lines = [f"{target}: {told}", *raw, f"next: {next_words(place, name)}"]
    show({"dataset": target, **splits, "raw": stack}, lines, as_json=as_json)


@main.command(
    examples="""
        matseg-prep config steel  # then read the version `auto` in config.toml, and train it: matseg-train steel
        matseg-prep config steel --overwrite  # make it anew, as after new images were labelled
    """
)
@dataset_argument
@flag("--overwrite", "Replace a version `auto` that is there.")
@usual_options
def config(dataset: str, overwrite: bool, workspace: Path | None, as_json: bool) -> None:
    """Write a version made from the data into config.toml.

    The version `auto` of DATASET has network, crops, steps and the like as images and labels ask for them, each with
    its reason in a comment. Everything else in the file stays. matseg-train DATASET does the same, and trains it.
    """
    from matseg_trainer.prepare.auto import write_auto

    place = Workspace.find(workspace)
    with shown_progress() as progress:
        made = write_auto(place, dataset, overwrite=overwrite, progress=progress)
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    document = {
        "dataset": dataset,
        "config": made.config,
        "version": {item.key: item.value for item in made.choices},
        "reasons": {item.key: item.reason for item in made.choices},
    }
    show(document, [*made.told, f"next: {shlex.join(['matseg-train', dataset])}"], as_json=as_json)


@main.command(
    name="import-config",
    examples="""
        matseg-prep import-config old/config.py -o config.toml  # bring your versions along
    """,
)
@click.argument("config_py", type=PATH)
@click.option("-o", "--output", type=PATH, help="Write this new file instead of printing.")
@json_option
@debug_option
def import_config(config_py: Path, output: Path | None, as_json: bool) -> None:
    """Turn an existing config.py of MatSeg into a config.toml.

    The file is read, never executed. What is left out or means something else is said in notes.
    """
    from matseg_shared.system.files import write_text
    from matseg_trainer.config.import_guide import read_matseg_config

    if output is not None and output.exists():
        raise UsageError(f"{output}: is there already and is left as it is; choose another name")
    imported = read_matseg_config(config_py)
    if output is not None:
        write_text(output, imported.text)
        click.echo(f"wrote {output}", err=True)
    elif not as_json:
        click.echo(imported.text, nl=False)
    if as_json:
        text = imported.text if output is None else None
        print_json({"output": output, "text": text, "notes": imported.notes})
    for note in imported.notes:
        click.echo(f"note: {note}", err=True)


main.add_command(import_command)
main.add_command(search_command)
