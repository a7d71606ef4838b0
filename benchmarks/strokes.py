"""Brush strokes against full labels of the same images: train on both, with strokes on a small share of the pixels.

`python benchmarks/strokes.py --data FOLDER --set tomography --work build/strokes`

FOLDER holds the data sets as matseg-prep expects them. Strokes are drawn inside the regions of each class, thin curved
lines as a hand draws them, half of them along a boundary; for each class about as many pixels. Both trainings are the
set's recipe of config.toml, with as many steps as all of its images would have and the last epoch kept, so that the
full labels of the other splits measure and do not choose. Finished trainings are not repeated.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import recipes
from _common import ROOT, markdown_table, verdict
from numpy.typing import NDArray
from PIL import Image
from recipes import Arm, Trial
from scipy import ndimage

from matseg_shared.contract.classes import UNLABELLED, Legend, read_classes, write_legend
from matseg_trainer.config.load import load_config
from matseg_trainer.data.folder import Dataset, load_array

_NEAR = 8
"""Farthest from another class that a stroke begins along a boundary, pixels."""
_CLEAR = 2.0
"""Distance from other classes that the middle of a stroke keeps where there is room, pixels."""
_LENGTHS = (30, 150)
"""Shortest and longest stroke, pixels."""
_WAVER = 0.12
"""Standard deviation of the change of direction from one pixel to the next, radians."""
_TURNS = (0.0, 0.4, -0.4, 0.8, -0.8, 1.3, -1.3)
"""Changes of direction tried where the way ahead leads out of the region, radians."""
_MOST = 0.5
"""Share of a class in an image that is drawn at most."""
_BRUSH = np.argwhere(np.ones((3, 3))) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A data set, its recipe, and what strokes should reach."""

    dataset: str
    version: str
    images: int
    share: float
    """Pixels with strokes, of all of each image."""
    goal: float
    """Mean IoU with strokes over that with full labels."""


CASES = (
    Case(dataset="tomography", version="v9", images=3, share=0.01, goal=0.97),
    Case(dataset="uhcs", version="v10", images=16, share=0.05, goal=0.95),
    Case(dataset="sandstone", version="v1", images=3, share=0.05, goal=0.95),
)


