"""Types of options, options that exclude or need each other, and several options as one typed object."""

from __future__ import annotations

import dataclasses
import functools
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cloup
from cloup.constraints import ConstraintViolated, If, IsSet, accept_none

from matseg_shared.console.command import importing
from matseg_shared.console.help import did_you_mean

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
COUNT = click.IntRange(min=1)
PATH = click.Path(path_type=Path)
REPORT_VARIABLE = "MATSEG_REPORT"

page_option = click.option(
    "--report/--no-report",
    "page",
    default=True,
    envvar=REPORT_VARIABLE,
    help=f"End with an HTML page to look at. Default: do ({REPORT_VARIABLE}=0: do not).",
)


class Choice(click.Choice[Any]):
    """One of several words or numbers; the nearest is suggested for one that is misspelt."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """The words there are, and the nearest."""
        return super().get_invalid_choice_message(value, ctx) + did_you_mean(
            str(value), map(str, self.choices), " Did you mean {!r}?"
        )


class Range(click.FloatRange):
    """A number within bounds, which `nan` is not, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def flag(name: str, text: str) -> Decorator:
    """An option that is given or not, with its help."""
    return click.option(name, is_flag=True, help=text)


def excludes(name: str, *others: str) -> Decorator:
    """Refuse one option beside any of the others, before anything is opened; all by the names of their arguments."""
    return _refuse(
        IsSet(name), name, others, "{first} and {second} cannot be combined; leave one of them out"
    )


def applies_with(name: str, *others: str) -> Decorator:
    """Refuse the others where the option that they belong to is missing."""
    return _refuse(~IsSet(name), name, others, "{second} applies with {first} only")


def _refuse(condition: Any, name: str, others: tuple[str, ...], message: str) -> Decorator:
    def explain(_error: ConstraintViolated) -> str:
        context = click.get_current_context()
        labels = {str(param.name): max(param.opts, key=len) for param in context.command.params}
        second = next(other for other in others if IsSet(other)(context))
        return message.format(first=labels[name], second=labels[second])

    return cloup.constraint(If(condition, then=accept_none).rephrased(error=explain), others)


def parsed(function: str) -> Callable[[str], Any]:
    """A type of options: what `module:function` makes of the text, imported when there is one."""

    def convert(text: str) -> Any:
        return pkgutil.resolve_name(function)(text)

    return convert


def gathered(argument: str, kind: str) -> Decorator:
    """Hand the command one dataclass instead of the options that are called as its fields; those that are not given
    keep the dataclass's defaults.

    Args:
        argument: the command's, for the dataclass.
        kind: `module:class`, imported when the command is at work and not for its `--help`.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*args: Any, **options: Any) -> Any:
            with importing():
                made_by = pkgutil.resolve_name(kind)
            names = [field.name for field in dataclasses.fields(made_by) if field.name in options]
            values = {name: options.pop(name) for name in names}
            made = made_by(**{name: value for name, value in values.items() if value is not None})
            return command(*args, **options, **{argument: made})

        return wrapped

    return decorate


show_option = click.option(
    "--show",
    "shown",
    type=parsed("matseg_shared.images.channels:parse_shown"),
    metavar="N|N,N,N",
    help="Channel that the page shows as grey, or three as red, green, blue, from 0. Default: colours, else the first.",
)
