"""Compare training recipes: every arm with several seeds, a few at a time, and a table with medians and spread.

`python benchmarks/recipes.py benchmarks/recipes/tomography.toml --data FOLDER --work build/recipes`

FOLDER holds the data sets as matseg-prep expects them. The file names a data set, the hyperparameters that all arms
share (`[base]`), and the arms (`[arms.NAME]`: what differs). Besides hyperparameters an arm may have `images = N` (only
so many training slices, evenly spread), `folds = K` (cross-validation over all labelled images, those of test/ as well,
by `matseg-train --folds`; each training is a row's figure, on the fold that it has not seen), `init` (for `--weights`,
with {seed} in it). With `preset = "auto"` the plan is made first, as `matseg-prep config` makes it. Images that nobody
has split are drawn at random, unless an arm names its `validation_images`; those are its test as well. `"none"` leaves
a hyperparameter out. Finished trainings are not repeated.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from _common import markdown_table

from matseg_shared.system.files import write_text

_OURS = ("images", "folds", "init", "dataset", "n_class")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One recipe."""

    name: str
    dataset: str
    n_class: int
    settings: dict[str, Any]
    """Hyperparameters for config.toml."""
    images: int | None = None
    folds: int | None = None
    init: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One arm with one seed."""

    arm: Arm
    seed: int

    @property
    def version(self) -> str:
        """Its name in config.toml."""
        return f"{self.arm.name}-{self.seed}"

    @property
    def dataset(self) -> str:
        """The data set it is trained on: the original or a variant of it."""
        if self.arm.folds is not None:
            return f"{self.arm.dataset}-all"
        if self.arm.images is not None:
            return f"{self.arm.dataset}-{self.arm.images}slices"
        return self.arm.dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of one training."""

    best_epoch: int
    validate: float
    """Mean IoU of the best epoch."""
    classes: tuple[float, ...]
    """IoU per class of the best epoch on validation, NaN where undefined."""
    last: float
    """Mean IoU of the last epoch."""
    minutes: float
    test: float
    """Mean IoU on the test split."""
    accuracy: float
    """Share of its pixels that are labelled right."""


