"""Progress of long work: a bar on a terminal, else a plain line now and then for a log.

On a terminal: what is done, how much, how fast, how long it will take, and what holds it up.

```
labelling ━━━━━━━━╸━━━━━━━━━━━━━ 87/200 slices  12.1/s  0:00:09 left, inference is slowest
```

Without one, on standard error, a line per stage and one every ten seconds: no colours, no control characters.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from matseg_shared.console.command import console

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Stages and steps of long work, told to nobody. Any thread may call it."""

    def stage(self, name: str, total: int | None = None, *, unit: str = "") -> None:
        """Begin a stage of `total` steps; None: their number is not known."""

    def advance(self, count: int = 1) -> None:
        """Count further steps."""

    def reach(self, done: int, total: int | None = None) -> None:
        """Set the number of steps that are done, and in all."""

    def note(self, text: str) -> None:
        """Show what is worth knowing at this moment, such as the slowest part, in place of the last note."""


SILENT = Progress()


class _Lines(Progress):
    """A line when a stage begins, and one every ten seconds."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._name, self._unit, self._note = prefix, "", "", ""
        self._done = 0
        self._total: int | None = None
        self._begun = self._last = time.monotonic()

    def stage(self, name: str, total: int | None = None, *, unit: str = "") -> None:
        self._name, self._unit, self._note = name, unit, ""
        self._done, self._total = 0, total
        self._begun = self._last = time.monotonic()
        if self._prefix:  # without one there is a single stage, whose end is told by the command
            click.echo(f"{self._prefix}: {name}", err=True)

    def advance(self, count: int = 1) -> None:
        self.reach(self._done + count, self._total)

    def reach(self, done: int, total: int | None = None) -> None:
        self._done = done
        self._total = self._total if total is None else total
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            click.echo(self._line(now - self._begun), err=True)

    def note(self, text: str) -> None:
        self._note = text

    def _line(self, seconds: float) -> str:
        title = f"{self._prefix}: {self._name}" if self._prefix else self._name
        in_all = "" if self._total is None else f" of {self._total}"
        rate = self._done / seconds
        parts = [" ".join(filter(None, (f"{self._done}{in_all}", self._unit))), f"{speed(rate)}"]
        if self._total is not None and rate > 0:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        return f"{title}: {', '.join(filter(None, (*parts, self._note)))}"


@contextmanager
def shown_progress(prefix: str = "", *, out: Console | None = None) -> Iterator[Progress]:
    """Show progress for the length of the block.

    Args:
        prefix: the work as a whole, before the name of each stage.
        out: the console that prints other lines in the meantime, above the bar; None: one on standard error.
    """
    stream = sys.stderr if out is None else out.file
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):  # its cursor cannot be moved
        yield _Lines(prefix)
    else:
        from matseg_shared.console.progress_bar import shown_bar

        with shown_bar(prefix, out or console(stderr=True)) as progress:
            yield progress


def speed(per_second: float) -> str:
    """Steps per second, or per minute where that is the handier number."""
    if per_second <= 0 or not math.isfinite(per_second):
        return ""
    if per_second < 0.1:
        return f"{per_second * 60:.2g}/min"
    return f"{per_second:.3g}/s" if per_second < 100 else f"{per_second:.0f}/s"


def duration(seconds: float) -> str:
    """`H:MM:SS`, and `M:SS` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
