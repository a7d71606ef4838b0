"""A workspace's `config.toml`: named versions of hyperparameters, as the user guide has them.

```toml
[tomography.default]        # the data set's own
n_class = 2
size = [852, 852]

[tomography.v7]             # one version: what differs from the defaults
model = "unet"
epoch = 4

[tomography.longer]         # what differs from another version
base = "v7"
epoch = 40
```
"""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from matseg_shared.console.help import did_you_mean
from matseg_shared.errors import ConfigError, Problem, problems_of
from matseg_shared.system.names import portable_name_problem
from matseg_trainer.config.versions import (
    EFFICIENTNETS,
    RENAMED,
    Network,
    VersionConfig,
    current_names,
    takes_encoder,
)

DEFAULT_VERSION = "default"
AUTO_VERSION = "auto"
"""The version that is made from the data."""
GUIDE_PRESET = "guide2020"
_PRESET = "preset"
_INHERITING = ("base", _PRESET)
DATA_KEYS = ("n_class", "size", "channels", "context", "no_data", "crop_bottom")
"""Keys that say what the data are."""
GUIDE_2020 = {
    name: field.default
    for name, field in VersionConfig.model_fields.items()
    if name not in ("model", "validation_images", *DATA_KEYS)
}
"""All keys of how a network is trained, as the user guide has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All data sets and versions of one `config.toml`, each checked."""

    source: Path
    versions: Mapping[str, Mapping[str, VersionConfig]]
    """Data set name -> version name -> hyperparameters."""
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(compare=False)
    """As written; a version that starts from `auto`, which is not made yet, is here and not among `versions`."""
    note: str | None = None
    """A sentence on keys that have another name now, where there are any."""

    def version(self, dataset: str, version: str) -> VersionConfig:
        """The hyperparameters of one version.

        Raises:
            ConfigError: no such data set or version (names the nearest), or its plan is not made yet.
        """
        if dataset not in self.versions:
            raise ConfigError(
                f"{self.source}: has no data set {dataset!r}; {_choices(dataset, self.versions)}; "
                f"add a table [{dataset}.{version}]"
            )
        versions = self.versions[dataset]
        if version not in (DEFAULT_VERSION, *versions) and version in self.tables[dataset]:
            raise ConfigError(
                f"{self.source}: {dataset}.{version} starts from the version {AUTO_VERSION!r}, which is not made yet; "
                f"make it with `matseg-prep config {dataset}`"
            )
        if version not in versions:
            raise ConfigError(
                f"{self.source}: data set {dataset!r} has no version {version!r}; {_choices(version, versions)}"
            )
        return versions[version]