def arms_of(path: Path) -> list[Arm]:
    """The arms of a TOML file."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    arms = []
    for name, changes in document["arms"].items():
        table = {**document["base"], **changes}
        arms.append(
            Arm(
                name=name,
                dataset=table.get("dataset", document.get("dataset")),
                n_class=table.get("n_class", document.get("n_class")),
                settings={key: value for key, value in table.items() if key not in _OURS and value != "none"},
                images=table.get("images"),
                folds=table.get("folds"),
                init=table.get("init"),
            )
        )
    return arms


def prepare(work: Path, data: Path, trials: Sequence[Trial]) -> None:
    """Data sets, their variants and plans, and a config.toml with one version per trial."""
    counts = {name: trial.arm.n_class for trial in trials for name in (trial.dataset, trial.arm.dataset)}
    defaults = [f"[{name}.default]\nn_class = {count}\n" for name, count in counts.items()]
    write_text(work / "config.toml", "".join(defaults))
    for trial in trials:
        _make_dataset(work, data / trial.arm.dataset, trial)
    planned = [trial.dataset for trial in trials if trial.arm.settings.get("preset") == "auto"]
    for name in dict.fromkeys(planned):
        command("matseg-prep", "config", name, "--workspace", str(work))
    with (work / "config.toml").open("a", encoding="utf-8") as file:
        for trial in trials:
            keys = [f"{key} = {json.dumps(value)}\n" for key, value in trial.arm.settings.items()]
            file.writelines([f"\n[{trial.dataset}.{trial.version}]\n", *keys])


def _make_dataset(work: Path, original: Path, trial: Trial) -> None:
    """Copy a data set, a part of it, or another split of all of it, and make its label arrays."""
    root = work / "data" / trial.dataset
    if (root / "classes.toml").exists():
        return
    if not root.exists():
        copy_images(work, original, root, trial.arm)
    splits = [folder.name for folder in sorted(root.iterdir()) if (folder / "labels").is_dir()]
    nearest = ("--nearest", "--max-moved", "5%")
    command("matseg-prep", "labels", trial.dataset, *splits, *nearest, "--workspace", str(work))


def copy_images(work: Path, original: Path, root: Path, arm: Arm) -> None:
    """The images and label images of one data set; with folds all of them in train/."""
    if arm.folds is not None:
        for kind in ("images", "labels"):
            (root / "train" / kind).mkdir(parents=True)
            for path in (*original.glob(f"{kind}/*"), *original.glob(f"*/{kind}/*")):
                shutil.copy2(path, root / "train" / kind / path.name)
    elif (original / "images").is_dir() and "validation_images" in arm.settings:
        for kind in ("images", "labels"):
            shutil.copytree(original / kind, root / "train" / kind)
    elif (original / "images").is_dir():  # labelled images that nobody has split yet
        command("matseg-prep", "split", str(original), root.name, "--workspace", str(work))
    else:
        shutil.copytree(original, root)
    if arm.images is not None:
        _thin_out(root / "train", arm.images, arm.settings.get("validation_images", []))


def _thin_out(split: Path, count: int, validation: Sequence[str]) -> None:
    """Keep so many images of a split, evenly spread in the order of their names, besides those that validate."""
    stems = sorted({path.stem for path in (split / "images").iterdir()}.difference(validation))
    spread = np.linspace(0, len(stems) - 1, count + 2)[1:-1].round()
    chosen = {*validation, *(stems[int(place)] for place in spread)}
    for path in [*(split / "images").iterdir(), *(split / "labels").iterdir()]:
        if path.stem not in chosen and path.stem.removesuffix("_L") not in chosen:
            path.unlink()


def command(name: str, *arguments: str, threads: int = 1) -> str:
    """Standard output of one of our commands; its errors are ours."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    script = Path(sys.executable).with_name(name)
    done = subprocess.run(
        [str(script), *arguments], check=False, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise click.ClickException(
            f"{name} {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def run(work: Path, trial: Trial, threads: int) -> list[Result]:
    """Train and evaluate, unless both were done before."""
    name = f"{trial.dataset}_{trial.version}"
    summary = work / "log" / f"{name}.recipe.json"
    words = [trial.dataset, trial.version, "--json", "--workspace", str(work)]
    if not summary.exists():
        started = time.monotonic()
        train = [*words, "--seed", str(trial.seed)]
        if trial.arm.init is not None:
            train += ["--weights", trial.arm.init.format(seed=trial.seed)]
        if trial.arm.folds is not None:
            done = command(
                "matseg-train", *train, "--folds", str(trial.arm.folds), "--resume", threads=threads
            )
            write_text(summary, json.dumps(json.loads(done)["folds"]))
        else:
            command("matseg-train", *train, "--overwrite", threads=threads)
            minutes = (time.monotonic() - started) / 60
            test = json.loads(command("matseg-evaluate", *words, threads=threads))
            figures = {"minutes": minutes, "test": test["mean_iou"], "accuracy": test["accuracy"]}
            write_text(summary, json.dumps(figures))
    done = json.loads(summary.read_text(encoding="utf-8"))
    if trial.arm.folds is None:
        return [_result(work / "log" / f"{name}.jsonl", done["minutes"], done["test"], done["accuracy"])]
    return [
        _result(
            work / "log" / f"{name}.fold{one['fold']}.seed{one['seed']}.jsonl",
            one["seconds"] / 60,
            one["mean_iou"],
            one["accuracy"],
        )
        for one in done["trainings"]
    ]


def _result(log: Path, minutes: float, test: float, accuracy: float) -> Result:
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    best = max(records, key=lambda item: item["validate"]["mean_iou"])
    return Result(
        best_epoch=best["epoch"],
        validate=best["validate"]["mean_iou"],
        classes=tuple(float("nan") if value is None else value for value in best["validate"]["iou"]),
        last=records[-1]["validate"]["mean_iou"],
        minutes=minutes,
        test=test,
        accuracy=accuracy,
    )


def _median_and_range(values: Sequence[float], digits: int = 4) -> str:
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def rows_of(arms: Sequence[Arm], results: dict[tuple[str, int], list[Result]]) -> Iterator[list[str]]:
    """One row per arm that has results."""
    for arm in arms:
        mine = [
            result for (name, _), found in sorted(results.items()) if name == arm.name for result in found
        ]
        if mine:
            classes = " ".join(
                f"{statistics.median(values):.3f}"
                for values in zip(*(result.classes for result in mine), strict=True)
            )
            yield [
                arm.name,
                str(len(mine)),
                _median_and_range([result.validate for result in mine]),
                classes,
                _median_and_range([result.last for result in mine]),
                _median_and_range([result.test for result in mine]),
                _median_and_range([result.accuracy for result in mine]),
                _median_and_range([result.minutes for result in mine], 1),
            ]


HEADER = (
    "arm",
    "trainings",
    "validation mean IoU, best epoch",
    "per class",
    "last epoch",
    "test mean IoU",
    "test accuracy",
    "minutes",
)


@click.command()
@click.argument("arms_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of data sets."
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/recipes"), show_default=True)
@click.option("--only", multiple=True, help="Arms to train; all when not given.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="How many seeds.")
@click.option(
    "--first-seed", default=0, show_default=True, type=click.IntRange(min=0), help="The first of them."
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Trainings at a time.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Of each.")
def main(
    arms_file: Path,
    data: Path,
    work: Path,
    only: tuple[str, ...],
    seeds: int,
    first_seed: int,
    jobs: int,
    threads: int,
) -> None:
    """Train every arm of ARMS_FILE and print the table."""
    arms = [arm for arm in arms_of(arms_file) if not only or arm.name in only]
    trials = [Trial(arm=arm, seed=seed) for seed in range(first_seed, first_seed + seeds) for arm in arms]
    work = work / arms_file.stem
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, data, trials)
    results: dict[tuple[str, int], list[Result]] = {}

    def measure(trial: Trial) -> None:
        results[trial.arm.name, trial.seed] = found = run(work, trial, threads)
        for result in found:
            click.echo(
                f"{trial.version}: validation {result.validate:.4f} in epoch {result.best_epoch}, "
                f"last {result.last:.4f}, test {result.test:.4f} (accuracy {result.accuracy:.4f}), "
                f"{result.minutes:.1f} min",
                err=True,
            )

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(measure, trial) for trial in trials]:
            done.result()
    click.echo(markdown_table(HEADER, list(rows_of(arms, results))))


if __name__ == "__main__":
    main()
