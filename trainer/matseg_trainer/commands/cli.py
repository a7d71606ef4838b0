"""The commands `matseg-train`, `matseg-evaluate` and `matseg-export`; torch is imported only when one works."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from matseg_runtime.cli.completion import complete_model
from matseg_runtime.cli.options import trust_options
from matseg_shared.console.command import console, debug_option, json_option, print_json, warn
from matseg_shared.console.help import Choice, Command, Example, Range
from matseg_shared.console.progress import shown_progress, step_progress
from matseg_shared.errors import MissingExtraError, UsageError
from matseg_shared.pages.option import page_option
from matseg_trainer.commands.completion import complete_split, dataset_argument, version_argument
from matseg_trainer.workspace import Workspace, workspace_option

if TYPE_CHECKING:
    from matseg_runtime.model.trust import Trust
    from matseg_shared.contract.metadata import Precision, Views
    from matseg_trainer.export.bioimageio import Package
    from matseg_trainer.predict.predictor import Predictor

# the same as in matseg_trainer.evaluate.document, here because --help must not load that
BOUNDARY_TOLERANCE = 2.0


def require_train_extra(command: str) -> None:
    """Say which extra is missing before anything imports it.

    Raises:
        MissingExtraError: torch, onnx or matplotlib is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "onnx", "onnxscript", "matplotlib")):
        raise MissingExtraError("train", command)


@click.command(
    name="matseg-train",
    cls=Command,
    examples=[
        Example("train, on a GPU should there be one", "matseg-train tomography v7 --gpu"),
        Example("go on after an interruption", "matseg-train tomography v7 --resume"),
        Example(
            "try the same version with another seed, and keep nothing",
            "matseg-train tomography v7 --seed 1 --no-save",
        ),
    ],
)
@dataset_argument
@version_argument
@click.option("--gpu", is_flag=True, help="Use a GPU, should one be available.")
@click.option("--no-save", is_flag=True, help="Keep no checkpoint; log and plot are still written.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the version's own seed.")
@click.option(
    "--init",
    metavar="CHECKPOINT",
    help="Fine-tune: start from the weights of this one, a name in saved/ (tomography_v8) or a .pth file.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training, bit for bit.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result of this version.")
@workspace_option
@page_option
@json_option
@debug_option
def train_main(
    dataset: str,
    version: str,
    gpu: bool,
    no_save: bool,
    seed: int | None,
    init: str | None,
    resume: bool,
    overwrite: bool,
    workspace: Path | None,
    page: bool,
    as_json: bool,
) -> None:
    """Train VERSION of DATASET, as config.toml describes it.

    The best epoch by validation mean IoU (or the last, with `keep = "last"`) is kept in saved/; metrics per epoch go to
    log/, curves to plots/.
    """
    place = Workspace.find(workspace)
    config = place.config().version(dataset, version)
    data = place.dataset(dataset)
    require_train_extra("matseg-train")
    if resume and (overwrite or no_save):
        raise click.UsageError("--resume goes with neither --overwrite nor --no-save.")
    from matseg_trainer.commands.summaries import TrainingSummary
    from matseg_trainer.pages.leave import leave_page
    from matseg_trainer.pages.training import write_training_page
    from matseg_trainer.train.console import terminal_progress
    from matseg_trainer.train.device import choose_compute
    from matseg_trainer.train.distributed import join_world
    from matseg_trainer.train.loop import Outputs, Progress, TrainingJob, train
    from matseg_trainer.train.pretrained import InitialWeights

    with join_world(gpu=gpu) as world:
        compute = choose_compute(gpu=gpu, precision=config.precision, local_rank=world.local_rank)
        if gpu and compute.device.type == "cpu" and world.is_main:
            warn(f"training on the CPU: {compute.device_reason}")
        job = TrainingJob(
            workspace=place,
            dataset=data,
            version=version,
            config=config,
            compute=compute,
            seed=config.seed if seed is None else seed,
            init=None if init is None else InitialWeights.load(place, init),
            save=not no_save,
            resume=resume,
            overwrite=overwrite,
        )
        outputs = Outputs.of(place, job.name)
        try:
            if world.is_main:
                out = console(stderr=as_json)
                with terminal_progress(out) as progress:
                    records = train(job, world, progress)
                summary = TrainingSummary.of(job, records, outputs)
                if as_json:
                    print_json(summary)
                out.print("\n".join(summary.lines()), markup=False)
                if page:
                    out.print(leave_page(write_training_page, outputs.log), markup=False)
            else:
                train(job, world, Progress())
        except KeyboardInterrupt as error:
            hint = "go on with --resume" if outputs.resume.exists() else "nothing was saved yet"
            raise KeyboardInterrupt(hint) from error


