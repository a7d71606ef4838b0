"""The command `matseg-report`: make a page, or make it again, from what lies on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from matseg_shared.console.command import debug_option, json_option, show
from matseg_shared.console.help import Command
from matseg_shared.console.options import PATH, show_option
from matseg_shared.errors import UsageError


@click.command(
    name="matseg-report",
    cls=Command,
    examples="""
        matseg-report raw_slices_predictions/steel_v1  # the page of a run, from its output: a folder of labels
        matseg-report labels.zarr  # or a volume
        matseg-report labels.zarr --input /archive/scan.h5::/data  # a run whose slices have been moved since
        matseg-report log/steel_v1_test.json  # the page of an evaluation
        matseg-report log/steel_v1.jsonl  # the page of a training, finished or not
    """,
)
@click.argument("path", type=PATH)
@click.option(
    "--input", "location", metavar="PATH", help="Of a run: where its input is now, should it have been moved."
)
@show_option
@json_option
@debug_option
def report_main(path: Path, location: str | None, shown: tuple[int, ...] | None, as_json: bool) -> None:
    """Make the HTML page of a run, an evaluation or a training.

    PATH is the output of matseg-run (a folder of labels or a volume), a JSON document of matseg-evaluate or a log of
    matseg-train. The page is one file that asks the network for nothing. What is missing or has changed since is said
    in its place.
    """
    kind, write = _kind_of(path, shown)
    if location is not None and kind != "run":
        raise click.UsageError("--input applies to the output of a run only.")
    if shown is not None and kind == "training":
        raise click.UsageError("--show applies to runs and evaluations only.")
    page = write(location)
    size = page.stat().st_size
    show({"kind": kind, "page": page, "bytes": size}, [f"{page} ({size / 1e6:.1f} MB)"], as_json=as_json)


def _kind_of(path: Path, show: Sequence[int] | None) -> tuple[str, Callable[[str | None], Path]]:
    """Find out what a page would be about, and what writes it, given where a run's input is now."""
    from matseg_runtime.page.build import write_run_page
    from matseg_runtime.page.record import find_run
    from matseg_trainer.train.record import SUFFIX

    run = find_run(path)
    if path.exists() and (path.suffix == ".jsonl" or path.name.endswith(SUFFIX)):
        from matseg_trainer.pages.training import write_training_page

        log = path.with_name(f"{path.name.removesuffix(SUFFIX)}.jsonl") if path.suffix == ".json" else path
        return "training", lambda _: write_training_page(log)
    if run is not None:
        return "run", lambda location: write_run_page(run, location=location, show=show)
    if path.suffix == ".json" and path.is_file():
        from matseg_trainer.pages.evaluation import write_evaluation_page

        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path}: cannot be read as JSON: {error}") from error
        if isinstance(document, dict) and "confusion_matrix" in document:
            return "evaluation", lambda _: write_evaluation_page(path, show=show)
    kinds = "an output of matseg-run, a JSON document of matseg-evaluate or a log{} of matseg-train"
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder; name {kinds.format('')}")
    raise UsageError(f"{path}: expected {kinds.format(' (.jsonl)')}, found something else")
