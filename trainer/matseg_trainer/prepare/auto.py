"""The version `auto` of a data set, made and written into `config.toml`."""

from __future__ import annotations

import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import MissingExtraError, UsageError
from matseg_trainer.config.edit import read_document, write_version
from matseg_trainer.config.load import AUTO_VERSION, DATA_KEYS, DEFAULT_VERSION, parse_config
from matseg_trainer.prepare.facts import DataFacts, look_at
from matseg_trainer.prepare.labels import found_classes, update_arrays
from matseg_trainer.prepare.plan import Choice, make_plan
from matseg_trainer.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AutoVersion:
    """A plan that was written."""

    dataset: str
    config: Path
    """The `config.toml`."""
    facts: DataFacts
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]
    """On label arrays that were made."""

    @property
    def told(self) -> list[str]:
        """The file, what was found, and each choice with its reason, for a person."""
        told = [(item.key, str(item.value), item.reason) for item in self.choices]
        wide = [max(len(part[column]) for part in told) for column in (0, 1)]
        lines = [f"  {key:<{wide[0]}}  {value:<{min(wide[1], 12)}}  {reason}" for key, value, reason in told]
        return [f"{self.config}: version {AUTO_VERSION!r} of {self.dataset}", f"  {self.facts.words}", *lines]


def has_auto(place: Workspace, name: str) -> bool:
    """True where `config.toml` has the version already.

    Raises:
        ConfigError: it cannot be read as TOML.
    """
    tables = read_document(place.config_path)[1].get(name)
    return isinstance(tables, dict) and AUTO_VERSION in tables


def write_auto(
    place: Workspace, name: str, *, overwrite: bool = False, progress: Progress = SILENT
) -> AutoVersion:
    """Make the version `auto` of the data set `name` from its data, and write it.

    Label arrays and class table are made where they are missing, as training does it.

    Raises:
        UsageError: it is there, and is not to be replaced.
        DatasetError: there is no such data set, or nothing can be learned from it.
        ConfigError: `config.toml` is wrong.
    """
    if has_auto(place, name) and not overwrite:
        raise UsageError(
            f"{place.config_path}: has the version {AUTO_VERSION!r} of {name!r} already; give --overwrite to make it "
            "anew from the data, and lose changes that were made to it"
        )
    dataset = place.dataset(name)
    if importlib.util.find_spec("scipy") is None:
        raise MissingExtraError("train", "a plan from the data")
    said = _said_of_the_data(place, name)
    n_class = len(dataset.classes) if dataset.classes_path.exists() else said.get("n_class")
    number = n_class or found_classes(dataset, progress)
    table = {name: {AUTO_VERSION: {**said, "model": "unet", "n_class": number}}}
    config = parse_config(table, place.config_path).version(name, AUTO_VERSION)
    splits = [split for split in ("train", "validate") if any((dataset.root / split / "images").glob("*"))]
    notes = update_arrays(dataset, splits or ["train"], number, progress)
    facts = look_at(dataset, config, progress)
    choices = make_plan(facts)
    word = shlex.quote(name)
    heading = (
        f"Made from the data by `matseg-prep config {word}`, and yours to change. {facts.words}. "
        f"matseg-train {word} trains it."
    )
    write_version(place.config_path, name, AUTO_VERSION, choices, heading)
    return AutoVersion(dataset=name, config=place.config_path, facts=facts, choices=choices, notes=notes)


def _said_of_the_data(place: Workspace, name: str) -> dict[str, Any]:
    """Keys of `[name.default]` that say what the data are."""
    tables = read_document(place.config_path)[1].get(name)
    defaults = tables.get(DEFAULT_VERSION) if isinstance(tables, dict) else None
    known = defaults.items() if isinstance(defaults, dict) else ()
    return {key: value for key, value in known if key in DATA_KEYS}
