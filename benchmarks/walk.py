"""Files that a block of slices, and a labelled image, pass on their way; counted by profiling, imports left out.

```
python benchmarks/walk.py            both walks, and a whole job of one slice
```
"""

from __future__ import annotations

import inspect
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy as np
from _common import ROOT
from PIL import Image

PACKAGES = ("runtime", "shared", "trainer")
GOALS = {"job": ("runtime", 25), "block": ("runtime", 12), "step": ("trainer", 10)}
CONFIG = """
[discs.default]
n_class = 2
[discs.v1]
model = "patchunet"
width = 8
crop = 64
batch_size = 2
epoch = 1
aug = "turns"
shuffle = true
"""


class Files:
    """Files of the three packages whose functions were entered, in the order of their first call."""

    def __init__(self, *, counts: Callable[[FrameType], bool] = lambda _: True) -> None:
        self._counts = counts
        self._found: dict[str, None] = {}

    def notice(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Profile function: class bodies and modules are imports, and no part of a walk."""
        code = frame.f_code
        if event != "call" or not code.co_flags & inspect.CO_OPTIMIZED:
            return
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT) and self._counts(frame):
            self._found.setdefault(path.relative_to(ROOT).as_posix())

    def of(self, package: str) -> list[str]:
        """Those of one of `PACKAGES`."""
        return [name for name in self._found if name.startswith(f"{package}/")]


@contextmanager
def profiled(files: Files) -> Iterator[None]:
    """Watch this thread and all that start meanwhile."""
    threading.setprofile(files.notice)
    sys.setprofile(files.notice)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def command(main: click.Command, *words: object) -> None:
    """Run one of our commands in this process.

    Raises:
        RuntimeError: it failed.
    """
    try:
        main([str(word) for word in words], standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{main.name}: exit code {end.code}") from end


def in_stages(_frame: FrameType) -> bool:
    """True for a call in a thread that reads, infers or writes blocks."""
    return threading.current_thread().name.startswith("matseg-")


def walk_of_a_job(folder: Path) -> tuple[Files, Files]:
    """One PNG slice through `matseg-run`: all files of the job without its page, and those of its block alone."""
    from matseg_runtime.cli.run import run_main

    (folder / "slices").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "slices" / "s1.png")
    words = (
        ROOT / "models_zoo" / "dendrites" / "model.onnx",
        folder / "slices",
        "--no-report",
        "--provider",
        "cpu",
    )
    command(run_main, *words, "-o", folder / "warm")
    job, block = Files(), Files(counts=in_stages)
    with profiled(job):
        command(run_main, *words, "-o", folder / "job")
    with profiled(block):
        command(run_main, *words, "-o", folder / "block")
    return job, block


def walk_of_a_step(folder: Path) -> Files:
    """Labelled images from the data set to the end of the training steps of one epoch."""
    from matseg_trainer.commands.train import train_main
    from matseg_trainer.train.training import Training

    write_discs(folder)
    files, real = Files(), Training.train_epoch

    def watched(*arguments: Any, **more: Any) -> Any:
        with profiled(files):
            return real(*arguments, **more)

    Training.train_epoch = watched
    command(train_main, "discs", "v1", "--workspace", folder, "--no-save")
    return files


def write_discs(folder: Path) -> None:
    """A workspace with a data set of four images."""
    (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
    random = np.random.default_rng(0)
    for split in ("train", "validate"):
        root = folder / "data" / "discs" / split
        for kind in ("images", "labels", "labels_npy"):
            (root / kind).mkdir(parents=True)
        for number in range(2):
            labels = (random.random((96, 96)) < 0.5).astype(np.uint8)
            Image.fromarray(labels * 90 + 80).save(root / "images" / f"d{number}.png")
            Image.fromarray(labels * 255).save(root / "labels" / f"d{number}_L.png")
            np.save(root / "labels_npy" / f"d{number}.npy", labels)
    classes = "".join(
        f"[[class]]\nname = 'class {index}'\ncolour = [{255 * index}, 0, 0]\nlabel_value = {255 * index}\n"
        for index in range(2)
    )
    (folder / "data" / "discs" / "classes.toml").write_text(classes, encoding="utf-8")


@click.command()
def main() -> None:
    """Count both walks, and fail where one passes more files than a newcomer can follow."""
    with tempfile.TemporaryDirectory() as name:
        job, block = walk_of_a_job(Path(name))
    with tempfile.TemporaryDirectory() as name:
        step = walk_of_a_step(Path(name))
    too_long = []
    for title, key, files in (
        ("A block, from the stages to its label on disk", "block", block),
        ("A whole job of one slice, without its page", "job", job),
        ("An image, from the data set to the end of a training step", "step", step),
    ):
        package, goal = GOALS[key]
        counts = ", ".join(f"{len(files.of(part))} of the {part}" for part in PACKAGES)
        click.echo(f"\n{title}: files: {counts} (goal: {goal} of the {package})")
        for entry in (name for part in PACKAGES for name in files.of(part)):
            click.echo(f"  {entry}")
        if len(files.of(package)) > goal:
            too_long.append(key)
    if too_long:
        click.echo(f"\nlonger than the goal: {', '.join(too_long)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
