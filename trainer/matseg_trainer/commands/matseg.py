"""The command `matseg`: steps that are done here, and all other commands by one name (`matseg train`)."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import click

from matseg_shared.console.command import console, debug_option, json_option, print_json, show
from matseg_shared.console.completion import completion_script
from matseg_shared.console.help import Group
from matseg_shared.console.options import Choice, flag
from matseg_trainer.commands.options import usual_options
from matseg_trainer.workspace import Workspace, workspace_option

_PREFIX = "matseg-"
_STEPS = ("prep", "train", "evaluate", "export", "run")


def commands() -> dict[str, importlib.metadata.EntryPoint]:
    """All commands of the distribution but `matseg` itself, by their names without `matseg-`; the main steps first."""
    found = {
        entry.name.removeprefix(_PREFIX): entry
        for entry in importlib.metadata.distribution("matseg").entry_points
        if entry.group == "console_scripts" and entry.name.startswith(_PREFIX)
    }
    names = [*(name for name in _STEPS if name in found), *sorted(found.keys() - set(_STEPS))]
    return {name: found[name] for name in names}


class _Commands(Group):
    """Its own commands, and those of the distribution, each imported only when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*commands(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = commands().get(cmd_name)
        return super().get_command(ctx, cmd_name) if entry is None else entry.load()


@click.group(
    name="matseg",
    cls=_Commands,
    invoke_without_command=True,
    examples="""
        matseg  # what is done in this workspace, and what to type next
        matseg prep demo demo  # synthetic slices to try everything on
        matseg completion bash  # let the shell complete what you type, from now on
        matseg --version  # versions of everything that matters in a bug report
    """,
)
@workspace_option
@json_option
@flag("--version", "Print versions and execution providers.")
@debug_option
@click.pass_context
def main(ctx: click.Context, workspace: Path | None, as_json: bool, version: bool) -> None:
    """Label micrographs and tomography volumes: prepare, train, evaluate, export, run.

    Without a command: shows which of these steps are done in the workspace, and what to type next. Every command can
    be typed with a dash as well: matseg train is matseg-train.
    """
    if ctx.invoked_subcommand is not None:
        if any(ctx.params.values()):
            raise click.UsageError(f"Options belong behind the command: matseg {ctx.invoked_subcommand} ...")
    elif version:
        from matseg_trainer.commands.versions import version_lines, versions

        found = versions()
        show(found, version_lines(found), as_json=as_json)
    else:
        _show_status(workspace, as_json)


@main.command(
    examples="""
        matseg status --json  # as a document for scripts
    """
)
@usual_options
def status(workspace: Path | None, as_json: bool) -> None:
    """Show which steps are done here, and what to type next."""
    _show_status(workspace, as_json)


def _show_status(workspace: Path | None, as_json: bool) -> None:
    from matseg_trainer.overview.survey import survey

    state = survey(Workspace.find(workspace))
    if as_json:
        print_json(state)
    else:
        from matseg_trainer.overview.table import print_state

        print_state(console(), state)


@main.command(
    examples="""
        matseg completion bash >> ~/.bashrc  # bash, from now on
        matseg completion zsh >> ~/.zshrc  # zsh, behind its line `compinit`
        matseg completion fish > ~/.config/fish/conf.d/matseg.fish  # fish
    """
)
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
@debug_option
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete what is typed.

    It completes commands, options, data sets, versions, splits and models. PowerShell is not among the shells that can.
    """
    programs: dict[str, click.Command] = {"matseg": main}
    programs |= {entry.name: entry.load() for entry in commands().values()}
    click.echo(completion_script(shell, programs))