def draw_strokes(labels: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Labels where strokes are, `UNLABELLED` elsewhere.

    The budget of `share` of the pixels is shared out evenly to the classes in the image; of what a small one cannot
    take, the others have the more.
    """
    drawn = np.full_like(labels, UNLABELLED)
    budget = round(share * labels.size)
    indices, areas = np.unique(labels, return_counts=True)
    for left, position in zip(range(len(indices), 0, -1), np.argsort(areas), strict=True):
        pixels = min(round(budget / left), max(1, int(_MOST * areas[position])))
        _draw_class(drawn, labels == indices[position], int(indices[position]), pixels, rng)
        budget -= pixels
    return drawn


def _draw_class(
    drawn: NDArray[np.uint8], inside: NDArray[np.bool_], index: int, pixels: int, rng: np.random.Generator
) -> None:
    """Strokes of one class, until so many pixels are labelled."""
    room = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"))[1:-1, 1:-1]
    clear = min(_CLEAR, float(room.max()))
    starts = [np.argwhere((room >= clear) & (room <= farthest)) for farthest in (_NEAR, np.inf)]
    starts = [places for places in starts if len(places)]
    while pixels > 0:
        places = starts[rng.integers(len(starts))]
        for place in _stroke(room, clear, places[rng.integers(len(places))], rng):
            for y, x in place + _BRUSH:
                within = 0 <= y < inside.shape[0] and 0 <= x < inside.shape[1]
                if pixels > 0 and within and inside[y, x] and drawn[y, x] == UNLABELLED:
                    drawn[y, x] = index
                    pixels -= 1


def _stroke(
    room: NDArray[np.float64], clear: float, start: NDArray[np.intp], rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Pixels in the middle of one stroke, which wavers and gives way to what is not of its class."""
    path, place = [start], start.astype(np.float64)
    angle = rng.uniform(-np.pi, np.pi)
    for _ in range(rng.integers(*_LENGTHS)):
        angle += rng.normal(0, _WAVER)
        for turn in _TURNS:
            ahead = place + np.array([np.sin(angle + turn), np.cos(angle + turn)])
            pixel = np.rint(ahead).astype(np.intp)
            if (pixel >= 0).all() and (pixel < room.shape).all() and room[tuple(pixel)] >= clear:
                angle, place = angle + turn, ahead
                path.append(pixel)
                break
        else:
            break
    return path


def make_sets(work: Path, data: Path, case: Case) -> tuple[str, str, float]:
    """Data sets with full labels and with strokes; their names, and the share of pixels that is drawn in the second."""
    full, strokes = f"{case.dataset}-full", f"{case.dataset}-strokes"
    root = work / "data" / full
    work.mkdir(parents=True, exist_ok=True)
    if not (root / "classes.toml").exists():
        images = sum(1 for _ in (data / case.dataset).glob("train/images/*"))
        thinned = None if case.images == images else case.images
        arm = Arm(name="", dataset=full, n_class=0, settings={}, images=thinned)
        recipes.copy_images(work, data / case.dataset, root, arm)
        n_class = str(_recipe(case)["n_class"])
        splits = Dataset.open(root).splits
        words = ["labels", full, *splits, "--classes", n_class, "--nearest", "--overwrite"]
        recipes.command("matseg-prep", *words, "--workspace", str(work))
    target, classes = work / "data" / strokes, read_classes(root / "classes.toml")
    shutil.copytree(root, target, dirs_exist_ok=True)
    labelled = []
    for number, path in enumerate(sorted((target / "train" / "labels_npy").glob("*.npy"))):
        labels = load_array(root / path.relative_to(target), len(classes))
        drawn = draw_strokes(labels, case.share, np.random.default_rng(number))
        labelled.append(float(np.mean(drawn != UNLABELLED)))
        np.save(path, drawn)
    for split in Dataset.open(target).splits:
        shutil.rmtree(target / split / "labels")
        (target / split / "labels").mkdir()
        for path in sorted((target / split / "labels_npy").glob("*.npy")):
            Image.fromarray(np.load(path)).save(target / split / "labels" / f"{path.stem}.png")
    legend = Legend.of([item.model_copy(update={"label_value": item.index}) for item in classes])
    write_legend(target / "classes.toml", replace(legend, unlabelled=(UNLABELLED,)))
    return full, strokes, statistics.mean(labelled)


def _recipe(case: Case) -> dict[str, Any]:
    """The hyperparameters of the set's version in config.toml."""
    version = load_config(ROOT / "config.toml").version(case.dataset, case.version)
    return version.model_dump(mode="json", exclude_defaults=True)


def trials_of(
    case: Case, names: Sequence[str], all_images: int, epochs: int | None, seeds: Sequence[int]
) -> list[Trial]:
    """The recipe for each data set and seed, each epoch as long as with all images."""
    settings = {key: value for key, value in _recipe(case).items() if key not in ("size", "n_class")}
    settings["crops_per_image"] = max(1, settings["crops_per_image"] * all_images // case.images)
    settings["checkpoint"] = "last"
    if epochs is not None:
        settings["epoch"] = epochs
    n_class = _recipe(case)["n_class"]
    arms = [Arm(name=case.version, dataset=name, n_class=n_class, settings=settings) for name in names]
    return [Trial(arm=arm, seed=seed) for seed in seeds for arm in arms]


HEADER = ("set", "images", "labelled", "seed", "mean IoU", "full labels", "strokes", "ratio", "goal")


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of data sets."
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/strokes"), show_default=True)
@click.option("--set", "names", multiple=True, type=click.Choice([case.dataset for case in CASES]))
@click.option(
    "--share", type=click.FloatRange(0, 1), help="Of the pixels with strokes; each set has its own."
)
@click.option("--images", type=click.IntRange(min=1), help="Training images; each set has its own number.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="How many trainings.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
def main(
    data: Path,
    work: Path,
    names: tuple[str, ...],
    share: float | None,
    images: int | None,
    epochs: int | None,
    seeds: int,
    threads: int,
) -> None:
    """Train on strokes and on full labels, and print mean IoU of both."""
    rows = []
    for usual in CASES:
        if names and usual.dataset not in names:
            continue
        case = replace(usual, images=images or usual.images, share=share or usual.share)
        place = work / f"{case.dataset}-{case.images}-{case.share:g}"
        full, strokes, labelled = make_sets(place, data, case)
        labelled_images = data / case.dataset / "train" / "images"
        count = len(list(labelled_images.iterdir())) if labelled_images.is_dir() else case.images
        trials = trials_of(case, (full, strokes), count, epochs, range(seeds))
        recipes.prepare(place, place / "data", trials)
        for one, other in zip(trials[::2], trials[1::2], strict=True):
            (whole,), (drawn,) = (recipes.run(place, trial, threads) for trial in (one, other))
            for split, a, b in (("validate", whole.last, drawn.last), ("test", whole.test, drawn.test)):
                goal = verdict(b / a, case.goal, at_least=True)
                figures = [f"{a:.4f}", f"{b:.4f}", f"{b / a:.4f}"]
                rows.append(
                    [case.dataset, str(case.images), f"{labelled:.2%}", str(one.seed), split, *figures, goal]
                )
                click.echo(" | ".join(rows[-1]), err=True)
    click.echo(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
