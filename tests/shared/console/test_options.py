"""Options that exclude or need each other, typed options, and texts that functions of ours read."""

from __future__ import annotations

import json
from dataclasses import dataclass

import click
import cloup
import pytest
from click.testing import CliRunner

from matseg_shared.console.command import debug_option, json_option
from matseg_shared.console.help import Command
from matseg_shared.console.options import (
    Range,
    applies_with,
    excludes,
    flag,
    gathered,
    parsed,
)
from matseg_shared.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    speed: float | None = None
    stops: tuple[str, ...] = ()
    by_night: bool = False


def read_stops(text: str) -> tuple[str, ...]:
    if ";" in text:
        raise UsageError(f"--stops {text}: expected commas")
    return tuple(text.split(","))


@cloup.command(cls=Command, renamed={"--velocity": "--speed"})
@click.option("--speed", type=Range(min=0))
@click.option("--stops", type=parsed(f"{__name__}:read_stops"), default="")
@flag("--by-night", "While others sleep.")
@flag("--walk", "On foot.")
@click.option("-r", "--rail", "carrier", multiple=True)
@excludes("walk", "speed", "carrier")
@applies_with("carrier", "by_night")
@json_option
@debug_option
@gathered("journey", f"{__name__}:Journey")
def travel(journey: Journey, walk: bool, carrier: tuple[str, ...], as_json: bool) -> None:
    """Travel."""
    click.echo(f"{journey} {walk} {carrier}", err=as_json)


def test_a_command_gets_one_typed_object() -> None:
    result = CliRunner().invoke(travel, ["--stops", "a,b", "--by-night", "-r", "east"])
    assert result.output == "Journey(speed=None, stops=('a', 'b'), by_night=True) False ('east',)\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--walk", "--speed", "3"], "--walk and --speed cannot be combined; leave one of them out"),
        (["-r", "east", "--walk"], "--walk and --rail cannot be combined; leave one of them out"),
        (["--by-night"], "--by-night applies with --rail only"),
        (["--stops", "a;b"], "--stops a;b: expected commas"),
        (["--speed", "nan"], "nan is not a finite number"),
    ],
)
def test_what_is_refused_is_told_in_one_sentence_and_in_json(words: list[str], message: str) -> None:
    result = CliRunner().invoke(travel, [*words, "--json"])
    assert result.exit_code == 2
    assert message in result.stderr
    error = json.loads(result.stdout)["error"]
    assert error["message"].endswith(message)
    assert error["kind"] in ("UsageError", "BadParameter")


def test_an_option_is_taken_by_its_earlier_name_up_to_two_dashes() -> None:
    for words in (["--velocity", "3"], ["--velocity=3"]):
        result = CliRunner().invoke(travel, words)
        assert result.stderr == "Note: --velocity is called --speed now\n"
        assert "speed=3.0" in result.stdout
    refused = CliRunner().invoke(travel, ["--", "--velocity"])
    assert refused.exit_code == 2
    assert "Note" not in refused.stderr


def test_an_example_is_a_line_with_a_comment_behind_or_below() -> None:
    text = """
        go a  # there
        go b --far
            # and back: # is for comments
    """
    shown = CliRunner().invoke(Command("go", examples=text), ["--help"]).output
    assert "  # there\n  go a\n\n  # and back: # is for comments\n  go b --far\n" in shown
