"""A training shown on a terminal, or as plain lines where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from matseg_shared.console import progress
from matseg_trainer.train.log import EpochRecord, SplitScore

_WAITS = 0.3
"""With more of its time spent on waiting for images than this, a training could be faster."""


class Progress:
    """Called while a training goes on; this one shows nothing."""

    def start(self, name: str, epochs: int, facts: dict[str, str]) -> None:
        """Before the first epoch."""

    def step(self, epoch: int, step: int, steps: int, loss: float, waiting: float) -> None:
        """After each optimiser step; `waiting` is the share of the epoch's time that went by until images came."""

    def validation(self, epoch: int, image: int, images: int) -> None:
        """After each validation image."""

    def epoch(self, records: Sequence[EpochRecord], best: int) -> None:
        """After each epoch; `best` is the best epoch so far."""


class TerminalProgress(Progress):
    """A bar that moves while an epoch lasts, and a line for each epoch that stays."""

    def __init__(self, out: Console, shown: progress.Progress) -> None:
        self._out, self._shown = out, shown

    def start(self, name: str, epochs: int, facts: dict[str, str]) -> None:
        self._epochs, self._left, self._headed = epochs, "", False
        self._out.print(name, style="bold", markup=False)
        for fact, value in facts.items():
            self._out.print(f"  {fact:<10} {value}", markup=False)

    def step(self, epoch: int, step: int, steps: int, loss: float, waiting: float) -> None:
        if step == 1:
            self._shown.stage(f"epoch {epoch}/{self._epochs} train", steps, unit="steps")
        slowest = "loading is slowest" if waiting > _WAITS else ""
        self._shown.note(", ".join(filter(None, (f"loss {loss:.4f}", slowest, self._left))))
        self._shown.reach(step, steps)

    def validation(self, epoch: int, image: int, images: int) -> None:
        if image == 1:
            self._shown.stage(f"epoch {epoch}/{self._epochs} validate", images, unit="images")
            self._shown.note(self._left)
        self._shown.reach(image, images)

    def epoch(self, records: Sequence[EpochRecord], best: int) -> None:
        record = records[-1]
        if not self._headed:
            self._out.print(
                f"{'train':>36}{'validate':>24}\n{'epoch':>9}{'time':>9}{'lr':>9}{_HEADINGS}{_HEADINGS}"
            )
            self._headed = True
        mark = " best" if record.epoch == best and record.validate_ else ""
        self._out.print(
            f"{record.epoch:>4}/{self._epochs:<4}{record.seconds:>7.1f} s{record.lr:>9.1e}"
            f"{_figures(record.train)}{_figures(record.validate_) if record.validate_ else ''}{mark}"
        )
        mean = sum(item.seconds for item in records) / len(records)
        self._left = f"all in {progress.duration(mean * (self._epochs - record.epoch))}"


_HEADINGS = f"  {'loss':>7}{'acc':>7}{'IoU':>7}"


def _figures(score: SplitScore) -> str:
    return f"  {score.loss:>7.4f}{score.accuracy:>7.4f}{score.mean_iou:>7.4f}"


@contextmanager
def terminal_progress(out: Console) -> Iterator[TerminalProgress]:
    """Progress for the length of one training; lines that stay go to `out`."""
    with progress.shown_progress(out=out) as shown:
        shown.stage("reading images and labels")
        yield TerminalProgress(out, shown)
