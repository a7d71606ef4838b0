"""`--help` with examples and groups of options; suggestions for what is misspelt; errors in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import cloup
import pytest
from click.testing import CliRunner

from matseg_shared.console.command import debug_option, json_option, jsonable, print_json
from matseg_shared.console.help import Command, Group, did_you_mean, wants_json
from matseg_shared.console.options import Choice
from matseg_shared.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    path: Path
    shape: tuple[int, int]
    score: float


@click.command(
    cls=Command,
    examples="""
        go a b  # a purpose that is told in so many words that one line of eighty columns cannot hold it
        go --speed fast x  # another
    """,
)
@click.argument("word")
@cloup.option_group(
    "Pace",
    click.option("--speed", type=Choice(["slow", "fast"]), default="slow", help="How fast."),
    click.option("--breaks", type=int, help="How often."),
)
@click.option("--far", is_flag=True, help="How far.")
@json_option
@debug_option
def go(word: str, as_json: bool, **_: object) -> int | None:
    """Go somewhere."""
    if word == "nowhere":
        raise ConfigError("c", [Problem(where="a.b", message="no", kind="k")])
    if word == "wrong":
        raise click.UsageError("No such place.")
    if as_json:
        print_json(Summary(path=Path("a"), shape=(2, 3), score=float("nan")))
    if word == "half":
        raise KeyboardInterrupt
    return 4


@click.group(cls=Group)
def travel() -> None:
    """Travel."""


travel.add_command(go)


@travel.command(examples="travel stay  # stay")
def stay() -> None:
    """Stay."""


def test_options_stand_in_their_groups_and_examples_last() -> None:
    text = CliRunner().invoke(go, ["-h"]).stdout
    pace, options, examples = (text.index(f"\n{title}:\n") for title in ("Pace", "Options", "Examples"))
    assert pace < text.index("--speed [slow|fast]") < text.index("--breaks") < options
    assert options < text.index("--far") < text.index("--debug") < text.index("--help") < examples
    assert text.endswith(
        "Examples:\n"
        "  # a purpose that is told in so many words that one line of eighty columns\n"
        "  # cannot hold it\n"
        "  go a b\n"
        "\n"
        "  # another\n"
        "  go --speed fast x\n"
    )
    assert max(map(len, text.splitlines())) <= 80


def test_a_group_lists_its_commands() -> None:
    text = CliRunner().invoke(travel, ["--help"]).stdout
    assert "go    Go somewhere.\n  stay  Stay." in text


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["go", "--sped", "fast"], "Did you mean '--speed'?"),
        (["go", "x", "--speed", "Fsat"], "Did you mean 'fast'?"),
        (["sty"], "Did you mean 'stay'?"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(arguments: list[str], suggestion: str) -> None:
    result = CliRunner().invoke(travel, arguments)
    assert result.exit_code == 2
    assert suggestion in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["sty", "--json"], "NoSuchCommand", 2),
        (["go", "--json"], "MissingParameter", 2),
        (["go", "a", "--sped", "--json"], "NoSuchOption", 2),
        (["go", "wrong", "--json"], "UsageError", 2),
        (["go", "nowhere", "--json"], "ConfigError", 2),
        (["go", "half", "--json"], "Interrupted", 130),
    ],
)
def test_errors_are_json_too(arguments: list[str], kind: str, code: int) -> None:
    result = CliRunner().invoke(travel, arguments)
    document = json.loads(result.stdout)
    assert document["error"]["kind"] == kind
    assert result.exit_code == document["error"]["exit_code"] == code
    assert document["error"]["message"] in result.stderr
    assert document["error"]["problems"] == (
        [{"where": "a.b", "message": "no", "kind": "k"}] if kind == "ConfigError" else []
    )
    assert ("path" in document) == (kind == "Interrupted")


def test_a_summary_is_one_json_document() -> None:
    result = CliRunner().invoke(go, ["there", "--json"])
    assert json.loads(result.stdout) == {"path": "a", "shape": [2, 3], "score": None}
    assert (result.exit_code, result.stderr) == (4, "")
    assert CliRunner().invoke(go, ["there"]).stdout == ""


def test_json_is_an_option_only_before_two_dashes() -> None:
    assert wants_json(["a", "--json", "--", "b"])
    assert not wants_json(["a", "--", "--json"])
    assert not wants_json(["a", "--jsonl"])


def test_suggestions_forgive_case_and_keep_silent_when_nothing_is_near() -> None:
    assert did_you_mean("Tomografy", ["uhcs", "tomography"]) == "; did you mean 'tomography'?"
    assert did_you_mean("xyz", ["uhcs", "tomography"]) == ""


def test_what_json_has_no_word_for() -> None:
    assert jsonable({1: (Path("a") / "b", float("inf"))}) == {"1": [str(Path("a") / "b"), None]}
