"""`classes.toml`: what the classes of a data set are called, how they are drawn, and what stands for them."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, Problem, problems_of
from matseg_shared.system.files import write_text

CLASSES_NAME = "classes.toml"
UNLABELLED = 255
"""In label arrays: nobody said what the pixel is. In labels that a run writes: no data. It is no class."""
LabelValue = int | tuple[int, int, int]
"""A grey value or palette index, or RGB."""
_REST = "rest"
_LARGEST = 1 << 53
"""Whole numbers below it are the same as floats."""
_KEYS = frozenset({"name", "colour", "label_value"})
_VALUE_WORDS = (
    "a whole number (grey value or palette index), three from 0 to 255 (a colour), or a list of several of them, as "
    "in [1, 2] or [[1], [2], [3]]"
)
_HEADER = """\
# The classes of this data set in the order of their indices, as matseg-prep found them.
# Names and colours (red, green, blue) are yours to change; label_value is what stands for the class in labels/
# (a list of several, or "rest" for all other values).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """Meaning of the values in label images of a data set."""

    classes: tuple[ClassInfo, ...]
    """In the order of their indices; `label_value` is the first of a class's values."""
    values: tuple[tuple[LabelValue, ...], ...]
    """Values that stand for each class; nothing for the one that all other values are."""
    unlabelled: tuple[LabelValue, ...] = ()
    """Values that stand for pixels that nobody labelled."""

    @classmethod
    def of(cls, classes: Sequence[ClassInfo]) -> Legend:
        """One value per class, and every pixel labelled."""
        return cls(classes=tuple(classes), values=tuple((item.label_value,) for item in classes))

    @property
    def has_colours(self) -> bool:
        """Colours stand for the classes, not numbers."""
        return not isinstance(self.classes[0].label_value, int)

    @property
    def numbers(self) -> frozenset[int]:
        """All values that are no colours."""
        return frozenset(
            value for some in (*self.values, self.unlabelled) for value in some if isinstance(value, int)
        )

    @property
    def rest(self) -> int | None:
        """The class of all values that are named nowhere."""
        return self.values.index(()) if () in self.values else None


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """The classes of a `classes.toml`, which is read and checked as `read_legend` does."""
    return read_legend(path).classes


