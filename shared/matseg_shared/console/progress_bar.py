"""Progress as one moving line at the foot of a terminal; imported only where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from matseg_shared.console.progress import Progress, duration, speed

_NARROW = 60
"""Below so many columns there is neither bar nor rate."""


class _Facts(ProgressColumn):
    """Count, rate, time left and note, as far as they are known and there is room."""

    def __init__(self, *, narrow: bool) -> None:
        super().__init__(Column(no_wrap=True))
        self._narrow = narrow

    def render(self, task: Task) -> Text:
        """One line."""
        known = task.total is not None or task.completed > 0
        in_all = "" if task.total is None else f"/{task.total:.0f}"
        count = f"{task.completed:.0f}{in_all}" if known else ""
        left = "" if task.time_remaining is None else f"{duration(task.time_remaining)} left"
        words = [count, left]
        if not self._narrow:
            rate = "" if task.speed is None else speed(task.speed)
            words = [f"{count} {task.fields['unit']}".strip(), rate, left, task.fields["note"]]
        return Text("  ".join(filter(None, words)), style="progress.percentage")


class BarProgress(Progress):
    """Tells a rich bar."""

    def __init__(self, bar: Bar, prefix: str) -> None:
        self._bar, self._prefix = bar, prefix
        self._task = bar.add_task(prefix, total=None, visible=bool(prefix), unit="", note="")

    def stage(self, name: str, total: int | None = None, *, unit: str = "") -> None:
        self._bar.remove_task(self._task)  # the next stage has a rate of its own
        title = f"{self._prefix}: {name}" if self._prefix else name
        self._task = self._bar.add_task(title, total=total, unit=unit, note="")

    def advance(self, count: int = 1) -> None:
        self._bar.advance(self._task, count)

    def reach(self, done: int, total: int | None = None) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=text)


@contextmanager
def shown_bar(prefix: str, out: Console) -> Iterator[Progress]:
    """A bar for the length of the block; gone at its end."""
    narrow = out.width < _NARROW
    title = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
    )
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4))
    columns = (title, _Facts(narrow=True)) if narrow else (title, bar, _Facts(narrow=False))
    with Bar(*columns, console=out, transient=True, expand=not narrow, refresh_per_second=5) as shown:
        yield BarProgress(shown, prefix)