def load_config(path: Path) -> Config:
    """Read and check a `config.toml`.

    Raises:
        ConfigError: the file is missing, is not TOML, or anything in it is wrong; lists every problem.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: expected the workspace's configuration there, found nothing; run the command in the folder "
            "that holds config.toml and data/, or name it with --workspace"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: broken UTF-8, broken TOML, or a whole number of more digits than Python reads
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    return parse_config(document, path)


def parse_config(document: Mapping[str, Any], source: Path) -> Config:
    """Check a document of tables `[dataset.version]`.

    Raises:
        ConfigError: lists every problem, each with its place.
    """
    problems: list[Problem] = []
    versions: dict[str, Mapping[str, VersionConfig]] = {}
    old: set[str] = set()
    for dataset, tables in document.items():
        found = _layout_problems(dataset, tables)
        if not found:
            old.update(*(RENAMED.keys() & table.keys() for table in tables.values()))
            named = {name: current_names(table) for name, table in tables.items()}
            versions[dataset], found = _check_dataset(dataset, named)
        problems += found
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{source}: {count} to mend", problems)
    listed = ", ".join(f"`{key}` (now `{RENAMED[key]}`)" for key in sorted(old))
    note = f"{source}: has keys under earlier names, which are read as before: {listed}" if old else None
    return Config(source=source, versions=versions, tables=document, note=note)


def _layout_problems(dataset: str, tables: object) -> list[Problem]:
    """Names that cannot be file names, and keys that stand outside a version."""
    if not isinstance(tables, dict):
        message = f"expected tables [<data set>.default], [<data set>.v1], ..., found {_show(tables)}"
        return [Problem(where=dataset, message=message, kind="not_a_table")]
    problems = [] if _is_file_name(dataset) else [_bad_name(dataset)]
    for name, table in tables.items():
        place = f"{dataset}.{name}"
        if not isinstance(table, dict):
            message = f"stands outside a version; move it into [{dataset}.{DEFAULT_VERSION}]"
            problems.append(Problem(where=place, message=message, kind="not_a_table"))
        elif not _is_file_name(name):
            problems.append(_bad_name(place))
    return problems


def _is_file_name(name: str) -> bool:
    return name.isprintable() and name.strip(" .") == name and portable_name_problem(name) is None


def _bad_name(where: str) -> Problem:
    message = "the name is used for folders and files; use letters, digits, - and _"
    return Problem(where=repr(where), message=message, kind="bad_name")


def _check_dataset(
    dataset: str, tables: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, VersionConfig], list[Problem]]:
    """A mistake in the defaults is reported once, there, and not again for every version."""
    defaults = tables.get(DEFAULT_VERSION, {})
    named = {name: table for name, table in tables.items() if name != DEFAULT_VERSION}
    has_encoder = {True: "effunet", False: "vggunet"}[defaults.get("encoder") in EFFICIENTNETS]
    placeholders: dict[str, Any] = {"model": has_encoder if "encoder" in defaults else "unet"}
    if any({"n_class", *_INHERITING} & table.keys() for table in named.values()):
        placeholders["n_class"] = 2
    versions: dict[str, VersionConfig] = {}
    problems: list[Problem] = []
    repeated: list[Problem] = []
    reported: set[str] = set()
    for name, table in {DEFAULT_VERSION: placeholders | dict(defaults), **named}.items():
        try:
            inherited = {} if name == DEFAULT_VERSION else _inherited(name, named, ())
        except _InheritanceError as error:
            problems.append(replace(error.problem, where=f"{dataset}.{error.problem.where}"))
            continue
        except _UnplannedError:
            continue
        whole = {**defaults, **_over(inherited, table if name == DEFAULT_VERSION else _own(table))}
        try:
            versions[name] = VersionConfig.model_validate(whole)
        except ValidationError as error:
            explained = [_explain(problem, whole, f"{dataset}.{name}") for problem in problems_of(error)]
            # one problem per key: both numbers of a bad `size` are one mistake
            found = {problem.where.removeprefix(f"{dataset}.{name}."): problem for problem in explained}
            known = reported | inherited.keys() - table.keys()
            for key, item in found.items():
                (problems if key in table or key not in known else repeated).append(item)
            reported |= found.keys() if name == DEFAULT_VERSION else set()
    versions.pop(DEFAULT_VERSION, None)
    # an inherited key may be wrong in the heir alone
    return versions, list(dict.fromkeys(problems or repeated))


class _InheritanceError(Exception):
    def __init__(self, where: str, message: str, kind: str) -> None:
        self.problem = Problem(where=where, message=message, kind=kind)


class _UnplannedError(Exception):
    """A version starts from `auto`, which is not there."""


def _inherited(name: str, tables: Mapping[str, Mapping[str, Any]], heirs: tuple[str, ...]) -> dict[str, Any]:
    """Keys that a version takes from its `base` or `preset`, over which its own table goes; `heirs` take from it."""
    given = [key for key in _INHERITING if key in tables[name]]
    if not given:
        return {}
    key, base = given[0], tables[name][given[0]]
    place = f"{name}.{key}"
    if len(given) > 1:
        raise _InheritanceError(place, "stands beside `preset`; leave one of them out", "two_bases")
    if key == _PRESET and base == GUIDE_PRESET:
        return dict(GUIDE_2020)
    if key == _PRESET and base != AUTO_VERSION:
        message = f'expected "{AUTO_VERSION}" or "{GUIDE_PRESET}", found {_show(base)}'
        raise _InheritanceError(place, message, "unknown_preset")
    if not isinstance(base, str) or base not in tables:
        if base == AUTO_VERSION:
            raise _UnplannedError
        message = (
            f"expected another version of this data set, found {_show(base)}; {_choices(str(base), tables)}"
        )
        raise _InheritanceError(place, message, "unknown_version")
    if base in (*heirs, name):
        circle = " -> ".join((*heirs, name, base))
        raise _InheritanceError(place, f"a version cannot inherit from itself: {circle}", "circle")
    return _over(_inherited(base, tables, (*heirs, name)), _own(tables[base]))


def _over(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A version's own keys over those that it inherits, but an encoder that its own network does not take."""
    model, encoder = own.get("model"), inherited.get("encoder")
    left_out = isinstance(model, str) and encoder is not None and not takes_encoder(model.lower(), encoder)
    kept = {key: value for key, value in inherited.items() if not (left_out and key.startswith("encoder"))}
    return {**kept, **own}


def _own(table: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a table itself."""
    return {key: value for key, value in table.items() if key not in _INHERITING}


def _explain(problem: Problem, table: Mapping[str, Any], where: str) -> Problem:
    key = problem.where.split(".")[0]
    place = f"{where}.{key}" if key else where
    if problem.kind == "extra_forbidden":
        message = f"unknown key; {_choices(key, VersionConfig.model_fields)}"
        if key in RENAMED:
            message = f"is the earlier name of {RENAMED[key]!r}, which is there too; leave one of them out"
        elif key in _INHERITING:
            message = "stands in the defaults of all versions; move it into one version"
        return Problem(where=place, message=message, kind="unknown_key")
    if problem.kind == "missing":
        needed = {
            "model": f"one of {', '.join(get_args(Network))}",
            "n_class": "the number of classes, two or more",
        }
        return Problem(where=place, message=f"is missing and has no default; {needed[key]}", kind="missing")
    message = f"{problem.message[:1].lower()}{problem.message[1:]}, found {_show(table.get(key))}"
    if key == "model" and isinstance(table.get(key), str):
        message += did_you_mean(table[key], get_args(Network))
    return Problem(where=place, message=message, kind=problem.kind)


def _show(value: object) -> str:
    """A value as in the file, but short: Python refuses to print whole numbers of thousands of digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    return reprlib.repr(value)


def _choices(name: str, known: Mapping[str, Any]) -> str:
    listing = f"known: {', '.join(known) or 'none'}"
    question = did_you_mean(name, known, "did you mean {!r}?")
    return f"{question} ({listing})" if question else listing
