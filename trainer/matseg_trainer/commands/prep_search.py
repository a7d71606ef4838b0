"""`matseg-prep search`: better hyperparameters, by trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matseg_shared.console.command import console, print_json, warn
from matseg_shared.console.help import Command
from matseg_shared.console.options import COUNT, excludes, flag, parsed
from matseg_shared.console.progress import shown_progress
from matseg_trainer.commands.options import (
    dataset_argument,
    device_option,
    gpu_option,
    require_train_extra,
    seed_option,
    usual_options,
    version_argument,
    version_config,
)
from matseg_trainer.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from matseg_trainer.train.search import TrialResult


@click.command(
    name="search",
    cls=Command,
    examples="""
        matseg-prep search steel v1 --trials 20  # learning rate, loss and the like
        matseg-prep search steel v1 --try lr=0.001,0.003 --try crop=256,384 --trials 4
            # over these keys; the same command goes on after an interruption
    """,
)
@dataset_argument
@version_argument
@click.option("--trials", type=COUNT, default=20, show_default=True, metavar="N", help="How many trials.")
@click.option(
    "--try",
    "tried",
    type=parsed("matseg_trainer.train.search:parse_try"),
    multiple=True,
    metavar="KEY=V,V",
    help="A key of config.toml and the values to try; repeatable. "
    "Default: lr, weight_decay, loss, aug and oversample_classes, around those of the version.",
)
@seed_option
@gpu_option
@device_option
@flag("--overwrite", "Search anew, instead of going on with an earlier search.")
@excludes("device", "gpu")
@usual_options
def search_command(
    dataset: str,
    version: str,
    trials: int,
    tried: tuple[tuple[str, tuple[Any, ...]], ...],
    seed: int | None,
    gpu: bool,
    device: str | None,
    overwrite: bool,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """Search for better hyperparameters of VERSION of DATASET.

    The first trial is the version itself, the others differ from it in values drawn at random. All are trained for some
    epochs, the better third of them goes on for three times as many, and so on to the last epoch. Ends with a table of
    the trials by their mean IoU on the validation images, and the version to write into config.toml.
    """
    place = Workspace.find(workspace)
    config = version_config(place, dataset, version)
    data = place.dataset(dataset, config.validation_images)
    require_train_extra("matseg-prep search")
    from matseg_trainer.prepare.labels import update_arrays
    from matseg_trainer.train.device import choose_compute
    from matseg_trainer.train.search import SearchRequest, search, usual_values
    from matseg_trainer.train.training import TrainingJob

    with shown_progress() as shown:
        for note in update_arrays(data, ("train", "validate"), config.n_class, shown):
            click.echo(f"note: {note}", err=True)
    compute = choose_compute(gpu=gpu, amp=config.amp, device=device)
    if gpu and compute.device.type == "cpu":
        warn(f"training on the CPU: {compute.device_reason}")
    job = TrainingJob(
        workspace=place,
        dataset=data,
        version=version,
        config=config,
        compute=compute,
        seed=config.seed if seed is None else seed,
    )
    request = SearchRequest(values=dict(tried) or usual_values(config), trials=trials, overwrite=overwrite)
    with shown_progress() as shown:
        results = search(job, request, shown)
    table = _version_table(dataset, version, results[0])
    if as_json:
        print_json(
            {"dataset": dataset, "version": version, "seed": job.seed, "trials": results, "table": table}
        )
        return
    out = console()
    out.print(_table(job.name, results))
    if table is None:
        out.print(f"no trial is better than {version} as it is", markup=False)
    else:
        out.print(f"the best, to write into {place.config_path}:\n\n{table}", markup=False)


def _version_table(dataset: str, version: str, best: TrialResult) -> str | None:
    """The best trial as a table of config.toml; None: it is the version itself."""
    from matseg_trainer.config.edit import table_header

    if not best.changes:
        return None
    lines = [f"{key} = {json.dumps(value)}" for key, value in best.changes.items()]
    return "\n".join([table_header(dataset, f"{version}b"), f"base = {json.dumps(version)}", *lines])


def _table(name: str, results: Sequence[TrialResult]) -> Table:
    from rich.table import Table

    keys = list(dict.fromkeys(key for result in results for key in result.changes))
    table = Table(title=f"{name}: trials that went furthest first", title_justify="left")
    for heading in ("trial", "epochs", "mean IoU", "accuracy", *keys):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in results:
        scores = ["diverged" if value is None else f"{value:.4f}" for value in (one.mean_iou, one.accuracy)]
        values = [json.dumps(one.changes[key]) if key in one.changes else "" for key in keys]
        table.add_row(str(one.trial), str(one.epochs), *scores, *values)
    return table
