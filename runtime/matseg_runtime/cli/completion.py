"""Shell completion of model files and models of the zoo."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# as in matseg_runtime.model.zoo, which imports too much for the time between two keystrokes
_PREFIX = "zoo:"
_INDEX_NAME = "zoo_index.json"


def complete_model(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Model files and folders where the typed path leads, and the models of the zoo."""
    from click.shell_completion import CompletionItem

    if incomplete.startswith(_PREFIX):
        return [CompletionItem(name, help=text) for name, text in _zoo() if name.startswith(incomplete)]
    folder = incomplete[: incomplete.rfind("/") + 1]
    try:
        names = sorted(path.name for path in Path(folder or ".").iterdir())
    except OSError:
        names = []
    found = [folder + name for name in names if name.lower().endswith(".onnx")]
    if incomplete and _PREFIX.startswith(incomplete):
        found += [name for name, _text in _zoo()]
    items = [CompletionItem(name) for name in found if name.startswith(incomplete)]
    return [*items, CompletionItem(incomplete, type="dir")]


def _zoo() -> list[tuple[str, str]]:
    try:
        index = json.loads(
            resources.files("matseg_runtime").joinpath(_INDEX_NAME).read_text(encoding="utf-8")
        )
        return [(_PREFIX + item["name"], item["summary"]) for item in index["models"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
