"""Writing of one version into a `config.toml`, of which everything else, comments too, stays as it is."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matseg_shared.errors import ConfigError
from matseg_shared.system.files import write_text
from matseg_trainer.config.load import parse_config

_BOM = "\ufeff"


def read_document(path: Path) -> tuple[str, dict[str, Any]]:
    """Text and tables of a `config.toml`, unchecked; both empty where there is none.

    Raises:
        ConfigError: it cannot be read as TOML.
    """
    try:
        text = path.read_bytes().decode()
        return text, tomllib.loads(text.removeprefix(_BOM).replace("\r\n", "\n"))
    except FileNotFoundError:
        return "", {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def write_version(
    path: Path, dataset: str, version: str, lines: Iterable[tuple[str, Any, str]], heading: str
) -> None:
    """Append the table `[dataset.version]`, or put it in the place of the one that is there.

    Args:
        path: the `config.toml`; made where there is none.
        dataset: name of the data set.
        version: name of the version.
        lines: keys with plain values, and a comment on each.
        heading: comment on the table.

    Raises:
        ConfigError: the table would be wrong or spoil others, or the one that is there is no table of its own.
        OutputError: the file cannot be written.
    """
    text, document = read_document(path)
    if not isinstance(document.get(dataset, {}), dict):
        parse_config(document, path)
    table = _table(dataset, version, lines, heading)
    expected: dict[str, Any] = {
        name: dict(tables) if isinstance(tables, dict) else tables for name, tables in document.items()
    }
    expected.setdefault(dataset, {})[version] = tomllib.loads(table)[dataset][version]
    newline = "\r\n" if "\r\n" in text else "\n"
    whole = _replaced(text.replace("\r\n", "\n"), dataset, version, table).replace("\n", newline)
    try:
        is_right = tomllib.loads(whole.removeprefix(_BOM).replace("\r\n", "\n")) == expected
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise ConfigError(
            f"{path}: expected the version {version!r} of {dataset!r} as a table [{dataset}.{version}] of its own, or "
            "none, found it written in another way; remove it, and run this again"
        )
    parse_config(expected, path)
    write_text(path, whole)


def _table(dataset: str, version: str, lines: Iterable[tuple[str, Any, str]], heading: str) -> str:
    written = [
        table_header(dataset, version),
        *(f"# {line}" for line in textwrap.wrap(heading, 110)),
    ]
    for key, value, comment in lines:
        written.append(f"{key} = {json.dumps(value, ensure_ascii=False)}  # {' '.join(comment.split())}")
    return "\n".join(written) + "\n"


def table_header(dataset: str, version: str) -> str:
    """The line `[dataset.version]`, with quotes where the names need them."""
    bare = re.compile(r"[A-Za-z0-9_-]+")
    names = [
        name if bare.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in (dataset, version)
    ]
    return f"[{'.'.join(names)}]"


def _replaced(text: str, dataset: str, version: str, table: str) -> str:
    lines = text.splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if line.lstrip(_BOM + " \t").startswith("[")]
    own = [number for number in headers if _is_header(lines[number], dataset, version)]
    if not own:
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return text + gap + table
    end = next((number for number in headers if number > own[0]), len(lines))
    while end > own[0] + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1  # what stands above the next table belongs to that
    return "".join([*lines[: own[0]], table, *lines[end:]])


def _is_header(line: str, dataset: str, version: str) -> bool:
    try:
        found: Mapping[str, Any] = tomllib.loads(line.strip(_BOM + " \t\r\n"))
    except tomllib.TOMLDecodeError:
        return False
    return found == {dataset: {version: {}}}
