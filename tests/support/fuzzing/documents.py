"""Mutations of JSON and TOML that keep most of the document, so that they reach the code behind the parser."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from fuzzing.octets import mutate_octets

_DEEP = 3000
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 255, 256, 65536, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0,
    1e-320, 1e308, float("nan"), float("inf"), float("-inf"), "", "0", "1", "a", "nan", "\x00", "\ud800", "é" * 50,
    "../../etc/passwd", "/", "x" * 5000, "<script>", "{}", "[red]", "uint8", "uint16", "float32", "float64", "|O",
    "<U8", "<f8", ">u2", "<i8", "|V8", "<M8[ns]", [], {}, [[]], [0], [1, 2, 3], [None], {"a": 1}, [1] * 3000,
    {"": {"": {}}}, {"configuration": {}}, {"name": "bytes"}, {"id": "pickle"}, [{"id": "pickle"}],
    {"id": "gzip", "level": 99}, {"name": "gzip", "configuration": {"level": 1}},
)  # fmt: skip
"""Replacements for a value: other types, edges of numbers, and words that mean something somewhere."""


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value within a document."""
    if not isinstance(document, dict | list):
        return
    keys = document.keys() if isinstance(document, dict) else range(len(document))
    for key in list(keys):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from places(document[key])


def mutate_document(random: Random, document: Any, most: int = 3) -> Any:
    """A copy of dicts, lists and scalars with one to `most` values dropped, replaced, moved or doubled."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, most)):
        found = list(places(document))
        if not found:
            return random.choice(VALUES)
        holder, key = random.choice(found)
        _change(random, holder, key, found)
    return document


def _change(random: Random, holder: Any, key: Any, found: list[tuple[Any, Any]]) -> None:
    value = holder[key]
    choice = random.randrange(10)
    if choice == 0:
        del holder[key]
    elif choice == 1 and isinstance(holder, dict):
        holder[random.choice(("", "x", "matseg", key.upper(), f"{key} ", "\x00", "é"))] = holder.pop(key)
    elif choice == 2 and isinstance(value, list):
        value.extend(copy.deepcopy(value) * random.choice((1, 1, 40)))
    elif choice == 3 and isinstance(value, list):
        random.shuffle(value)
    elif choice == 4:
        other, place = random.choice(found)
        holder[key] = copy.deepcopy(other[place]) if not _contains(other, place) else None
    elif choice == 5 and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = random.choice(
            (-value, value + 1, value - 1, value * 2, value * 1000, str(value), [value])
        )
    elif choice == 6:
        holder[key] = [value]
    else:
        holder[key] = random.choice(VALUES)


def _contains(holder: Any, key: Any) -> bool:
    """A document that would be copied again and again grows without end."""
    return len(repr(holder[key])) > 20_000


def mutate_json(random: Random, document: Any) -> bytes:
    """JSON text of a mutated document, now and then no JSON any more."""
    choice = random.randrange(12)
    text = _json(mutate_document(random, document) if choice < 9 else document)
    if choice in (8, 9):
        return mutate_octets(random, text.encode("utf-8", "surrogatepass"))
    if choice == 10:
        return _one_of_text(random, text).encode("utf-8", "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


def _json(document: Any) -> str:
    try:
        return json.dumps(document)
    except ValueError:  # of more digits than Python prints
        return json.dumps(document, default=str).replace("Infinity", "1e999")


def _one_of_text(random: Random, text: str) -> str:
    """Documents beyond Python's own values: repeated keys, endless nesting and numbers, other encodings."""
    key = text[text.find('"') : text.find(":") + 1] or '"a":'
    return random.choice(
        (
            "{" + key + "1," + text[1:],
            text[:-1] + "," + key + "null}",
            "[" * _DEEP + "]" * _DEEP,
            '{"a":' * _DEEP + "1" + "}" * _DEEP,
            text.replace(":", ":" + "[" * _DEEP + "]" * _DEEP + ',"z":', 1),
            text.replace("1", "1" * 6000, 1),
            text.replace("0", "1e99999", 1),
            text.replace("0", "-0.0e-999", 1),
            "\ufeff" + text,
            text + text,
            text + "\x00",
            text.replace('"', "'"),
            "",
            "null",
            "[]",
            "0",
        )
    )


_TOML_VALUES = (
    "true", "-1", "0", "1", "2", "3", "255", "256", "1" * 30, "1" * 5000, "0x" + "f" * 4000, "1e999", "-inf", "nan",
    "0.0", "1e-5", '""', '"unet"', '"UNET"', '"pixelnet"', '"\\u0000"', '"\\n"', "'''x'''", "[]", "[1, 2]", "[[1]]",
    "{}", "{a = 1}", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "[" * _DEEP + "]" * _DEEP,
    '"' + "x" * 5000 + '"', "'../..'", '"[/red]"', "0b1", "+1", "1_000", "[1, 'a', {b = [2]}]",
)  # fmt: skip
_TOML_LINES = (
    "[x]", "[x.y]", "[[x]]", "[a.b.c.d]", "[tomography]", "tomography = 1", "a.b.c = 1", '"" = 1', "[default]", "x = 1",
    "model = 'unet'", "n_class = 2", "[" + ".".join("a" * 1500) + "]", "\x00", "é = 1", "['../up'.v1]", '["a/b".v1]',
    '["CON".v1]', "['.'.v1]", "[[class]]", "name = 'x'", "[steel.v1]", "[steel.default]", "[ds.v9]", "\ufeff",
)  # fmt: skip


def mutate_toml(random: Random, text: str) -> bytes:
    """TOML text with values, keys, lines and tables changed; now and then no TOML any more."""
    lines = text.split("\n")
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(lines))
        choice = random.randrange(8)
        if choice <= 2 and "=" in lines[at]:
            lines[at] = lines[at].split("=")[0] + "= " + random.choice(_TOML_VALUES)
        elif choice == 3 and "=" in lines[at]:
            lines[at] = (
                random.choice(("x", "model", "n_class", "width", "size", "'a b'"))
                + " ="
                + lines[at].split("=")[-1]
            )
        elif choice == 4:
            del lines[at]
            lines = lines or [""]
        elif choice == 5:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif choice == 6:
            lines.insert(at, random.choice(_TOML_LINES))
        else:
            random.shuffle(lines)
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return mutate_octets(random, content) if random.random() < 0.15 else content
