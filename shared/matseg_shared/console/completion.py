"""Completion scripts of all commands for bash, zsh and fish.

A shell calls the command itself with a variable set, and click answers with the words that fit; so completing is as
fast as starting the command, and knows everything that the command knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import click
from click.shell_completion import (
    BashComplete,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' completion type value line="${COMP_LINE:0:COMP_POINT}"
    local typed="${line##*[[:space:]]}"
    local known="${typed%%"${typed##*:}"}"
    COMPREPLY=()
    for completion in $(env COMP_LINE="$line" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o plusdirs ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$known"}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class ColonBashComplete(BashComplete):
    """Bash, which splits words at colons too: of `zoo:dendr` it replaces `dendr` only, so the line is split here."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The finished words after the command, and the one that is being typed."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        incomplete = "" if not words or line[-1:].isspace() else words.pop()
        return words[1:], incomplete


def register() -> None:
    """Let click answer bash with `ColonBashComplete`."""
    add_completion_class(ColonBashComplete, "bash")


def completion_script(shell: str, commands: Mapping[str, click.Command]) -> str:
    """Script that makes a shell (`bash`, `zsh` or `fish`) complete these commands, by the names that are typed."""
    register()
    kind = get_completion_class(shell)
    assert kind is not None, shell
    return "\n".join(
        # not BashComplete.source, which starts a bash only to ask for its version
        ShellComplete.source(kind(command, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE"))
        for name, command in commands.items()
    )
