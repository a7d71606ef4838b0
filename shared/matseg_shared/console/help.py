"""Commands whose `--help` has examples and groups of options, and that say in JSON, too, what is wrong with their line.

Cloup groups options and click suggests misspelt ones; here are examples, and one width for all groups.
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import cloup
from cloup.constraints import ConstraintViolated

from matseg_shared.console.command import EXIT_INTERRUPTED, INTERRUPTED, print_error
from matseg_shared.errors import MatsegError
from matseg_shared.system.interruption import counted, is_pending


class Command(cloup.Command):
    """A command whose `--help` has examples and groups of options, and whose errors are JSON when asked for.

    Args:
        examples: lines that end its `--help`, each as it is typed, with a comment behind or below it that says what it
            does.
        renamed: earlier names of options, which are taken with a note, and the present ones.
    """

    def __init__(
        self,
        *args: Any,
        examples: str = "",
        renamed: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = {
            "help_option_names": ["-h", "--help"],
            **kwargs.get("context_settings", {}),
        }
        super().__init__(*args, formatter_settings=cloup.HelpFormatter.settings(col1_max_width=26), **kwargs)
        self.examples: list[tuple[str, str]] = re.findall(r"(\S.*?)\s+# (.+)", examples)
        self._renamed = dict(renamed or {})

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line; with `--json`, what is wrong with it is said in JSON too."""
        as_json = wants_json(args)
        try:
            return super().make_context(info_name, self._with_present_names(args), parent, **extra)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except (click.ClickException, MatsegError) as error:
            if isinstance(error, MatsegError | ConstraintViolated):  # of a value, or of options together
                error = click.UsageError(str(error), getattr(error, "ctx", None))
            if as_json:
                print_error(error)
            raise error from None

    def _with_present_names(self, args: Sequence[str]) -> list[str]:
        words = list(args)
        for place, word in enumerate(words[: _end_of_options(args)]):
            name, equals, value = word.partition("=")
            if name in self._renamed:
                click.echo(f"Note: {name} is called {self._renamed[name]} now", err=True)
                words[place] = f"{self._renamed[name]}{equals}{value}"
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
                # Ctrl-C around the command itself, for which click says "Aborted!" and has 1
                if end.code == 1 and is_pending():
                    click.echo(f"Error: {INTERRUPTED}", err=True)
                    end.code = EXIT_INTERRUPTED
                raise

    def get_default_option_group(
        self, ctx: click.Context, is_the_only_visible_option_group: bool = False
    ) -> cloup.OptionGroup:
        """Options of no group stand under `Options`, whatever groups there are."""
        group = super().get_default_option_group(ctx, is_the_only_visible_option_group)
        group.title = "Options"
        return group

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, one after the other, ready to be copied."""
        if self.examples:
            with formatter.section("Examples"):
                indent = " " * formatter.current_indent
                for number, (line, purpose) in enumerate(self.examples):
                    formatter.write("\n" * (number > 0))
                    for words in textwrap.wrap(purpose, formatter.width - len(indent) - 2):
                        formatter.write(f"{indent}# {words}\n")
                    formatter.write(f"{indent}{line}\n")
        super().format_epilog(ctx, formatter)


class Group(Command, click.Group):
    """A group of such commands."""

    command_class = Command

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


def did_you_mean(word: str, known: Iterable[str], form: str = "; did you mean {!r}?") -> str:
    """A question with the nearest of the known words; empty when none is near."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return form.format(names[near[0]]) if near else ""


def wants_json(args: Sequence[str]) -> bool:
    """Tell whether `--json` is among the options of a command line."""
    return "--json" in args[: _end_of_options(args)]


def _end_of_options(args: Sequence[str]) -> int:
    return args.index("--") if "--" in args else len(args)
