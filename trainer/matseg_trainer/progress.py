"""A training shown on a terminal, or as plain lines where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from matseg_shared.command import console
from matseg_trainer.train import EpochRecord, Progress, SplitScore, TrainingJob


class TerminalProgress(Progress):
    """A bar that moves while an epoch lasts, and a line for each epoch that stays."""

    def __init__(self, out: Console, bar: Bar) -> None:
        self._out, self._bar = out, bar
        self._task = bar.add_task("starting", total=None)
        self._epochs = 0
        self._headed = False

    def start(self, job: TrainingJob, facts: dict[str, str]) -> None:
        self._epochs = job.config.epoch
        self._out.print(f"[bold]{job.name}[/bold]")
        for name, value in facts.items():
            self._out.print(f"  {name:<10} {value}")

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self._bar.update(
            self._task,
            description=f"epoch {epoch}/{self._epochs} train, loss {loss:.4f}",
            total=steps,
            completed=step,
        )

    def validation(self, epoch: int, image: int, images: int) -> None:
        self._bar.update(
            self._task, description=f"epoch {epoch}/{self._epochs} validate", total=images, completed=image
        )

    def epoch(self, records: Sequence[EpochRecord], best: int) -> None:
        record = records[-1]
        if not self._headed:
            self._out.print(
                f"{'train':>36}{'validate':>24}\n{'epoch':>9}{'time':>9}{'lr':>9}{_HEADINGS}{_HEADINGS}"
            )
            self._headed = True
        mark = " best" if record.epoch == best else ""
        self._out.print(
            f"{record.epoch:>4}/{self._epochs:<4}{record.seconds:>7.1f} s{record.lr:>9.1e}"
            f"{_figures(record.train)}{_figures(record.validate)}{mark}"
        )


_HEADINGS = f"  {'loss':>7}{'acc':>7}{'IoU':>7}"


def _figures(score: SplitScore) -> str:
    return f"  {score.loss:>7.4f}{score.accuracy:>7.4f}{score.mean_iou:>7.4f}"


@contextmanager
def terminal_progress() -> Iterator[TerminalProgress]:
    """Progress for the length of one training."""
    out = console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        yield TerminalProgress(out, bar)
