"""Every command ends with its error's exit code and one sentence; the traceback is for --debug."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from matseg_shared.console.command import EXIT_EXCLUDED, EXIT_INTERRUPTED, console, debug_option
from matseg_shared.errors import ConfigError, ImageError, MatsegError, OutputError, Problem, ProviderError


def run(body: Callable[[], int | None], *arguments: str) -> Result:
    @click.command()
    @click.option("--number", type=int, default=1)
    @debug_option
    def command(number: int) -> int | None:
        """Do it."""
        assert number
        return body()

    return CliRunner().invoke(command, list(arguments))


def raising(error: BaseException) -> Callable[[], int | None]:
    def body() -> int | None:
        raise error

    return body


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (EXIT_EXCLUDED, 4)])
def test_what_a_command_returns_is_its_exit_code(returned: int | None, code: int) -> None:
    result = run(lambda: returned)
    assert (result.exit_code, result.output) == (code, "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MatsegError("went wrong"), 1, "Error: went wrong\n"),
        (OutputError("out: full"), 1, "Error: out: full\n"),
        (ImageError("a.png", "is empty"), 2, "Error: a.png: is empty\n"),
        (ConfigError("c", [Problem(where="a", message="b", kind="k")]), 2, "Error: c\n  - a: b\n"),
        (ProviderError("no CUDA"), 3, "Error: no CUDA\n"),
        (click.UsageError("which one?"), 2, "Error: which one?\n"),
        (click.exceptions.Exit(7), 7, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_ends_with_its_code_and_one_sentence(error: Exception, code: int, message: str) -> None:
    result = run(raising(error))
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.endswith(message)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted; run the same command again"),
        (MemoryError(), 1, "use smaller tiles, crops or batches"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero (--debug"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_foresaw_has_no_traceback_either(error: BaseException, code: int, part: str) -> None:
    result = run(raising(error))
    assert result.exit_code == code
    assert part in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [OutputError("full"), ZeroDivisionError(), KeyboardInterrupt()])
def test_debug_shows_where(error: BaseException) -> None:
    plain, debug = run(raising(error)), run(raising(error), "--debug")
    assert debug.exit_code == plain.exit_code
    assert "Traceback (most recent call last)" in debug.stderr
    assert "in body" in debug.stderr
    assert debug.stderr.endswith(plain.stderr)


def test_a_wrong_option_is_clicks_own_error() -> None:
    result = run(lambda: 0, "--number", "three")
    assert result.exit_code == 2
    assert "'three' is not a valid integer" in result.stderr


def test_the_console_neither_cuts_nor_wraps_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = "x" * 500 + " [not markup]"
    console().print(line, markup=False)
    console(stderr=True).print("to stderr")
    captured = capsys.readouterr()
    assert captured.out == line + "\n"
    assert captured.err == "to stderr\n"
