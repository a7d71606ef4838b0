"""Read the dict of versions out of the syntax tree of a MatSeg `config.py`, without executing any of it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matseg_shared.errors import ConfigError, Problem

CONFIG_VARIABLE = "config"
_HARMLESS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.AsyncFunctionDef, ast.Pass)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a `config.py` says, value by value."""

    tables: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Data set -> version -> key -> literal; keys that are not used hold None when they are not literals."""
    lines: Mapping[tuple[str, ...], int]
    """(data set, version, key), (data set, version) and (data set,) -> line in the source, counted from 1."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """An expression, and what the parameters in it stand for."""

    node: ast.expr
    scope: Mapping[str, _Bound]


class _NotLiteralError(Exception):
    def __init__(self, node: ast.AST, message: str) -> None:
        super().__init__(message)
        self.node = node


@dataclass(slots=True)
class _Reader:
    unused: frozenset[str]
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def refuse(self, node: ast.AST, message: str) -> None:
        problem = Problem(where=f"line {_line(node)}", message=message, kind="not_literal")
        if problem not in self.problems:
            self.problems.append(problem)


def read_settings(tree: ast.Module, path: Path, *, unused: frozenset[str]) -> Settings:
    """The master dict of a `config.py`.

    Args:
        tree: its syntax tree.
        path: named in errors.
        unused: keys whose values may be any expression, because they are not used.

    Raises:
        ConfigError: no such dict, or values that are not literals; lists every problem with its line.
    """
    reader = _Reader(unused=unused)
    master = _find_master(tree, path, reader)
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for dataset, versions in _entries(reader, master, "the data sets", ()):
        tables[dataset] = {}
        if not isinstance(versions, ast.Dict):
            reader.refuse(versions, f"expected the dict of versions of {dataset!r}, found {_kind(versions)}")
            continue
        for version, node in _entries(reader, versions, f"the versions of {dataset!r}", (dataset,)):
            tables[dataset][version] = _table(reader, node, (dataset, version))
    if reader.problems:
        raise ConfigError(
            f"{path}: is read without executing it, so its versions must be written as plain values",
            sorted(reader.problems, key=lambda problem: int(problem.where.removeprefix("line "))),
        )
    return Settings(tables=tables, lines=reader.lines, notes=tuple(reader.notes))


def _find_master(tree: ast.Module, path: Path, reader: _Reader) -> ast.Dict:
    masters: list[ast.Dict] = []
    for statement in tree.body:
        value = _assigned(statement, CONFIG_VARIABLE)
        if isinstance(value, ast.Dict):
            masters.append(value)
        elif isinstance(statement, ast.FunctionDef):
            reader.functions[statement.name] = statement
        elif not isinstance(statement, _HARMLESS) and _touches_master(statement):
            reader.refuse(statement, f"changes `{CONFIG_VARIABLE}` by code; write it into the dict itself")
    if not masters and not reader.problems:
        raise ConfigError(
            f"{path}: expected a MatSeg config.py with a dict `{CONFIG_VARIABLE}` of data sets and versions, "
            "found none"
        )
    for repeated in masters[1:]:
        reader.refuse(repeated, f"a second dict `{CONFIG_VARIABLE}`; keep the one that is meant")
    return masters[0] if masters else ast.Dict(keys=[], values=[])


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    """The value that a plain assignment gives to `name`."""
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return None
    named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return statement.value if named else None


def _touches_master(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If) and _is_main_guard(statement.test):
        return False
    return any(isinstance(node, ast.Name) and node.id == CONFIG_VARIABLE for node in ast.walk(statement))


def _is_main_guard(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _entries(
    reader: _Reader, node: ast.Dict, what: str, place: tuple[str, ...]
) -> list[tuple[str, ast.expr]]:
    """(key, value) of a dict whose keys are strings; as in Python the last of equal keys holds."""
    found: dict[str, ast.expr] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            shown = "a `**` merge" if key is None else _kind(key)
            reader.refuse(key or value, f"expected a name in quotes as a key of {what}, found {shown}")
            continue
        if key.value in found:
            where = ".".join((*place, key.value))
            reader.notes.append(f"{where}: given twice; line {key.lineno} holds, as in Python")
        found[key.value] = value
        reader.lines[(*place, key.value)] = key.lineno
    return list(found.items())


def _table(reader: _Reader, node: ast.expr, place: tuple[str, ...]) -> dict[str, Any]:
    """The literals of one version: a dict, or the call of a function that returns one."""
    bound = _Bound(node=node, scope={})
    if isinstance(node, ast.Call):
        called = _call(reader, node)
        if called is None:
            return {}
        bound = called
    if not isinstance(bound.node, ast.Dict):
        reader.refuse(bound.node, f"expected the dict of {'.'.join(place)}, found {_kind(bound.node)}")
        return {}
    table: dict[str, Any] = {}
    for key, value in _entries(reader, bound.node, ".".join(place), place):
        try:
            table[key] = _literal(_Bound(node=value, scope=bound.scope))
        except _NotLiteralError as error:
            if key in reader.unused:
                table[key] = None
            else:
                reader.refuse(error.node, f"{'.'.join((*place, key))}: {error}")
    return table


def _call(reader: _Reader, node: ast.Call) -> _Bound | None:
    """The dict that a function of this file returns, with its parameters bound."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    function = reader.functions.get(name)
    if function is None:
        reader.refuse(node, f"expected a dict or a function of this file, found {_kind(node)}")
        return None
    returned = _returned_dict(reader, function)
    scope = _bind(reader, function, node)
    return None if returned is None or scope is None else _Bound(node=returned, scope=scope)


