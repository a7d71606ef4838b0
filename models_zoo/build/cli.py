"""`python -m models_zoo.build`: for those who make models of the zoo; those who use them need `zoo:NAME` only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from matseg_shared.console.command import console, debug_option
from matseg_trainer.workspace import Workspace, workspace_option


@click.group()
def main() -> None:
    """Build the models zoo in a source checkout; the files of each model are described in docs/dev/zoo.md."""


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Trainings of each model."
)
@workspace_option
@debug_option
def build(names: tuple[str, ...], seeds: int, workspace: Path | None) -> None:
    """Prepare, train, export and measure models (all that are described, when none is named)."""
    from matseg_trainer.commands.options import require_train_extra

    require_train_extra("building a model of the zoo")
    from models_zoo.build.build import Builder, build_models
    from models_zoo.build.checkout import ZooCheckout

    zoo, place = ZooCheckout.find(), Workspace.find(workspace)
    chosen = names or tuple(entry.name for entry in zoo.entries)
    builders = [
        Builder.of(zoo, name, place) for name in chosen
    ]  # each described rightly, before hours of training
    for written in build_models(zoo, builders, seeds):
        _tell(written, zoo.root)


@main.command()
@click.argument("name")
@click.option(
    "--seed-log",
    "logs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Log (.jsonl) of a further training that differs in its seed only; may be given several times.",
)
@workspace_option
@debug_option
def publish(name: str, logs: tuple[Path, ...], workspace: Path | None) -> None:
    """Export and measure the checkpoint that is already trained, and put it into the zoo as NAME."""
    from matseg_trainer.commands.options import require_train_extra

    require_train_extra("building a model of the zoo")
    from models_zoo.build.build import Builder, kept_mean_iou
    from models_zoo.build.checkout import ZooCheckout
    from models_zoo.build.pages import write_pages

    zoo = ZooCheckout.find()
    builder = Builder.of(zoo, name, Workspace.find(workspace))
    _tell(builder.publish([kept_mean_iou(log) for log in logs]), zoo.root)
    _tell(write_pages(zoo), zoo.root)


@main.command(name="time")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@debug_option
def time_main(names: tuple[str, ...]) -> None:
    """Measure the speed of models (all of them, when none is named) anew; do it where nothing else is running."""
    from models_zoo.build.build import time_again
    from models_zoo.build.checkout import ZooCheckout
    from models_zoo.build.pages import write_pages

    zoo = ZooCheckout.find()
    for entry in [zoo.entry(name) for name in names] or zoo.built:
        speed = time_again(entry).speed
        console().print(
            f"{entry.name}: {speed.median * 1e3:.1f} ms, {speed.megapixels_per_second:.1f} Mpixel/s"
        )
    _tell(write_pages(zoo), zoo.root)


@main.command()
@debug_option
def cards() -> None:
    """Write all cards and indexes anew from the files of the zoo, after a change of a model.toml."""
    from models_zoo.build.checkout import ZooCheckout
    from models_zoo.build.pages import write_pages

    zoo = ZooCheckout.find()
    _tell(write_pages(zoo), zoo.root)
    for entry in zoo.entries:
        if entry not in zoo.built:
            console().print(f"not built: {entry.name}; python -m models_zoo.build build {entry.name}")


def _tell(paths: Iterable[Path], root: Path) -> None:
    for path in paths:
        console().print(f"written: {path.relative_to(root)}")
