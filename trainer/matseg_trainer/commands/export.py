"""The command `matseg-export`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from matseg_shared.console.command import debug_option, json_option, show, warn
from matseg_shared.console.help import Command
from matseg_shared.console.options import Choice, applies_with, flag
from matseg_shared.console.progress import shown_progress
from matseg_shared.errors import UsageError
from matseg_trainer.commands.completion import complete_version
from matseg_trainer.commands.options import dataset_argument, require_train_extra, trained_checkpoint
from matseg_trainer.workspace import Workspace, workspace_option

if TYPE_CHECKING:
    from matseg_shared.contract.metadata import PixelSize, Precision, Views
    from matseg_trainer.export.bioimageio.package import Package
    from matseg_trainer.export.export import ExportResult
    from matseg_trainer.predict.checkpoint import Checkpoint


@cloup.command(
    name="matseg-export",
    cls=Command,
    examples="""
        matseg-export steel v1 -o steel.onnx  # one file that runs anywhere
        matseg-export steel v1 --precision int8 -o steel_int8.onnx  # for CPUs: several times as fast
        matseg-export steel v1 --precision fp16 -o steel_fp16.onnx  # for GPUs
        matseg-export steel v1 --tta 8 -o steel_tta.onnx
            # for few images, where each pixel counts: the mean of eight views
        matseg-export steel --ensemble v1.folds
            # the mean probabilities of all networks of a cross-validation, in one file
        matseg-export steel v1 --bioimageio steel.zip --author 'Jane Doe' --licence CC-BY-4.0
            # a package for ilastik, deepImageJ and QuPath, too
    """,
)
@dataset_argument
@click.argument("version", required=False, shell_complete=complete_version)
@click.option(
    "--ensemble",
    metavar="V1,V2,...",
    help="Export the mean of the probabilities of these versions instead of one VERSION; v1.folds are all trainings of "
    "a cross-validation of v1. It takes as many times as long.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: saved/<name>.onnx."
)
@click.option(
    "--precision",
    type=Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Numbers that the file computes with: fp16 is for GPUs, int8 for CPUs.",
)
@click.option(
    "--tta",
    type=Choice([1, 4, 8]),
    default=1,
    show_default=True,
    help="Test-time augmentation: the file gives the mean of so many views, flipped (4) and turned by quarters too "
    "(8), and takes so many times as long.",
)
@click.option(
    "--pixel-size",
    metavar="SIZE",
    help="Edge of a pixel of the training images, such as 0.65um; matseg-run warns of images with others. Default: "
    "what the images said when the model was trained, as TIFFs can.",
)
@click.option(
    "--bioimageio",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.zip",
    help="Write a package for bioimage.io, too (ilastik, deepImageJ, QuPath); made of the ONNX file that is there, if "
    "it is of this checkpoint.",
)
@click.option(
    "--author", "authors", multiple=True, metavar="NAME", help="Author of the package; once per person."
)
@click.option("--licence", metavar="SPDX", help="Licence of the package: CC-BY-4.0, MIT, ...")
@click.option(
    "--cite", "citations", multiple=True, metavar="'TEXT DOI'", help="What users of the package are to cite."
)
@flag("--overwrite", "Replace an existing file.")
@workspace_option
@json_option
@applies_with("bioimageio", "authors", "licence", "citations")
@debug_option
def export_main(
    dataset: str,
    version: str | None,
    ensemble: str | None,
    output: Path | None,
    precision: Precision,
    tta: Views,
    pixel_size: str | None,
    bioimageio: Path | None,
    authors: tuple[str, ...],
    licence: str | None,
    citations: tuple[str, ...],
    overwrite: bool,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """Export VERSION of DATASET to one self-describing ONNX file.

    The file is written only when the graph does what the torch network does. fp16 (for GPUs) and int8 (for CPUs)
    need the data set: ranges are chosen on its training images, and a mean IoU on its validation images that is more
    than 0.002 below fp32's fails the export.

    The members of an ensemble are of one data set and label alike: classes, channels, pixel size and scale are the
    same. Data for fp16 and int8 are those of the first.

    --tta is for networks that were trained on flipped and turned crops (aug). matseg-evaluate --model shows whether
    it gains anything.
    """
    place = Workspace.find(workspace)
    if (version is None) == (ensemble is None):
        raise UsageError(
            "expected either a VERSION or --ensemble with several: matseg-export steel v1, or matseg-export steel "
            "--ensemble v1,v2"
        )
    data = place.dataset(dataset) if precision != "fp32" else None
    require_train_extra("matseg-export")
    from matseg_trainer.data.pixel_size import parse_pixel_size
    from matseg_trainer.export.bioimageio.package import Package, write_package
    from matseg_trainer.export.ensemble import ensemble_name, expand_members, require_alike
    from matseg_trainer.export.export import export_checkpoint, exported_before
    from matseg_trainer.export.views import require_float

    require_float(precision, tta)
    if ensemble is None:
        versions: tuple[str, ...] = (str(version),)
        name = f"{dataset}_{version}"
    else:
        versions, name = expand_members(place, dataset, ensemble), ensemble_name(dataset, ensemble)
    target = output or place.saved / f"{name}.onnx"
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: expected a file name that ends in .onnx")
    package = None
    if bioimageio is not None:
        package = Package.parse(bioimageio, authors, licence, citations, overwrite=overwrite)
    there = target.exists() and not overwrite
    if there and package is None:
        raise UsageError(f"{target}: exists already; give --overwrite to replace it, or another name with -o")
    size = None if pixel_size is None else parse_pixel_size(pixel_size)
    checkpoint, *others = (_checkpoint(place, dataset, member, tta, size) for member in versions)
    require_alike((checkpoint, *others))
    if there:
        result = exported_before(target, checkpoint, precision, tta, others)
    else:
        with shown_progress("exporting") as progress:
            result = export_checkpoint(
                checkpoint,
                target,
                others=others,
                name=name,
                precision=precision,
                tta=tta,
                dataset=data,
                progress=progress,
            )
    if package is not None:
        write_package(package, target)
    show(_summary(result, package), _lines(result, package), as_json=as_json)


def _checkpoint(
    place: Workspace, dataset: str, version: str, tta: Views, pixel_size: PixelSize | None
) -> Checkpoint:
    """A trained version, with warnings of what its export cannot know."""
    checkpoint = trained_checkpoint(place, dataset, version)
    if tta > 1 and not checkpoint.config.aug:
        warn(
            f"{dataset}_{version} was trained without aug, on views that are neither flipped nor turned: the mean of "
            f"{tta} views may be worse than the image itself; compare with matseg-evaluate --model"
        )
    return checkpoint if pixel_size is None else dataclasses.replace(checkpoint, pixel_size=pixel_size)


def _summary(result: ExportResult, package: Package | None) -> dict[str, Any]:
    """The JSON document, as docs/commands.md has it."""
    export, tiling = result.metadata.export, result.metadata.tiling
    return {
        "path": result.path,
        "bytes": result.bytes,
        "name": result.metadata.name,
        "precision": export.precision,
        "opset": export.opset,
        "tta": export.tta,
        "ensemble": [member.training.version for member in result.metadata.ensemble],
        "stride": tiling.stride,
        "halo": tiling.halo,
        "parity": export.parity,
        "accuracy": export.accuracy,
        "fp32_layers": () if export.calibration is None else export.calibration.fp32_layers,
        "pays_on": export.pays_on,
        "package": None if package is None else package.path,
    }


def _lines(result: ExportResult, package: Package | None) -> list[str]:
    """The same for a person."""
    export, tiling = result.metadata.export, result.metadata.tiling
    parity, accuracy = export.parity, export.accuracy
    graph = "" if export.precision == "fp32" else "in fp32 "
    lines = [
        f"{result.path}: {result.bytes / 1e6:.1f} MB, {export.precision}, opset {export.opset}",
        f"  {graph}equal to torch on {parity.cases} inputs of {parity.pixels:,} pixels: probabilities within "
        f"{parity.max_probability_difference:.1e}, {parity.label_mismatches} labels differ, "
        f"{parity.label_ties} decided by rounding",
        f"  tiles: stride {tiling.stride}, halo {tiling.halo} pixels (measured and confirmed)",
    ]
    if export.tta > 1:
        lines.append(f"  test-time augmentation: mean of {export.tta} views, {export.tta} times the work")
    if members := result.metadata.ensemble:
        versions = ", ".join(member.training.version for member in members)
        lines.append(f"  ensemble: mean probabilities of {versions}; {len(members)} times the work")
    if accuracy is not None:
        lines.append(
            f"  mean IoU on {accuracy.images} images of {accuracy.split}: {accuracy.mean_iou:.4f}, "
            f"in fp32 {accuracy.mean_iou_fp32:.4f}"
        )
    if export.calibration is not None and export.calibration.fp32_layers:
        lines.append(f"  left in fp32: {', '.join(export.calibration.fp32_layers)}")
    lines.append(f"  this precision pays on: {', '.join(export.pays_on)}")
    origins = dict.fromkeys(training.pretrained for training in result.metadata.trainings)
    lines += [
        f"  note: made from {origin}; what others may do with the file depends on that, too"
        for origin in filter(None, origins)
    ]
    return lines if package is None else [*lines, f"{package.path}: package for bioimage.io"]
