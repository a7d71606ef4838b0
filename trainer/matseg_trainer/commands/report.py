"""The command `matseg-report`: make a page, or make it again, from what lies on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from matseg_shared.console.command import debug_option, json_option, print_json
from matseg_shared.console.help import Command, examples
from matseg_shared.errors import UsageError

Kind = Literal["run", "evaluation", "training"]
_EXAMPLES = examples("""
    matseg-report raw_slices_predictions/steel_v1  # the page of a run, from its output: a folder of labels
    matseg-report labels.zarr  # or a volume
    matseg-report labels.zarr --input /archive/scan.h5::/data  # a run whose slices have been moved since
    matseg-report log/steel_v1_test.json  # the page of an evaluation
    matseg-report log/steel_v1.jsonl  # the page of a training, finished or not
""")


@click.command(name="matseg-report", cls=Command, examples=_EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--input", "location", metavar="PATH", help="Of a run: where its input is now, should it have been moved."
)
@json_option
@debug_option
def report_main(path: Path, location: str | None, as_json: bool) -> None:
    """Make the HTML page of a run, an evaluation or a training.

    PATH is the output of matseg-run (a folder of labels or a volume), a JSON document of matseg-evaluate or a log of
    matseg-train. The page is one file that asks the network for nothing. What is missing or has changed since is said
    in its place.
    """
    kind = kind_of(path)
    if location is not None and kind != "run":
        raise click.UsageError("--input applies to the output of a run only.")
    page = _make(path, kind, location)
    if as_json:
        print_json({"kind": kind, "page": page, "bytes": page.stat().st_size})
    else:
        click.echo(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


def kind_of(path: Path) -> Kind:
    """What a page would be about.

    Raises:
        UsageError: there is nothing there that a page can be made of.
    """
    from matseg_runtime.page.record import find_run
    from matseg_trainer.train.record import SUFFIX

    if not path.exists() and find_run(path) is None:
        raise UsageError(
            f"{path}: there is no such file or folder; name an output of matseg-run, a JSON document of "
            "matseg-evaluate or a log of matseg-train"
        )
    if path.suffix == ".jsonl" or path.name.endswith(SUFFIX):
        return "training"
    if find_run(path) is not None:
        return "run"
    if path.suffix == ".json" and path.is_file() and _is_evaluation(path):
        return "evaluation"
    raise UsageError(
        f"{path}: expected an output of matseg-run, a JSON document of matseg-evaluate or a log (.jsonl) of "
        "matseg-train, found something else"
    )


def _is_evaluation(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error
    return isinstance(document, dict) and "confusion_matrix" in document


def _make(path: Path, kind: Kind, location: str | None) -> Path:
    if kind == "run":
        from matseg_runtime.page.build import write_run_page
        from matseg_runtime.page.record import find_run

        places = find_run(path)
        assert places is not None, "kind_of found it"
        return write_run_page(places, location=location)
    if kind == "evaluation":
        from matseg_trainer.pages.evaluation import write_evaluation_page

        return write_evaluation_page(path)
    from matseg_trainer.pages.training import write_training_page
    from matseg_trainer.train.record import SUFFIX

    return write_training_page(
        path.with_name(f"{path.name.removesuffix(SUFFIX)}.jsonl") if path.suffix == ".json" else path
    )
