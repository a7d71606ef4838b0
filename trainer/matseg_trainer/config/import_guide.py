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
import json
import textwrap
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from matseg_shared.errors import ConfigError, Problem
from matseg_trainer.config.edit import table_header
from matseg_trainer.config.load import DEFAULT_VERSION, parse_config
from matseg_trainer.config.versions import VersionConfig

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
_OURS = {name: repr(field.default) for name, field in VersionConfig.model_fields.items()}


class ImportedConfig(NamedTuple):
    """A `config.toml` made of a `config.py`."""

    text: str
    """TOML; checked to hold what `config.py` says. The notes are its first comment lines."""
    notes: tuple[str, ...]
    """Sentences on what was left out or means something else here."""


def read_matseg_config(path: Path) -> ImportedConfig:
    """All data sets and versions of an existing MatSeg `config.py`.

    Raises:
        ConfigError: the file cannot be read; is not of the published shape (names the first line that is not); or its
            values are wrong (lists every one with its line).
    """
    try:
        reader = _Reader(_parse(path))
    except _UnexpectedError as error:
        raise ConfigError(
            f"{path}: is read without executing it, so its versions must be written as plain values; {error}"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: is nested too deeply to be a MatSeg configuration") from error
    try:
        checked = parse_config(reader.tables, path)
    except ConfigError as error:
        problems = [reader.with_line(problem) for problem in error.problems]
        raise ConfigError(f"{path}: its versions cannot be used as they are", problems) from error
    notes = tuple(dict.fromkeys(reader.notes))
    text = _write(reader.tables, [f"Imported from {path.name!r}.", *notes])
    if parse_config(tomllib.loads(text), path) != checked:
        raise AssertionError("the written TOML does not hold what was read")
    return ImportedConfig(text, notes)


def _parse(path: Path) -> ast.Module:
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            raise ConfigError(f"{path}: expected a MatSeg config.py, found a file of more than a megabyte")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of somebody else's escape sequences
            return ast.parse(path.read_bytes(), path.name)
    except OSError as error:
        raise ConfigError(f"{path}: expected a MatSeg config.py: {error.strerror or error}") from error
    except (SyntaxError, ValueError) as error:  # ValueError: bytes of no text
        raise ConfigError(f"{path}: expected Python source, found something else: {error}") from error


class _UnexpectedError(Exception):
    def __init__(self, node: ast.expr | ast.stmt, expected: str) -> None:
        found = textwrap.shorten(ast.unparse(node), 60, placeholder=" ...")
        super().__init__(f"line {node.lineno}: expected {expected}, found `{found}`")


class _Reader:
    """The dict `config` of a source, with our names of the keys and without those that have no place here."""

    def __init__(self, tree: ast.Module) -> None:
        self.tables: dict[str, dict[str, dict[str, Any]]] = {}
        self.notes: list[str] = []
        self._lines: dict[str, int] = {}  # of `set`, `set.version` and `set.version.key`
        self._functions = {item.name: item for item in tree.body if isinstance(item, ast.FunctionDef)}
        for dataset, versions in self._items(_config_dict(tree), "the data sets", ""):
            tables = self.tables[dataset] = {}
            for version, node in self._items(versions, f"the versions of {dataset!r}", f"{dataset}."):
                tables[version] = self._table(node, f"{dataset}.{version}")
            defaults = tables.get(DEFAULT_VERSION, {})
            for key in [key for key, value in defaults.items() if repr(value) == _OURS.get(key)]:
                del defaults[key]  # what MatSeg takes by default; as it is written, for 1 is not True

    def _items(self, node: ast.expr, what: str, prefix: str) -> Iterator[tuple[str, ast.expr]]:
        if not isinstance(node, ast.Dict):
            raise _UnexpectedError(node, f"the dict of {what}")
        for key, value in zip(node.keys, node.values, strict=True):
            if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                raise _UnexpectedError(key or value, f"a name in quotes as a key of {what}")
            name = RENAMED.get(key.value, key.value)
            self._lines[prefix + name] = key.lineno
            yield name, value

    def _table(self, node: ast.expr, place: str) -> dict[str, Any]:
        arguments: Mapping[str, ast.expr | None] = {}
        if isinstance(node, ast.Call):
            node, arguments = self._called(node)
        table: dict[str, Any] = {}
        for key, item in self._items(node, place, f"{place}."):
            if key in DROPPED:
                self.notes.append(f"{key}: left out; {DROPPED[key]}")
                continue
            value = arguments.get(item.id) or item if isinstance(item, ast.Name) else item
            try:
                table[key] = ast.literal_eval(value)
            except (ValueError, TypeError):
                table[key] = None
            if table[key] is None:
                raise _UnexpectedError(item, f"a plain value as {place}.{key}")
            if key == "patience" and table[key] == 0:
                table[key] = 1
                self.notes.append(f"{place}: patience 0 became 1, the least there is here")
        return table

    def _called(self, call: ast.Call) -> tuple[ast.Dict, Mapping[str, ast.expr | None]]:
        """The dict that a function of the file returns, and what its parameters stand for."""
        function = self._functions.get(ast.unparse(call.func))
        if function is None:
            raise _UnexpectedError(call, "a dict or a call of a function of this file")
        body = function.body[ast.get_docstring(function) is not None :]
        match [*function.decorator_list, *body]:
            case [ast.Return(value=ast.Dict() as returned)]:
                pass
            case [
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict() as returned),
                ast.Return(value=ast.Name(id=result)),
            ] if name == result:
                pass
            case _:
                raise _UnexpectedError(function, f"{function.name}() to do nothing but return one dict")
        names = [item.arg for item in (*function.args.args, *function.args.kwonlyargs)]
        defaults = [*function.args.defaults, *function.args.kw_defaults]
        given = {item.arg or "**": item.value for item in call.keywords}
        if len(call.args) > len(function.args.args) or not given.keys() <= set(names):
            raise _UnexpectedError(call, f"arguments of {function.name}({', '.join(names)})")
        values = dict(zip(reversed(names), reversed(defaults), strict=False))
        return returned, values | dict(zip(names, call.args, strict=False)) | given

    def with_line(self, problem: Problem) -> Problem:
        """A problem of the TOML, with the line of the Python source."""
        where = problem.where.strip("'\"")  # names that no folder can have are quoted
        while where and where not in self._lines:
            where = where.rpartition(".")[0]
        line = f" (line {self._lines[where]})" if where else ""
        return replace(problem, message=problem.message + line)


def _config_dict(tree: ast.Module) -> ast.expr:
    touching = [
        item
        for item in tree.body
        if not isinstance(item, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(item, ast.If) and "__name__" in ast.unparse(item.test))
        and any(isinstance(node, ast.Name) and node.id == "config" for node in ast.walk(item))
    ]
    match touching:
        case [ast.Assign(targets=[ast.Name()], value=value)]:
            return value
        case [*_, last]:
            raise _UnexpectedError(last, "one dict `config` that no other code changes")
    raise _UnexpectedError(ast.Pass(lineno=1), "a dict `config` of data sets and versions")


def _write(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], comments: list[str]) -> str:
    lines = [f"# {comment}" for comment in comments]
    for dataset, versions in tables.items():
        for version, table in versions.items():
            lines += ["", table_header(dataset, version)]
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"
