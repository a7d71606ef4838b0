"""A training shown on a terminal, or as plain lines where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from matseg_shared.command import console
from matseg_trainer.train import EpochRecord, Progress, TrainingJob


class TerminalProgress(Progress):
    """A bar that moves while an epoch lasts, and a line for each epoch that stays."""

    def __init__(self, out: Console, bar: Bar) -> None:
        self._out, self._bar = out, bar
        self._task = bar.add_task("starting", total=None)
        self._epochs = 0

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
        mark = "  * best so far" if record.epoch == best else ""
        self._out.print(
            f"epoch {record.epoch:>3}/{self._epochs}  {record.seconds:6.1f} s  lr {record.lr:.1e}"
            f"  train: loss {record.train.loss:.4f} acc {record.train.accuracy:.4f} IoU {record.train.mean_iou:.4f}"
            f"  validate: loss {record.validate.loss:.4f} acc {record.validate.accuracy:.4f}"
            f" IoU {record.validate.mean_iou:.4f}{mark}"
        )


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