def read_legend(path: Path) -> Legend:
    """Read and check a `classes.toml`.

    Raises:
        DatasetError: it is missing or wrong; lists every problem with its place.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: expected the class table there, found nothing; run `matseg-prep labels "
            f"{shlex.quote(path.parent.name)} train --append`, which keeps label arrays that are there"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: broken UTF-8, broken TOML, or a whole number of more digits than Python reads
        raise DatasetError(f"{path}: cannot be read as TOML: {error}") from error
    tables = document.get("class")
    if not set(document) <= {"class", "unlabelled"} or not isinstance(tables, list) or not tables:
        raise DatasetError(
            f"{path}: expected one table [[class]] per class, one [unlabelled] where there is such, and nothing else, "
            f"found {', '.join(document) or 'nothing'}"
        )
    problems: list[Problem] = []
    values = [_values_of(f"class {index}", table, _KEYS, problems) for index, table in enumerate(tables)]
    blank: tuple[LabelValue, ...] = ()
    if "unlabelled" in document:
        blank = _values_of("unlabelled", document["unlabelled"], frozenset({"label_value"}), problems) or ()
        if not blank and not problems:
            message = f"expected {_VALUE_WORDS}; all that is not named is a class's, or an error"
            problems.append(Problem(where="unlabelled.label_value", message=message, kind="label_value"))
    free = free_value({value for some in (*values, blank) for value in some or ()})
    classes = [
        _class(index, table, (*(values[index] or ()), free)[0], problems)
        for index, table in enumerate(tables)
        if isinstance(table, dict)
    ]
    problems += repeated([item for item in classes if item is not None], values, blank)
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise DatasetError(f"{path}: {len(problems)} problem(s) to mend\n{listing}")
    return Legend(
        classes=tuple(item for item in classes if item is not None),
        values=tuple(item for item in values if item is not None),
        unlabelled=blank,
    )


def _values_of(
    where: str, table: object, keys: frozenset[str], problems: list[Problem]
) -> tuple[LabelValue, ...] | None:
    """The values of a table, none for "rest"; None where they are wrong, which becomes a problem."""
    if not isinstance(table, dict):
        problems.append(Problem(where=where, message="expected a table [[class]]", kind="not_a_table"))
        return None
    for key in sorted(set(table) - keys):
        message = f"unknown key {key!r}; known: {', '.join(sorted(keys))}"
        problems.append(Problem(where=where, message=message, kind="unknown_key"))
    found = table.get("label_value")
    if found == _REST:
        return ()
    alone = _value(found)
    values = [_value(item) for item in found] if alone is None and isinstance(found, list) else [alone]
    if not values or None in values:
        told = "nothing" if found is None else repr(found)
        message = f'expected {_VALUE_WORDS}, or "{_REST}" for one class; found {told}'
        problems.append(Problem(where=f"{where}.label_value", message=message, kind="label_value"))
        return None
    return tuple(value for value in values if value is not None)


def _value(found: object) -> LabelValue | None:
    """A number, also alone in a list, or a colour."""
    items = found if isinstance(found, list) else [found]
    numbers = [item for item in items if type(item) is int and abs(item) < _LARGEST]
    if len(numbers) == len(items) == 3 and min(numbers) >= 0 and max(numbers) <= 255:
        return numbers[0], numbers[1], numbers[2]
    return numbers[0] if len(numbers) == len(items) == 1 else None


def _class(
    index: int, table: dict[str, object], label_value: LabelValue, problems: list[Problem]
) -> ClassInfo | None:
    keys = {key: table[key] for key in ("name", "colour") if key in table}
    try:
        return ClassInfo.model_validate({"index": index, "label_value": label_value, **keys})
    except ValidationError as error:
        for problem in problems_of(error):
            where = f"class {index}.{problem.where}"
            problems.append(Problem(where=where, message=problem.message, kind=problem.kind))
        return None


def free_value(taken: set[LabelValue]) -> LabelValue:
    """A value that stands for nothing else, with which a run can write the class that is the rest."""
    colours = any(not isinstance(value, int) for value in taken)
    shades: Iterable[LabelValue] = ((grey, grey, grey) if colours else grey for grey in range(256))
    return next((value for value in shades if value not in taken), 0)


def repeated(
    classes: Sequence[ClassInfo],
    values: Sequence[tuple[LabelValue, ...] | None],
    blank: tuple[LabelValue, ...],
) -> list[Problem]:
    """Every name and value that stands for two things, and values of which some are colours.

    Args:
        classes: those that are right so far.
        values: of each class; none for the rest, None where they are wrong.
        blank: of unlabelled pixels.
    """
    problems = []
    named = [(f"class {item.index}", "name", item.name) for item in classes]
    shown = [
        (f"class {index}", "label_value", value)
        for index, some in enumerate(values)
        if some is not None
        for value in some or (_REST,)
    ]
    shown += [("unlabelled", "label_value", value) for value in blank]
    first: dict[tuple[str, object], str] = {}
    for place, key, value in (*named, *shown):
        if (before := first.setdefault((key, value), place)) != place:
            message = f"{value!r} stands for {before} already"
            problems.append(Problem(where=f"{place}.{key}", message=message, kind="repeated"))
    kinds = {isinstance(value, int) for _, _, value in shown if value != _REST}
    if len(kinds) > 1:
        message = "expected all grey values (or palette indices), or all RGB colours, found both"
        problems.append(Problem(where="label_value", message=message, kind="mixed"))
    return problems


def write_classes(path: Path, classes: Sequence[ClassInfo]) -> None:
    """Write a `classes.toml` that `read_classes` gives back, as `write_legend` does."""
    write_legend(path, Legend.of(classes))


def write_legend(path: Path, legend: Legend) -> None:
    """Write a `classes.toml` that `read_legend` gives back.

    Raises:
        OutputError: it cannot be written.
    """
    blocks = [_HEADER]
    for item, values in zip(legend.classes, legend.values, strict=True):
        name = json.dumps(item.name, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # else JSON's strings are TOML's
        blocks.append(
            f"[[class]] # {item.index}\nname = {name}\ncolour = {list(item.colour)}\n{_line(values)}\n"
        )
    if legend.unlabelled:
        blocks.append(_unlabelled_table(legend.unlabelled))
    write_text(path, "\n".join(blocks))


def add_unlabelled(path: Path, *values: LabelValue) -> None:
    """Add what stands for pixels that nobody labelled to a `classes.toml`, unless it says so already.

    Raises:
        DatasetError, OutputError: it is wrong, or cannot be written.
    """
    if not read_legend(path).unlabelled:
        write_text(path, f"{path.read_text(encoding='utf-8').rstrip()}\n\n{_unlabelled_table(values)}")


def _unlabelled_table(values: tuple[LabelValue, ...]) -> str:
    return f"[unlabelled]\n{_line(values)}\n"


def _line(values: tuple[LabelValue, ...]) -> str:
    shown = [value if isinstance(value, int) else list(value) for value in values]
    if len(shown) == 3 and isinstance(values[0], int):
        return f"label_value = {[[value] for value in shown]}"  # three numbers would be a colour
    return f"label_value = {shown if len(shown) > 1 else shown[0] if shown else json.dumps(_REST)}"
