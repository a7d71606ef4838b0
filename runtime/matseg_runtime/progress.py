"""Progress that a person can follow on a terminal and a log file can hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from matseg_shared.command import console

_SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[[int], None]
"""Tell that so many more slices are finished."""


@contextmanager
def slice_progress(description: str, total: int | None, *, quiet: bool) -> Iterator[Advance]:
    """A bar on a terminal, else a line on standard error every ten seconds; nothing when `quiet`.

    `total` None: nobody knows how many there will be.
    """
    if quiet or total == 0:
        yield lambda _: None
        return
    out = console(stderr=True)
    if not out.is_terminal:
        yield _plain(description, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.update(task, advance=count)


def _plain(description: str, total: int | None) -> Advance:
    done = 0
    last = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            in_all = "" if total is None else f" of {total}"
            click.echo(f"{description}: {done}{in_all} slices", err=True)

    return advance
