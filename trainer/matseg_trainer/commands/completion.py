"""Shell completion of data sets, versions and splits of the workspace: fast, and silent about what is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matseg_shared.errors import UsageError
from matseg_trainer.workspace import Workspace

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_dataset(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of data sets that are there, or that `config.toml` has versions of."""
    place = _workspace(ctx)
    sets = {folder.parent.name for folder in place.data.glob("*/train/")}
    return _starting(dict.fromkeys(sorted(sets | set(_tables(place)))), incomplete)


def complete_version(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Versions of the data set named before, each with its network."""
    versions = _tables(_workspace(ctx)).get(str(ctx.params.get("dataset")), {})
    networks = {
        name: str(table.get("model", "")) if isinstance(table, dict) else None
        for name, table in (versions.items() if isinstance(versions, dict) else ())
        if name != "default"
    }
    return _starting(networks, incomplete)


def complete_split(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Splits of the data set named before that are not on the line yet; the usual ones where click does not tell it.

    (Behind an option that still lacks its value, click has read no arguments.)
    """
    dataset = ctx.params.get("other") or ctx.params.get("dataset")
    given = ctx.params.get("splits") or ()
    names = ["train", "validate", "test"]
    if dataset is not None:
        root = _workspace(ctx).data / str(dataset)
        names = sorted(folder.parent.name for folder in root.glob("*/images/"))
    return _starting({name: None for name in names if name not in given}, incomplete)


def _workspace(ctx: click.Context) -> Workspace:
    try:
        return Workspace.find(ctx.params.get("workspace"))
    except UsageError:
        return Workspace(Path())


def _tables(place: Workspace) -> dict[str, Any]:
    try:
        return tomllib.loads(place.config_path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}


def _starting(names: Mapping[str, str | None], incomplete: str) -> list[CompletionItem[str]]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name, help=text) for name, text in names.items() if name.startswith(incomplete)]
