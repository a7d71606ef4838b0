"""Bring the versions of an existing MatSeg `config.py` along: its source is read, never executed.

The published shape: a function that builds a data set's defaults, and one dict `config` of data sets and versions.

```python
def gen_default(dataset, n_class, size, batch_size=4):
    return {"n_class": n_class, "size": size, "batch_size": batch_size}

config = {"steel": {"default": gen_default("steel", n_class=4, size=(484, 645)), "v1": {"model": "unet"}}}
```

A plain dict may stand for the function's call. Values must be literals; keys that MatSeg has no use for any more may
hold anything, and are named in the notes.
"""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matseg_shared.errors import ConfigError, Problem
from matseg_trainer.config.config_source import Settings, read_settings

DEFAULT = "default"
MAX_SOURCE_BYTES = 1 << 20
RENAMED = {"class_num": "n_class"}
DROPPED = {
    "root": "images are looked for in data/<data set> of the workspace",
    "mean": "measured on the training set",
    "std": "measured on the training set",
    "print_freq": "every epoch is shown and logged",
    "decay_epoch": "the learning rate falls with `patience` or `schedule`",
    "save": "the epoch that `checkpoint` names is always kept, unless --no-save is given",
    "name": "always <data set>_<version>",
}
"""Keys of the published versions that have no place here, and what stands for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedConfig:
    """A `config.toml` made of a `config.py`."""

    text: str
    """TOML; checked to hold what `config.py` says. The notes are its first comment lines."""
    notes: tuple[str, ...]
    """What was left out or means something else here, one sentence each."""


def import_config(path: Path) -> str:
    """The text of a `config.toml` with all data sets and versions of an existing MatSeg `config.py`.

    Raises:
        ConfigError: the file cannot be read, is not of the published shape, or a value is wrong; lists every
            problem with its line.
    """
    return read_matseg_config(path).text


def read_matseg_config(path: Path) -> ImportedConfig:
    """As `import_config`, with the notes apart.

    Raises:
        ConfigError: as `import_config`.
    """
    from matseg_trainer.config.load import parse_config  # pydantic and numpy: a quarter of a second

    tree = _parse(path)
    notes: list[str] = []
    try:
        settings = read_settings(tree, path, unused=frozenset(DROPPED))
        document = _translate(settings, notes)
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply to be a MatSeg configuration") from error
    try:
        checked = parse_config(document, path)
        _refuse_unwritable(document, path)
    except ConfigError as error:
        problems = [_with_line(problem, settings) for problem in error.problems]
        raise ConfigError(f"{path}: its versions cannot be used as they are", problems) from error
    notes = list(dict.fromkeys(notes))
    text = _write(document, [f"Imported from {path.name!r}.", *notes])
    if parse_config(tomllib.loads(text), path) != checked:
        raise AssertionError("the written TOML does not hold what was read")
    return ImportedConfig(text=text, notes=tuple(notes))


def _parse(path: Path) -> ast.Module:
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            raise ConfigError(f"{path}: expected a MatSeg config.py, found a file of more than a megabyte")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected a MatSeg config.py: {error.strerror or error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of somebody else's escape sequences
            return ast.parse(content)
    except SyntaxError as error:
        place = f" at line {error.lineno}" if error.lineno else ""
        raise ConfigError(f"{path}: expected Python source, but{place}: {error.msg}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: expected Python source, found a binary file ({error})") from error
    except (RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: is nested too deeply to be a MatSeg configuration") from error


def _translate(settings: Settings, notes: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Our names, without the keys that have no place here; adds to `notes`."""
    document: dict[str, dict[str, dict[str, Any]]] = {}
    notes += settings.notes
    for dataset, versions in settings.tables.items():
        document[dataset] = {name: _translate_keys(table) for name, table in versions.items()}
        for key in sorted({key for table in versions.values() for key in table} & DROPPED.keys()):
            notes.append(f"{key}: left out; {DROPPED[key]}")
        for version, table in versions.items():
            root = table.get("root")
            if isinstance(root, str) and re.split(r"[/\\]+", root.rstrip("/\\"))[-1] != dataset:
                notes.append(
                    f"{dataset}.{version}: its images stood in {root!r}; here they stand in data/{dataset}"
                )
        _carry_patience(document[dataset], dataset, notes)
        defaults = document[dataset].get(DEFAULT)
        if defaults:
            document[dataset][DEFAULT] = _without_our_defaults(defaults)
    return document


def _translate_keys(table: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(key, key): value for key, value in table.items() if key not in DROPPED}


def _carry_patience(versions: dict[str, dict[str, Any]], dataset: str, notes: list[str]) -> None:
    """There, `patience` was a plain number (by default the default's epochs); here 0 stands for a version's epochs."""
    from matseg_trainer.config.versions import VersionConfig

    defaults = versions.get(DEFAULT, {})
    for name, table in versions.items():
        if table.get("patience") == 0:
            table["patience"] = 1
            notes.append(f"{dataset}.{name}: patience 0 became 1, the least there is here")
    patience = defaults.get("patience")
    epoch = defaults.get("epoch", VersionConfig.model_fields["epoch"].default)
    if patience is None or patience != epoch:
        return
    del defaults["patience"]
    for name, table in versions.items():
        own = table.get("epoch", epoch)
        if "patience" not in table and isinstance(own, int) and isinstance(epoch, int) and own > epoch:
            table["patience"] = patience
            notes.append(
                f"{dataset}.{name}: keeps the patience {patience} of its data set; left out, it would be {own}"
            )


def _without_our_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """What the user's own defaults change; of equal ones only those of the same type (1 is not true)."""
    from matseg_trainer.config.versions import VersionConfig

    ours = {name: field.default for name, field in VersionConfig.model_fields.items()}
    return {
        key: value
        for key, value in table.items()
        if key not in ours or value != ours[key] or type(value) is not type(ours[key])
    }


def _refuse_unwritable(document: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """TOML has no None: left out, a version's None would be its data set's default."""
    problems = [
        Problem(
            where=f"{dataset}.{version}.{key}",
            message=f"None cannot undo the data set's default {versions[DEFAULT][key]!r} here",
            kind="none",
        )
        for dataset, versions in document.items()
        for version, table in versions.items()
        for key, value in table.items()
        if value is None and versions.get(DEFAULT, {}).get(key) is not None
    ]
    if problems:
        raise ConfigError(f"{path}: has values that a config.toml cannot hold", problems)


def _with_line(problem: Problem, settings: Settings) -> Problem:
    """A place in the TOML, with its line in the Python source."""
    lines: dict[str, int] = {}
    for place, line in settings.lines.items():
        renamed = ".".join((*place[:-1], RENAMED.get(place[-1], place[-1]) if len(place) == 3 else place[-1]))
        lines[renamed] = lines[repr(renamed)] = line
    where = problem.where
    while where and where not in lines:
        where = where.rpartition(".")[0]
    return replace(problem, message=f"{problem.message} (line {lines[where]})") if where else problem


def _write(document: Mapping[str, Mapping[str, Mapping[str, Any]]], comments: list[str]) -> str:
    lines = [f"# {comment}" for comment in comments]
    for dataset, versions in document.items():
        for version, table in versions.items():
            lines += ["", f"[{_toml_key(dataset)}.{_toml_key(version)}]"]
            lines += [
                f"{_toml_key(key)} = {_toml_value(value)}"
                for key, value in table.items()
                if value is not None
            ]
    return "\n".join(lines) + "\n"


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: object) -> str:
    """One TOML value; only what a checked `VersionConfig` can hold comes here."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    raise TypeError(f"{type(value).__name__} has no place in a config.toml")
