"""What all commands do the same way: exit codes, one-sentence errors, a console that is plain when nobody watches."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from matseg_shared.errors import MatsegError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_DONE = 0
EXIT_SET_ASIDE = 4
"""Finished, but some inputs were set aside; each is named with the reason."""
EXIT_INTERRUPTED = 130


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--debug`, and end the command with the exit code of its error instead of a traceback.

    The wrapped function may return an exit code; None means 0.
    """

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except click.exceptions.Exit:
            raise
        except click.ClickException:
            raise
        except (KeyboardInterrupt, click.exceptions.Abort):  # click's own: Ctrl-C at a question
            _end("interrupted; run the same command again to go on", EXIT_INTERRUPTED, debug)
        except MatsegError as error:
            _end(str(error), error.exit_code, debug)
        except MemoryError:
            _end("this machine's memory does not suffice; use smaller tiles, crops or batches", 1, debug)
        except Exception as error:
            _end(
                f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)",
                1,
                debug,
            )
        sys.exit(code or EXIT_DONE)

    return wrapped


def _end(message: str, code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it prints plain lines that are not cut or wrapped to a width."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else 200, soft_wrap=not terminal)


@contextmanager
def step_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal for the length of the block; the function takes (steps done, steps in all)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
