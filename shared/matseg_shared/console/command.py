"""Exit codes, one-sentence errors, JSON for scripts, and a console that is plain without a terminal."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from matseg_shared.errors import MatsegError
from matseg_shared.system import interruption
from matseg_shared.system.names import as_text, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

EXIT_DONE = 0
EXIT_EXCLUDED = 4
"""Finished, but some inputs were excluded; each is named with the reason."""
EXIT_INTERRUPTED = 130
INTERRUPTED = "interrupted; run the same command again to go on"

_DOCUMENT = "matseg_shared.console.command.document"
"""Key in click's context of a command's JSON document, until the command ends."""


@contextmanager
def importing() -> Iterator[None]:
    """Leave what is imported in this block out of garbage collection, which takes a quarter of the time of start-up.

    For commands only: what their process holds besides is left out, too.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looked for in every installed package
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--debug`, and end the command with the exit code of its error instead of a traceback.

    The wrapped function may return an exit code; None means 0. What it hands to `print_json` is printed when it ends,
    with the error beside it should there be one.
    """

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        if not debug:
            _quiet_readers()
        try:
            code = command(*args, **kwargs) or EXIT_DONE
        except click.exceptions.Exit:
            raise
        except click.ClickException as error:
            if as_json:
                print_error(error)
            raise
        except (Exception, KeyboardInterrupt) as error:
            with interruption.held_back() as interruptions:
                # one that was lost on its way is what broke an import
                lost = interruptions() > 0 and not isinstance(error, KeyboardInterrupt)
                summary = _summary(KeyboardInterrupt() if lost else error)
                if debug:
                    import traceback

                    traceback.print_exc()
                click.echo(printable(f"Error: {summary['message']}"), err=True)
                if as_json:
                    _print({"error": summary})
            code = summary["exit_code"]
        else:
            if as_json and _DOCUMENT in click.get_current_context().meta:
                _print({})
        if code:  # 0 is the end of a command, but not of a group of commands
            sys.exit(code)

    return wrapped


def _quiet_readers() -> None:
    """Silence tifffile's lines about odd tags and Pillow's about unused chunks: what keeps a file from being read is
    an error, in our words."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON document on standard output, everything else on standard error.",
)


def print_json(document: object) -> None:
    """Print a dataclass or mapping when the command ends, as its one JSON document."""
    click.get_current_context().meta[_DOCUMENT] = jsonable(document)


def show(document: object, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result: as the command's JSON document, or as lines for a person."""
    if as_json:
        print_json(document)
    else:
        click.echo("\n".join(lines))


def print_error(error: Exception) -> None:
    """Print the JSON document of a command that click refused, which says the same on standard error."""
    _print({"error": _summary(error)})


def jsonable(value: object) -> Any:
    """Plain lists, dicts, numbers and texts for JSON; paths become texts, and what is no number null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: jsonable(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):  # of pydantic, which is not imported for that
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, PurePath | str):
        return as_text(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _print(more: Mapping[str, object]) -> None:
    import json

    context = click.get_current_context(silent=True)
    document = {} if context is None else context.meta.get(_DOCUMENT, {})
    click.echo(json.dumps({**document, **jsonable(more)}, indent=1, ensure_ascii=False))


def _summary(error: BaseException) -> dict[str, Any]:
    """The JSON document's `error`: kind, the sentence for a person, exit code, problems."""
    kind = type(error).__name__
    if isinstance(error, KeyboardInterrupt | click.exceptions.Abort):  # click's own: Ctrl-C at a question
        message = f"interrupted; {error.args[0]}" if error.args else INTERRUPTED
        code = EXIT_INTERRUPTED
        kind = "Interrupted"
    elif isinstance(error, click.ClickException):
        message, code = error.format_message(), error.exit_code
    elif isinstance(error, MatsegError):
        message, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        message, code = "this machine's memory does not suffice; use smaller tiles, crops or batches", 1
    else:
        message, code = f"unexpected {kind}: {error} (--debug shows where; please report it)", 1
    problems = getattr(error, "problems", ())  # everything wrong with a configuration or a model's metadata
    return {"kind": kind, "message": message, "exit_code": code, "problems": problems}


def warn(message: str) -> None:
    """Print a line on standard error that a person should not miss."""
    console(stderr=True).print(f"Warning: {message}", style="yellow", markup=False)


def plain(text: str) -> Text:
    """Text from a file, for a rich table: no markup, and nothing that acts on a terminal."""
    from rich.text import Text

    return Text(printable(text))


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it prints plain lines that are not cut or wrapped to a width."""
    from matseg_shared.console.plain_console import PlainConsole

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal else 200
    return PlainConsole(stderr=stderr, highlight=False, emoji=False, width=width, soft_wrap=not terminal)
