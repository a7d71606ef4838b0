"""`matseg`: what of the walk is done here, and all other commands by one name (`matseg train` is `matseg-train`)."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import click

from matseg_shared.command import console, debug_option, json_option, print_json
from matseg_shared.completion import SHELLS, completion_script
from matseg_shared.help import Choice, Command, Example, Group
from matseg_trainer.workspace import Workspace, workspace_option

_PREFIX = "matseg-"


def command_names() -> list[str]:
    """Names of all commands of the distribution but `matseg` itself, in the order in which pyproject.toml has them."""
    return [entry.name for entry in _entry_points() if entry.name.startswith(_PREFIX)]


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    points = importlib.metadata.distribution("matseg").entry_points
    return list({entry.name: entry for entry in points if entry.group == "console_scripts"}.values())


class _Walk(Group):
    """Its own commands, and those of the distribution, each imported only when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*(name.removeprefix(_PREFIX) for name in command_names()), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in _entry_points():
            if entry.name == _PREFIX + cmd_name:
                loaded: click.Command = entry.load()
                return loaded
        return super().get_command(ctx, cmd_name)


@click.group(
    name="matseg",
    cls=_Walk,
    invoke_without_command=True,
    examples=[
        Example("what is done in this workspace, and what to type next", "matseg"),
        Example("synthetic slices to try everything on", "matseg prep demo demo"),
        Example("let the shell complete what you type, from now on", "matseg completion bash"),
        Example("versions of everything that matters in a bug report", "matseg --version"),
    ],
)
@workspace_option
@json_option
@click.option("--version", is_flag=True, help="Print versions and execution providers.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, workspace: Path | None, as_json: bool, version: bool, debug: bool) -> None:
    """Label micrographs and tomography volumes: prepare, train, evaluate, export, run.

    Without a command: shows what of this is done in the workspace, and what to type next. Every command can be typed
    with a dash as well: matseg train is matseg-train.
    """
    if ctx.invoked_subcommand is None:
        arguments: dict[str, Any] = {"as_json": as_json, "debug": debug}
        if version:
            ctx.invoke(versions, **arguments)
        else:
            ctx.invoke(status, workspace=workspace, **arguments)
    elif workspace is not None or as_json or version or debug:
        raise click.UsageError(f"Options belong behind the command: matseg {ctx.invoked_subcommand} ...")


@main.command(examples=[Example("as a document for scripts", "matseg status --json")])
@workspace_option
@json_option
@debug_option
def status(workspace: Path | None, as_json: bool) -> None:
    """What of the walk is done in this workspace, and what to type next; the same as matseg alone."""
    from matseg_trainer.overview.survey import survey
    from matseg_trainer.overview.table import print_state

    state = survey(Workspace.find(workspace))
    if as_json:
        print_json(state)
    else:
        print_state(console(), state)


@main.command(hidden=True)
@json_option
@debug_option
def versions(as_json: bool) -> None:
    """Print versions and execution providers; the same as matseg --version."""
    from matseg_trainer.versions import VersionsSummary

    found = VersionsSummary.here()
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(found.lines()))


@main.command(
    cls=Command,
    examples=[
        Example("bash, from now on", "matseg completion bash >> ~/.bashrc"),
        Example("zsh, behind its line `compinit`", "matseg completion zsh >> ~/.zshrc"),
        Example("fish", "matseg completion fish > ~/.config/fish/conf.d/matseg.fish"),
    ],
)
@click.argument("shell", type=Choice(SHELLS))
@debug_option
def completion(shell: str) -> None:
    """Print what SHELL must read to complete commands, options, data sets, versions, splits and models.

    PowerShell is not among the shells that can.
    """
    commands: dict[str, click.Command] = {"matseg": main}
    for entry in _entry_points():
        if entry.name.startswith(_PREFIX):
            commands[entry.name] = entry.load()
    click.echo(completion_script(shell, commands))
