"""The state of a workspace on a terminal, legible from 40 columns on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from matseg_trainer.overview.state import DatasetState, RunState, VersionState, WorkspaceState
from matseg_trainer.overview.survey import BEGIN

_WALK = (
    ("matseg-prep", "images and labels become a data set"),
    ("matseg-train", "a version of config.toml is trained, or one made from the data"),
    ("matseg-evaluate", "it is measured on images it has not seen"),
    ("matseg-export", "it becomes one file that needs no torch"),
    ("matseg-run", "the file labels slices on any machine"),
)


def print_state(out: Console, state: WorkspaceState) -> None:
    """The walk, what of it is done, and the next command."""
    walk = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for number, ((command, purpose), done) in enumerate(zip(_WALK, _done(state), strict=True), start=1):
        walk.add_row(str(number), command, "[green]done[/green]" if done else "", purpose)
    out.print(walk)
    out.print()
    if not state.is_workspace:
        _print_beginning(out, state)
        return
    for dataset in state.datasets:
        _print_dataset(out, dataset)
    for run in state.other_runs:
        _line(out, _run_words(run))
    for problem in state.problems:
        _line(out, f"problem: {problem}", "red")
    if state.next is not None:
        out.print("next:", style="bold", end=" ")
        _line(out, state.next, "bold green")


def _done(state: WorkspaceState) -> Iterator[bool]:
    """For each step of the walk, whether it was done for any data set."""
    versions = [version for dataset in state.datasets for version in dataset.versions]
    runs = [*state.other_runs, *(run for dataset in state.datasets for run in dataset.runs)]
    yield any(split.labels or split.arrays for dataset in state.datasets for split in dataset.splits)
    yield any(version.progress == "trained" for version in versions)
    yield any(version.evaluations for version in versions)
    yield any(version.models for version in versions)
    yield any(run.is_complete for run in runs)


def _print_beginning(out: Console, state: WorkspaceState) -> None:
    found = "there is neither config.toml nor a data set in data/"
    _line(out, f"{state.workspace.absolute()} is no workspace yet: {found}.")
    out.print("To try everything on synthetic slices:", end=" ")
    _line(out, BEGIN, "bold green")
    _line(
        out,
        "With images of your own: put them in data/NAME/train/images and their label images in "
        "data/NAME/train/labels, the same for validate and test (matseg-prep split FOLDER NAME shares them out); "
        "then run matseg again.",
    )
    _line(out, "With a model file only: matseg-run MODEL.onnx FOLDER")


def _print_dataset(out: Console, dataset: DatasetState) -> None:
    classes = "" if dataset.n_class is None else f", {dataset.n_class} classes"
    splits = [
        f"{item.split} {item.images}" + (f" ({item.arrays} with arrays)" if item.arrays < item.images else "")
        for item in dataset.splits
    ]
    out.print(f"[bold]{escape(dataset.name)}[/bold]{classes}: {', '.join(splits) or 'no images yet'}")
    begun = [item for item in dataset.versions if item.progress != "untrained" or item.evaluations]
    if begun:
        out.print(_version_table(begun))
    untrained = [item.version for item in dataset.versions if item not in begun]
    if untrained:
        _line(out, f"  not trained: {', '.join(untrained)}")
    for version in dataset.versions:
        for note in version.notes:
            _line(out, f"  ! {note}", "yellow")
    for run in dataset.runs:
        _line(out, f"  {_run_words(run)}", "yellow" if run.is_stale else "")
    _line(out, f"  next: {dataset.step}")
    out.print()


def _version_table(versions: Sequence[VersionState]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    folds = any(_evaluated(item, "folds") for item in versions)
    measured = ("validate IoU", *(["folds IoU"] if folds else []), "test IoU")
    for heading in ("  version", "network", "epochs", *measured, "exported"):
        table.add_column(heading, justify="right" if "IoU" in heading else "left", overflow="fold")
    for item in versions:
        scores = [_evaluated(item, split) or "-" for split in ("folds", "test")[0 if folds else 1 :]]
        models = [model.kind + (" old" if model.is_stale else "") for model in item.models]
        mark = "! " if item.is_stale else "  "
        epochs = f"{item.epochs}/{item.epochs_wanted}" + (" ..." if item.progress == "interrupted" else "")
        row = (
            mark + item.version,
            item.network,
            epochs,
            _score(item.mean_iou),
            *scores,
            ", ".join(models) or "-",
        )
        table.add_row(*map(escape, row))
    return table


def _evaluated(version: VersionState, split: str) -> str:
    """Mean IoU of a version's checkpoint on its own data, the latest; empty without one."""
    own = [item for item in version.evaluations if item.dataset is None and item.model == "checkpoint"]
    found = [item for item in own if item.split == split]
    return "" if not found else _score(found[-1].mean_iou) + (" old" if found[-1].is_stale else "")


def _run_words(run: RunState) -> str:
    words = f"run {run.output}: {run.slices} slices labelled by {run.model_name}"
    words += "" if run.is_complete else ", unfinished"
    words += f", {run.excluded} excluded" if run.excluded else ""
    return words + (", whose file has changed since" if run.is_stale else "")


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _line(out: Console, text: str, style: str = "") -> None:
    out.print(text, style=style, markup=False)
