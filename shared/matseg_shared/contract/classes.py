"""`classes.toml`: what the classes of a data set are called, how they are drawn, and what stood for them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from matseg_shared.contract.metadata import ClassInfo, problems_of
from matseg_shared.errors import DatasetError, Problem
from matseg_shared.system.files import write_text

CLASSES_NAME = "classes.toml"
_KEYS = frozenset({"name", "colour", "label_value"})
_HEADER = """\
# The classes of this data set in the order of their indices, as matseg-prep found them.
# Names and colours (red, green, blue) are yours to change; label_value is what stands for the class in labels/.
"""


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """Read and check a `classes.toml`.

    Raises:
        DatasetError: it is missing or wrong; lists every problem with its place.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: expected the class table there, found nothing; run `matseg-prep labels {path.parent.name} train "
            "--append`, which keeps label arrays that are there"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: broken UTF-8, broken TOML, or a whole number of more digits than Python reads
        raise DatasetError(f"{path}: cannot be read as TOML: {error}") from error
    tables = document.get("class")
    if set(document) != {"class"} or not isinstance(tables, list) or not tables:
        raise DatasetError(
            f"{path}: expected one table [[class]] per class and nothing else, found {', '.join(document) or 'nothing'}"
        )
    classes: list[ClassInfo] = []
    problems: list[Problem] = []
    for index, table in enumerate(tables):
        _read_class(index, table, classes, problems)
    problems += _repeated(classes)
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise DatasetError(f"{path}: {len(problems)} problem(s) to mend\n{listing}")
    return tuple(classes)


def _read_class(index: int, table: object, classes: list[ClassInfo], problems: list[Problem]) -> None:
    where = f"class {index}"
    if not isinstance(table, dict):
        problems.append(Problem(where=where, message="expected a table [[class]]", kind="not_a_table"))
        return
    for key in sorted(set(table) - _KEYS):
        message = f"unknown key {key!r}; known: {', '.join(sorted(_KEYS))}"
        problems.append(Problem(where=where, message=message, kind="unknown_key"))
    try:
        classes.append(ClassInfo(index=index, **{key: table[key] for key in _KEYS & set(table)}))
    except ValidationError as error:
        for problem in problems_of(error):
            place = f"{where}.{problem.where}"
            problems.append(Problem(where=place, message=problem.message, kind=problem.kind))


def _repeated(classes: Sequence[ClassInfo]) -> list[Problem]:
    problems = []
    for key in ("name", "label_value"):
        first: dict[object, int] = {}
        for item in classes:
            value = getattr(item, key)
            if first.setdefault(value, item.index) != item.index:
                message = f"{value!r} stands for class {first[value]} already"
                problems.append(Problem(where=f"class {item.index}.{key}", message=message, kind="repeated"))
    kinds = {isinstance(item.label_value, int) for item in classes}
    if len(kinds) > 1:
        message = "expected all grey values (or palette indices), or all RGB colours, found both"
        problems.append(Problem(where="label_value", message=message, kind="mixed"))
    return problems


def write_classes(path: Path, classes: Sequence[ClassInfo]) -> None:
    """Write a `classes.toml` that `read_classes` gives back.

    Raises:
        OutputError: it cannot be written.
    """
    blocks = [_HEADER]
    for item in classes:
        value = item.label_value if isinstance(item.label_value, int) else list(item.label_value)
        name = json.dumps(item.name, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # else JSON's strings are TOML's
        blocks.append(
            f"[[class]] # {item.index}\nname = {name}\ncolour = {list(item.colour)}\nlabel_value = {value}\n"
        )
    write_text(path, "\n".join(blocks))
