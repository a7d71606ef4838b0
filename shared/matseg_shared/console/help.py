"""What `--help` shows, and what is meant when a word is misspelt.

Click itself suggests options and subcommands; here are examples, options in groups, and suggestions for choices.
"""

from __future__ import annotations

import difflib
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from matseg_shared.console.command import EXIT_INTERRUPTED, print_error
from matseg_shared.system.interruption import counted, is_pending

_GROUP = "matseg_help_group"


@dataclass(frozen=True, slots=True)
class Example:
    """A command line that works as it stands, and what it does."""

    purpose: str
    line: str


class _Explained(click.Command):
    """What commands and groups of commands have in common."""

    def __init__(
        self,
        *args: Any,
        examples: Sequence[Example] = (),
        renamed: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = {
            "help_option_names": ["-h", "--help"],
            **kwargs.get("context_settings", {}),
        }
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.renamed = dict(renamed or {})
        """Earlier names of options, which are still taken, to the present ones."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line; with `--json`, what is wrong with it is said in JSON too."""
        as_json = wants_json(args)
        try:
            return super().make_context(info_name, self._present_names(args), parent, **extra)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.ClickException as error:
            if as_json:
                print_error(error)
            raise

    def _present_names(self, args: list[str]) -> list[str]:
        words = list(args)
        for place, word in enumerate(args):
            if word == "--":
                break
            name, equals, value = word.partition("=")
            if name in self.renamed:
                click.echo(f"Note: {name} is called {self.renamed[name]} now", err=True)
                words[place] = f"{self.renamed[name]}{equals}{value}"
        return words

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, or complete its line when a shell asks for that."""
        if any(name.startswith("_MATSEG") and name.endswith("_COMPLETE") for name in os.environ):
            from matseg_shared.console.completion import register

            register()
        with counted():
            try:
                return super().main(*args, **kwargs)
            except SystemExit as end:
                if (
                    end.code == 1 and is_pending()
                ):  # Ctrl-C around the command itself, for which click has this code
                    end.code = EXIT_INTERRUPTED
                raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options under the heading of their group; those of none under `Options`."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, _GROUP, "Options"), []).append(record)
        # one width for all, so that the columns of the sections stand below each other
        width = min(26, max(len(name) for records in sections.values() for name, _ in records))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in records], col_max=width)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, one after the other, ready to be copied."""
        if self.examples:
            with formatter.section("Examples"):
                indent = " " * formatter.current_indent
                for number, example in enumerate(self.examples):
                    formatter.write("\n" * (number > 0))
                    for words in textwrap.wrap(example.purpose, formatter.width - len(indent) - 2):
                        formatter.write(f"{indent}# {words}\n")
                    formatter.write(f"{indent}{example.line}\n")
        super().format_epilog(ctx, formatter)


class Command(_Explained):
    """A command whose `--help` has examples and groups of options, and whose errors are JSON when asked for."""


class Group(_Explained, click.Group):
    """A group of such commands."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is named; there may be none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if isinstance(error, click.exceptions.NoSuchCommand):  # click knows only commands that are loaded
                error = click.exceptions.NoSuchCommand(
                    args[0], possibilities=self.list_commands(ctx), ctx=ctx
                )
            if wants_json(args):
                print_error(error)
            raise error from None


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


def option_group(title: str, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add options that stand under a heading of their own in `--help`, in the order given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
            setattr(command.__click_params__[-1], _GROUP, title)
        return command

    return decorate


def did_you_mean(word: str, known: Iterable[str], form: str = "; did you mean {!r}?") -> str:
    """A question with the nearest of the known words; empty when none is near."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return form.format(names[near[0]]) if near else ""


def wants_json(args: Sequence[str]) -> bool:
    """Whether `--json` is among the words of a command line, before any `--`."""
    options = args[: args.index("--")] if "--" in args else args
    return "--json" in options