@click.command(
    name="matseg-evaluate",
    cls=Command,
    examples=[
        Example(
            "figures per class and image, and pictures of what is wrong",
            "matseg-evaluate tomography v7 --overlay",
        ),
        Example(
            "the same of an exported file, as machines without torch will see it",
            "matseg-evaluate tomography v7 --model saved/tomography_v7.onnx",
        ),
        Example(
            "on other labelled images than those of test/",
            "matseg-evaluate tomography v7 --test-folder validate",
        ),
    ],
)
@dataset_argument
@version_argument
@click.option(
    "--test-folder",
    default="test",
    show_default=True,
    help="The split to evaluate.",
    shell_complete=complete_split,
)
@click.option("--overlay", is_flag=True, help="Draw overlays that mark the wrong pixels.")
@click.option("--gpu", is_flag=True, help="Use a GPU, should one be available.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, dir_okay=False),
    shell_complete=complete_model,
    help="Evaluate this exported ONNX file instead of the checkpoint.",
)
@click.option(
    "--tolerance",
    type=Range(min=0),
    default=BOUNDARY_TOLERANCE,
    show_default=True,
    help="How far from a boundary is near, in pixels.",
)
@trust_options
@workspace_option
@page_option
@json_option
@debug_option
def evaluate_main(
    dataset: str,
    version: str,
    test_folder: str,
    overlay: bool,
    gpu: bool,
    model: Path | None,
    tolerance: float,
    sha256: str | None,
    trusted_keys: tuple[Path, ...],
    page: bool,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """Measure VERSION of DATASET on labelled images.

    Overlays keep the label's colour where a pixel is right. Two classes: false positives green, false negatives
    pink; more classes: wrong pixels pink. log/ gets the figures as JSON and, image by image with the worst first, as
    CSV; plots/ the confusion matrix and the reliability diagram.
    """
    if model is None and (sha256 is not None or trusted_keys):
        raise click.UsageError("--sha256 and --trusted-key apply with --model only")
    place = Workspace.find(workspace)
    data = place.dataset(dataset)
    require_train_extra("matseg-evaluate")
    from matseg_runtime.model.trust import trust_of
    from matseg_trainer.evaluate.console import NAME_WIDTH, print_evaluation
    from matseg_trainer.evaluate.run import EvaluationOutputs, EvaluationRequest, evaluate
    from matseg_trainer.pages.evaluation import write_evaluation_page
    from matseg_trainer.pages.leave import leave_page

    name = f"{dataset}_{version}"
    if model is None:
        predictor, network = _checkpoint_predictor(place, dataset, version, gpu=gpu)
    else:
        trust = trust_of(sha256, trusted_keys)
        predictor, network = _onnx_predictor(model, name, trust, gpu=gpu)
    folder = f"{version}_{network}" + ("_onnx" if model else "")
    stem = f"{name}_{test_folder}" + ("_onnx" if model else "")
    split_root = data.folder(test_folder, "predictions").parent
    outputs = EvaluationOutputs(
        predictions=split_root / "predictions" / folder,
        overlays=split_root / "overlays" / folder if overlay else None,
        metrics=place.log / f"{stem}.json",
        table=place.log / f"{stem}_images.csv",
        confusion=place.plots / f"{stem}_confusion.png",
        reliability=place.plots / f"{stem}_reliability.png",
    )
    request = EvaluationRequest(
        name=name,
        split=test_folder,
        model=model or place.saved / f"{name}.pth",
        tolerance=tolerance,
    )
    with step_progress("evaluating", unit="images") as progress:
        result = evaluate(data, request, predictor, outputs, progress)
    if as_json:
        print_json(json.loads(outputs.metrics.read_text(encoding="utf-8")))
    else:
        print_evaluation(result, outputs)
    if page:
        click.echo(leave_page(write_evaluation_page, outputs.metrics, width=NAME_WIDTH), err=as_json)


def _checkpoint_predictor(
    place: Workspace, dataset: str, version: str, *, gpu: bool
) -> tuple[Predictor, str]:
    from matseg_trainer.predict.checkpoint import check_config, load_checkpoint
    from matseg_trainer.predict.predictor import Predictor
    from matseg_trainer.train.device import choose_compute

    config = place.config().version(dataset, version)
    path = place.saved / f"{dataset}_{version}.pth"
    checkpoint = load_checkpoint(path)
    check_config(path, checkpoint, config)
    compute = choose_compute(gpu=gpu, precision="fp32")
    if gpu and compute.device.type == "cpu":
        warn(f"evaluating on the CPU: {compute.device_reason}")
    return Predictor.of_checkpoint(checkpoint, compute.device), checkpoint.training.network


def _onnx_predictor(path: Path, name: str, trust: Trust, *, gpu: bool) -> tuple[Predictor, str]:
    from matseg_runtime.inference.session import Session
    from matseg_trainer.predict.predictor import Predictor

    session = Session.open(path, provider="cuda" if gpu else "cpu", trust=trust)
    metadata = session.model.metadata
    if metadata.name != name:
        raise UsageError(
            f"{path}: expected a model of {name}, found one of {metadata.name}; name its version"
        )
    session.require_self_test()
    return Predictor.of_session(session), metadata.training.network


@click.command(
    name="matseg-export",
    cls=Command,
    examples=[
        Example("one file that runs anywhere", "matseg-export steel v1 -o steel.onnx"),
        Example(
            "for CPUs: several times as fast", "matseg-export steel v1 --precision int8 -o steel_int8.onnx"
        ),
        Example("for GPUs", "matseg-export steel v1 --precision fp16 -o steel_fp16.onnx"),
        Example(
            "for few images, where each pixel counts: the mean of eight views",
            "matseg-export steel v1 --tta 8 -o steel_tta.onnx",
        ),
        Example(
            "a package for ilastik, deepImageJ and QuPath, too",
            "matseg-export steel v1 --bioimageio steel.zip --author 'Jane Doe' --licence CC-BY-4.0",
        ),
    ],
)
@dataset_argument
@version_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: saved/<name>.onnx."
)
@click.option("--precision", type=Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True)
@click.option(
    "--tta",
    type=Choice(["1", "4", "8"]),
    default="1",
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
    help="Write a package for bioimage.io, too (ilastik, deepImageJ, QuPath); of the ONNX file that is there, if it is "
    "of this checkpoint.",
)
@click.option("--author", "authors", multiple=True, metavar="NAME", help="Of the package; once per person.")
@click.option("--licence", metavar="SPDX", help="Of the package: CC-BY-4.0, MIT, ...")
@click.option(
    "--cite", "citations", multiple=True, metavar="'TEXT DOI'", help="What users of the package are to cite."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@workspace_option
@json_option
@debug_option
def export_main(
    dataset: str,
    version: str,
    output: Path | None,
    precision: Precision,
    tta: str,
    pixel_size: str | None,
    bioimageio: Path | None,
    authors: tuple[str, ...],
    licence: str | None,
    citations: tuple[str, ...],
    overwrite: bool,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """Export the best checkpoint of VERSION of DATASET to one self-describing ONNX file.

    The file is written only when the graph does what the torch network does. fp16 (for GPUs) and int8 (for CPUs)
    need the data set: ranges are chosen on its training images, and a mean IoU on its validation images that is more
    than 0.002 below fp32's fails the export.

    --tta is for networks that were trained on flipped and turned crops (aug). Whether it gains anything, tell by
    matseg-evaluate --model.
    """
    place = Workspace.find(workspace)
    config = place.config().version(dataset, version)
    data = place.dataset(dataset) if precision != "fp32" else None
    require_train_extra("matseg-export")
    from matseg_trainer.commands.summaries import ExportSummary
    from matseg_trainer.data.pixel_size import parse_pixel_size
    from matseg_trainer.export.existing import exported_before
    from matseg_trainer.export.export import export_checkpoint
    from matseg_trainer.predict.checkpoint import check_config, load_checkpoint

    path = place.saved / f"{dataset}_{version}.pth"
    target = output or place.saved / f"{dataset}_{version}.onnx"
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: expected a file name that ends in .onnx")
    count = cast("Views", int(tta))
    package = _package(bioimageio, authors, licence, citations, overwrite=overwrite)
    there = target.exists() and not overwrite
    if there and package is None:
        raise UsageError(f"{target}: exists already; give --overwrite to replace it, or another name with -o")
    checkpoint = load_checkpoint(path)
    check_config(path, checkpoint, config)
    if count > 1 and not config.aug:
        warn(
            f"{dataset}_{version} was trained without aug, on views that are neither flipped nor turned: the mean of "
            f"{count} views may be worse than the image itself; compare with matseg-evaluate --model"
        )
    if pixel_size is not None:
        checkpoint = dataclasses.replace(checkpoint, pixel_size=parse_pixel_size(pixel_size))
    if there:
        result = exported_before(target, checkpoint, precision, count)
    else:
        with shown_progress("exporting") as progress:
            result = export_checkpoint(
                checkpoint, target, precision=precision, tta=count, dataset=data, progress=progress
            )
    if package is not None:
        from matseg_trainer.export.bioimageio import write_package

        write_package(package, target)
    summary = ExportSummary.of(result, None if package is None else package.path)
    if as_json:
        print_json(summary)
    else:
        click.echo("\n".join(summary.lines()))


def _package(
    path: Path | None,
    authors: tuple[str, ...],
    licence: str | None,
    citations: tuple[str, ...],
    *,
    overwrite: bool,
) -> Package | None:
    if path is None:
        if authors or licence is not None or citations:
            raise click.UsageError(
                "--author, --licence and --cite describe a package: give --bioimageio FILE.zip"
            )
        return None
    from matseg_trainer.export.bioimageio import Package

    return Package.parse(path, authors, licence, citations, overwrite=overwrite)