def _returned_dict(reader: _Reader, function: ast.FunctionDef) -> ast.Dict | None:
    """Of a body `return {...}` or `name = {...}; return name`."""
    body = [
        item
        for item in function.body
        if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
    ]
    if function.decorator_list or not body or not isinstance(body[-1], ast.Return):
        body = []
    value = body[-1].value if body and isinstance(body[-1], ast.Return) else None
    if len(body) == 2 and isinstance(value, ast.Name):
        value = _assigned(body[0], value.id)
    elif len(body) != 1:
        value = None
    if isinstance(value, ast.Dict):
        return value
    reader.refuse(function, f"expected {function.name}() to do nothing but return one dict")
    return None


def _bind(reader: _Reader, function: ast.FunctionDef, call: ast.Call) -> dict[str, _Bound] | None:
    """What each parameter stands for; those without argument or default are left out."""
    arguments = function.args
    positional = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
    names = [*positional, *(item.arg for item in arguments.kwonlyargs)]
    starred = any(isinstance(item, ast.Starred) for item in call.args) or any(
        item.arg is None for item in call.keywords
    )
    given = [item.arg or "" for item in call.keywords]
    used = [*positional[: len(call.args)], *given]
    if (
        starred
        or len(call.args) > len(positional)
        or not set(used) <= set(names)
        or len(used) != len(set(used))
    ):
        reader.refuse(call, f"its arguments do not fit {function.name}({', '.join(names)})")
        return None
    defaults = arguments.defaults
    scope = {
        name: _Bound(node=value, scope={})
        for name, value in zip(positional[len(positional) - len(defaults) :], defaults, strict=True)
    }
    for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            scope[item.arg] = _Bound(node=default, scope={})
    scope |= {name: _Bound(node=value, scope={}) for name, value in zip(positional, call.args, strict=False)}
    return scope | {str(item.arg): _Bound(node=item.value, scope={}) for item in call.keywords}


def _literal(bound: _Bound) -> Any:
    """The value of a literal, of a parameter that stands for one, or of two strings with a plus between them."""
    node = bound.node
    if isinstance(node, ast.Constant) and (
        node.value is None or isinstance(node.value, bool | int | float | str)
    ):
        if isinstance(node.value, int) and node.value.bit_length() > 63:
            raise _NotLiteralError(node, "expected a number of ordinary size")
        return node.value
    if isinstance(node, ast.Name) and node.id in bound.scope:
        return _literal(bound.scope[node.id])
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(_Bound(node=item, scope=bound.scope)) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _literal(_Bound(node=node.operand, scope=bound.scope))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (_literal(_Bound(node=item, scope=bound.scope)) for item in (node.left, node.right))
        if isinstance(left, str) and isinstance(right, str):
            return left + right
    raise _NotLiteralError(node, f"expected a plain value, found {_kind(node)}")


def _kind(node: ast.expr) -> str:
    """An expression in the user's words."""
    if isinstance(node, ast.Name):
        return f"the name `{node.id}`"
    if isinstance(node, ast.Call):
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "something")
        return f"a call of {called}()"
    kinds: dict[type[ast.expr], str] = {
        ast.JoinedStr: "an f-string",
        ast.Dict: "a dict",
        ast.BinOp: "a calculation",
        ast.IfExp: "a condition",
        ast.DictComp: "a comprehension",
        ast.ListComp: "a comprehension",
        ast.Attribute: "an attribute",
        ast.Subscript: "an index",
        ast.Lambda: "a lambda",
    }
    if isinstance(node, ast.Constant):
        return f"a value of type {type(node.value).__name__}"
    return kinds.get(type(node), "an expression")


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 1))
