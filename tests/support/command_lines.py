"""Lines as users type them, parsed by the commands themselves and not carried out."""

from __future__ import annotations

import re
import shlex

import click

from matseg_trainer.commands.matseg import commands, main

_REDIRECTIONS = (">", ">>")


def take_line(line: str) -> None:
    """Parse one line.

    Raises:
        click.ClickException: the command would refuse it.
        KeyError: there is no such command.
    """
    words = [re.sub(r"\$\w+", "1", word) for word in shlex.split(line, comments=True)]  # shell variables
    for end in _REDIRECTIONS:
        words = words[: words.index(end)] if end in words else words
    program = words.pop(0)
    command: click.Command = (
        main if program == "matseg" else {entry.name: entry.load() for entry in commands().values()}[program]
    )
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        program = words.pop(0)
        inner = command.get_command(click.Context(command), program)
        if inner is None:
            raise KeyError(program)
        command = inner
    try:
        command.make_context(program, words)
    except click.exceptions.Exit as done:  # --help and --version are carried out at once
        if done.exit_code:
            raise
