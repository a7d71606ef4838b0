"""The command `matseg-evaluate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from matseg_runtime.cli.completion import complete_model
from matseg_runtime.cli.options import sha256_option
from matseg_shared.console.command import debug_option, json_option, print_json, warn
from matseg_shared.console.help import Command
from matseg_shared.console.options import Range, applies_with, flag, page_option, show_option
from matseg_shared.console.progress import shown_progress
from matseg_shared.errors import UsageError
from matseg_trainer.commands.completion import complete_dataset, complete_split
from matseg_trainer.commands.options import (
    dataset_argument,
    gpu_option,
    require_train_extra,
    trained_checkpoint,
    version_argument,
)
from matseg_trainer.workspace import Workspace, workspace_option

if TYPE_CHECKING:
    from matseg_runtime.model.trust import Trust
    from matseg_shared.contract.metadata import TrainingInfo
    from matseg_trainer.data.folder import Dataset
    from matseg_trainer.predict.predictor import Predictor


@cloup.command(
    name="matseg-evaluate",
    cls=Command,
    examples="""
        matseg-evaluate tomography v7 --overlay  # figures per class and image, and pictures of what is wrong
        matseg-evaluate tomography v7 --model saved/tomography_v7.onnx
            # the same of an exported file, as machines without torch will see it
        matseg-evaluate tomography v7 --test-folder validate  # on other labelled images than those of test/
        matseg-evaluate alloy v2 --show 4,0,2  # the page shows three of many channels as red, green and blue
        matseg-evaluate steel v1 --data rock  # on another data set with classes of the same names
    """,
)
@dataset_argument
@version_argument
@click.option(
    "--data",
    "other",
    metavar="OTHER",
    shell_complete=complete_dataset,
    help="Evaluate on this data set instead of DATASET; its classes are matched with the model's by name.",
)
@click.option(
    "--test-folder",
    metavar="SPLIT",
    help="The split to evaluate. Default: test; where there is none, the images that validated the training.",
    shell_complete=complete_split,
)
@flag("--overlay", "Draw overlays that mark the wrong pixels.")
@gpu_option
@click.option(
    "--model",
    type=click.Path(path_type=Path, dir_okay=False),
    shell_complete=complete_model,
    help="Evaluate this exported ONNX file instead of the checkpoint.",
)
@click.option(
    "--tolerance",
    type=Range(min=0),
    metavar="PIXELS",
    default=2.0,
    show_default=True,
    help="Largest distance at which two boundaries count as the same.",
)
@sha256_option
@workspace_option
@show_option
@page_option
@json_option
@applies_with("model", "sha256")
@debug_option
def evaluate_main(
    dataset: str,
    version: str,
    other: str | None,
    test_folder: str | None,
    overlay: bool,
    gpu: bool,
    model: Path | None,
    tolerance: float,
    sha256: str | None,
    shown: tuple[int, ...] | None,
    page: bool,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """Measure VERSION of DATASET on labelled images.

    Overlays keep the label's colour where a pixel is right. Two classes: false positives green, false negatives
    pink; more classes: wrong pixels pink. log/ gets the figures as JSON and, image by image with the worst first, as
    CSV; plots/ the confusion matrix and the reliability diagram.
    """
    place = Workspace.find(workspace)
    data = place.dataset(other or dataset)
    require_train_extra("matseg-evaluate")
    from matseg_runtime.model.trust import trust_of
    from matseg_trainer.evaluate.console import NAME_WIDTH, print_evaluation
    from matseg_trainer.evaluate.run import EvaluationOutputs, EvaluationRequest, evaluate
    from matseg_trainer.pages.evaluation import write_evaluation_page
    from matseg_trainer.pages.places import page_line
    from matseg_trainer.prepare.labels import update_arrays

    name = f"{dataset}_{version}"
    if model is None:
        predictor, training = _checkpoint_predictor(place, dataset, version, gpu=gpu)
    else:
        predictor, training = _onnx_predictor(model, name, trust_of(sha256), gpu=gpu)
    if other in (None, dataset):
        data = data.as_trained(training)
    split = test_folder or _split_of(data)
    with shown_progress() as progress:
        for note in update_arrays(data, [split], len(predictor.classes), progress):
            click.echo(f"note: {note}", err=True)
    request = EvaluationRequest(
        name=name,
        split=split,
        model=model or place.saved / f"{name}.pth",
        dataset=None if other in (None, dataset) else other,
        tolerance=tolerance,
    )
    outputs = EvaluationOutputs.of(
        place, data, request, training.network, exported=model is not None, overlays=overlay
    )
    with shown_progress() as progress:
        progress.stage("evaluating", unit="images")
        result = evaluate(data, request, predictor, outputs, progress.reach)
    if as_json:
        print_json(result)
    else:
        print_evaluation(result, outputs)
    if page:
        write = partial(write_evaluation_page, show=shown)
        click.echo(page_line(write, outputs.metrics, width=NAME_WIDTH), err=as_json)


def _split_of(data: Dataset) -> str:
    """The split that tells most of unseen images: `test`, or, with a word on it, `validate`."""
    validating = "validate" in data.splits if data.validation_images is None else data.validation_images
    if "test" in data.splits or not validating:
        return "test"
    warn(
        f"{data.root} has no test/: the images to validate with are evaluated, which flatter a training whose epoch or "
        "version they chose"
    )
    return "validate"


def _checkpoint_predictor(
    place: Workspace, dataset: str, version: str, *, gpu: bool
) -> tuple[Predictor, TrainingInfo]:
    from matseg_trainer.predict.predictor import Predictor
    from matseg_trainer.train.device import choose_compute

    checkpoint = trained_checkpoint(place, dataset, version)
    compute = choose_compute(gpu=gpu, amp="fp32")
    if gpu and compute.device.type == "cpu":
        warn(f"evaluating on the CPU: {compute.device_reason}")
    return Predictor.of_checkpoint(checkpoint, compute.device), checkpoint.training


def _onnx_predictor(path: Path, name: str, trust: Trust, *, gpu: bool) -> tuple[Predictor, TrainingInfo]:
    from matseg_runtime.inference.session import Session
    from matseg_trainer.predict.predictor import Predictor

    session = Session.open(path, provider="cuda" if gpu else "cpu", trust=trust)
    metadata = session.model.metadata
    if metadata.name != name:
        found = f"expected a model of {name}, found one of {metadata.name}"
        raise UsageError(f"{path}: {found}; name its version")
    session.require_self_test()
    return Predictor.of_session(session), metadata.training
