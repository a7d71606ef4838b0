"""Volumes instead of slices: what neighbours, axes that agree, and ensembles bring, each with its price.

`python benchmarks/volumes.py --work build/volumes --labels FILE.tif --seeds 3`

Networks are trained on a few labelled slices of one volume, by the commands that a user types, and label another volume
whose truth is known: the demo's phantom in three dimensions, and a scan that is simulated from each label volume FILE.
Compared are one slice at a time, slices with their neighbours (2.5D), the consensus of three axes, the ensemble of all
seeds, and their combinations. What is done is kept in `--work`, and not done again. A combination that matseg-run
refuses is listed with its reason. Seconds are those of the whole command, its start included: compare them on volumes
that take it a minute.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import tifffile
import zarr
from _common import reporting
from _volumes import Case, Figures, draw_gain, figures, flips, phantom, simulated
from numpy.typing import NDArray
from recipes import _median_and_range, command

from matseg_runtime.measure.label_input import open_labels
from matseg_runtime.source.base import SourceOptions
from matseg_shared.console.command import debug_option
from matseg_shared.system.files import write_text

_EPOCHS = 10
_UNLABELLED = 255
_HEADER = (
    "arm", "trainings", "mean IoU", "boundary displacement (voxels)", "labels that flip twice", "surface / truth",
    "s / Mvoxel",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of all trainings."""

    slices: int
    """Labelled slices of the training volume."""
    steps: int
    seeds: int
    width: int
    context: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to label a volume."""

    name: str
    context: int = 0
    ensemble: bool = False
    consensus: bool = False

    @property
    def dataset(self) -> str:
        """The data set that its networks are trained on."""
        return f"context{self.context}"


def arms_of(plan: Plan) -> list[Arm]:
    """One slice at a time, each of the three means, and their combinations."""
    found = []
    for consensus in (False, True):
        for ensemble in (False, True):
            if ensemble and plan.seeds < 2:
                continue
            for context in (0, plan.context):
                parts = [
                    "one slice" if context == 0 else f"{2 * context + 1} slices",
                    *["ensemble"] * ensemble,
                    *["consensus"] * consensus,
                ]
                found.append(
                    Arm(name=", ".join(parts), context=context, ensemble=ensemble, consensus=consensus)
                )
    return found


def prepare(place: Path, case: Case, plan: Plan) -> None:
    """Volumes, data sets and versions in a workspace of the case's own."""
    classes = int(case.train[1].max()) + 1
    if not (place / "test.zarr").exists():
        place.mkdir(parents=True, exist_ok=True)
        grey, truth = case.train
        labels = np.full_like(truth, _UNLABELLED)
        chosen = np.linspace(0, len(truth) - 1, plan.slices + 2)[1:-1].round().astype(int)
        labels[chosen] = truth[chosen]
        tifffile.imwrite(place / "train.tif", grey, photometric="minisblack")
        tifffile.imwrite(place / "labels.tif", labels, photometric="minisblack")
        np.save(place / "truth.npy", case.test[1])
        zarr.create_array(str(place / "test.zarr"), data=case.test[0], chunks=(64, 64, 64))
    tables = []
    for context in (0, plan.context):
        name = f"context{context}"
        if not (place / "data" / name / "classes.toml").exists():
            words = ["--labels", str(place / "labels.tif"), "--unlabelled", str(_UNLABELLED)]
            words += ["--classes", str(classes), "--context", str(context), "--overwrite"]
            command(
                "matseg-prep", "import", str(place / "train.tif"), name, *words, "--workspace", str(place)
            )
        tables.append(f"[{name}.default]\nn_class = {classes}")
        tables += [_version(name, seed, plan, min(case.train[1].shape[1:])) for seed in range(plan.seeds)]
    write_text(place / "config.toml", "\n\n".join(tables) + "\n")


def _version(dataset: str, seed: int, plan: Plan, edge: int) -> str:
    settings = {
        "model": "unet",
        "width": plan.width,
        "crop": min(128, edge),
        "batch_size": 4,
        "lr": 0.003,
        "steps": -(-plan.steps // _EPOCHS),
        "epoch": _EPOCHS,
        "aug": "turns",
        "shuffle": True,
        "loss": "dice",
        "schedule": "cosine",
        "checkpoint": "last",
        "validation_images": [],
        "seed": seed,
    }
    lines = (f"{key} = {json.dumps(value)}" for key, value in settings.items())
    return f"[{dataset}.s{seed}]\n" + "\n".join(lines)


def train(place: Path, dataset: str, seed: int, threads: int) -> None:
    """One network, unless it is there; an interrupted training goes on."""
    name = f"{dataset}_s{seed}"
    saved = place / "saved"
    begun = (saved / f"{name}.resume.pth").exists()
    if begun or not (saved / f"{name}.pth").exists():
        words = [dataset, f"s{seed}", "--no-report", "--workspace", str(place)]
        command("matseg-train", *words, *["--resume"] * begun, threads=threads)


def models_of(place: Path, arm: Arm, plan: Plan) -> Iterator[Path]:
    """Exported files, one for each seed, or the one of all."""
    for seed in range(plan.seeds):
        train(place, arm.dataset, seed, plan.threads)
    versions = [f"s{seed}" for seed in range(plan.seeds)]
    choices = [["--ensemble", ",".join(versions)]] if arm.ensemble else [[version] for version in versions]
    for choice in choices:
        path = place / f"{arm.dataset}_{choice[-1].replace(',', '+')}.onnx"
        if not path.exists():
            command(
                "matseg-export", arm.dataset, *choice, "-o", str(path), "--workspace", str(place),
                threads=plan.threads,
            )  # fmt: skip
        yield path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One volume that one model labelled one way."""

    figures: Figures
    seconds: float
    """Time of the whole command."""


def label(place: Path, arm: Arm, model: Path, plan: Plan) -> Outcome:
    """Label the test volume and compare; what was done before is read."""
    output = place / f"{model.stem}{'_consensus' * arm.consensus}.zarr"
    summary = output.with_suffix(".json")
    if not summary.exists():
        words = [str(model), str(place / "test.zarr"), "-o", str(output), "--no-report", "--overwrite"]
        started = time.perf_counter()
        command(
            "matseg-run", *words, "--threads", str(plan.threads), *["--consensus"] * arm.consensus,
            threads=plan.threads,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        found = figures(np.load(place / "truth.npy"), _read(output))
        write_text(summary, json.dumps({"seconds": seconds, "figures": dataclasses.asdict(found)}))
    done = json.loads(summary.read_text(encoding="utf-8"))
    return Outcome(figures=Figures(**done["figures"]), seconds=done["seconds"])


def _read(output: Path) -> NDArray[np.uint8]:
    with closing(open_labels(str(output), SourceOptions(as_labels=True))) as source:
        return np.stack(source.read(0, len(source.slices))).astype(np.uint8)


def _compared(place: Path, plan: Plan) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Labels of the first seed, of one slice at a time, with neighbours, and by consensus."""
    for arm in arms_of(plan):
        if not arm.ensemble and (arm.context == 0 or not arm.consensus):
            suffix = "_consensus" * arm.consensus
            yield arm.name, _read(place / f"{arm.dataset}_s0{suffix}.zarr")


def row_of(arm: Arm, outcomes: Sequence[Outcome], voxels: int) -> list[str]:
    """Medians and ranges over the seeds."""
    found = [item.figures for item in outcomes]
    return [
        arm.name,
        str(len(outcomes)),
        _median_and_range([item.mean_iou for item in found]),
        _median_and_range([item.displacement for item in found], 3),
        _median_and_range([100 * item.flips for item in found], 3) + " %",
        _median_and_range([item.surface for item in found], 3),
        _median_and_range([item.seconds / voxels * 1e6 for item in outcomes], 2),
    ]


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/volumes"), show_default=True)
@click.option(
    "--labels",
    "files",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="TIFF with a label volume, from which a scan is simulated; repeatable.",
)
@click.option("--phantom/--no-phantom", "with_phantom", default=True, help="The demo's phantom, too.")
@click.option(
    "--edge", type=click.IntRange(min=32), default=192, show_default=True, help="Of a slice, voxels."
)
@click.option(
    "--depth", type=click.IntRange(min=8), default=96, show_default=True, help="Slices of a volume."
)
@click.option(
    "--slices", type=click.IntRange(min=1), default=4, show_default=True, help="Labelled to learn from."
)
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True, help="Of each training.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings of each kind."
)
@click.option("--width", type=click.IntRange(min=1), default=8, show_default=True, help="Of the U-Net.")
@click.option(
    "--context", type=click.IntRange(min=1), default=1, show_default=True, help="Neighbours on a side."
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="The report as Markdown.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Of the first case, PNG.")
@debug_option
def main(
    work: Path,
    files: tuple[Path, ...],
    with_phantom: bool,
    edge: int,
    depth: int,
    slices: int,
    steps: int,
    seeds: int,
    width: int,
    context: int,
    threads: int,
    save: Path | None,
    picture: Path | None,
) -> None:
    """Train on a few slices, label volumes in every way, and compare with the truth."""
    plan = Plan(slices=slices, steps=steps, seeds=seeds, width=width, context=context, threads=threads)
    cases = [phantom((depth, edge), 0)] if with_phantom else []
    cases += [simulated(path, (depth, edge), 0) for path in files]
    with reporting("Volumes", save) as report:
        for case in cases:
            settings = (*dataclasses.astuple(plan)[:2], width, depth, edge)
            place = work / f"{case.name}-{'-'.join(map(str, settings))}"
            prepare(place, case, plan)
            truth = np.load(place / "truth.npy")
            rows, refused = [], []
            for arm in arms_of(plan):
                try:
                    outcomes = [label(place, arm, model, plan) for model in models_of(place, arm, plan)]
                except click.ClickException as error:
                    refused.append(f"- {arm.name}: {error.format_message()}")
                    continue
                rows.append(row_of(arm, outcomes, truth.size))
                click.echo(" | ".join(rows[-1]), err=True)
            report.say(
                f"## {case.name}\n\n{' x '.join(map(str, truth.shape))} voxels; {flips(truth):.3%} of the truth flip "
                f"twice; {plan.slices} labelled slices, {plan.steps} steps of a U-Net of width {plan.width}.\n"
            )
            report.table(_HEADER, rows)
            if picture is not None and case is cases[0]:
                draw_gain(picture, case.test[0], truth, dict(_compared(place, plan)))
            if refused:
                report.say("Not done:\n\n" + "\n".join(refused) + "\n")


if __name__ == "__main__":
    main()
