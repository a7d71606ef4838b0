"""Ctrl-C and SIGTERM: raised as ever, and found again where the exception was lost."""

from __future__ import annotations

import _imp
import contextlib
import importlib
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from matseg_shared.console.command import EXIT_INTERRUPTED, debug_option
from matseg_shared.console.help import Command
from matseg_shared.errors import UnsupportedError
from matseg_shared.system import interruption


class Loses:
    """An object whose destructor is where Ctrl-C arrives, and where Python drops the exception."""

    def __init__(self, kind: signal.Signals = signal.SIGINT) -> None:
        self._kind = kind

    def __del__(self) -> None:
        signal.raise_signal(self._kind)


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """Errors that Python only prints because it has nobody to raise it to."""
    kinds: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: kinds.append(what.exc_type))
    return kinds


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    """No test may leave another handler behind."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not interruption.is_pending()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=lambda kind: kind.name)
def test_an_interruption_that_a_destructor_drops_is_raised_at_the_next_check(
    kind: signal.Signals, dropped: list[type[BaseException]]
) -> None:
    with interruption.counted():
        interruption.heed_termination()
        interruption.check()
        Loses(kind)
        assert dropped == [KeyboardInterrupt]
        assert interruption.is_pending()
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_one_that_is_not_lost_is_raised_where_the_work_is() -> None:
    with pytest.raises(KeyboardInterrupt), interruption.counted():
        signal.raise_signal(signal.SIGINT)


class Finder:
    """Finds no module, and is where Ctrl-C arrives, as if in Python's own function that asks it."""

    is_done = False

    def find_spec(self, *_: object) -> None:
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        handler(signal.SIGINT, sys._getframe(1))
        self.is_done = True


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> Finder:
    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return finder


def test_one_in_a_function_that_imports_is_raised_soon_after(finder: Finder) -> None:
    def import_and_wait() -> None:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("matseg_nowhere")
        time.sleep(10)

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interruption.counted():
        import_and_wait()
    assert finder.is_done
    assert time.monotonic() - before < 9


def test_one_that_is_to_be_raised_soon_is_held_back(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_DELAY_SECONDS", 0.3)
    with interruption.counted():
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("matseg_nowhere")
        with interruption.held_back() as number:
            time.sleep(0.5)
            assert number() == 1
    assert finder.is_done


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such timer")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the file that was being read
def test_none_leaves_the_lock_of_imports_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many that arrive at any place of an import, as those of threads would not: these wait for the import."""
    (tmp_path / "matseg_one.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def import_again_and_again(interrupted_after: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, interrupted_after)
        for _ in range(10_000):
            sys.modules.pop("matseg_one", None)
            importlib.import_module("matseg_one")

    dice, raised, until = random.Random(0), 0, time.monotonic() + 2
    with interruption.counted():
        receive = signal.getsignal(signal.SIGINT)
        before = signal.signal(signal.SIGALRM, receive)
        try:
            while time.monotonic() < until and not _imp.lock_held():
                with pytest.raises(KeyboardInterrupt):
                    import_again_and_again(dice.uniform(0.0002, 0.001))
                raised += 1
            is_taken = _imp.lock_held()
            while _imp.lock_held():
                _imp.release_lock()
        finally:
            signal.signal(signal.SIGALRM, before)
    assert raised > 100
    assert not is_taken


def test_held_back_they_are_counted_with_those_lost_before_and_then_done_with(
    dropped: list[type[BaseException]],
) -> None:
    with interruption.counted():
        Loses()
        assert dropped == [KeyboardInterrupt]
        with interruption.held_back() as number:
            assert number() == 1
            signal.raise_signal(signal.SIGINT)
            interruption.check()
            assert number() == 2
        interruption.check()
        with interruption.held_back() as number:
            assert number() == 0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_held_back_needs_no_counting_around_it() -> None:
    with interruption.held_back() as number:
        signal.raise_signal(signal.SIGINT)
        assert number() == 1
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption.counted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_neither_listen_nor_are_interrupted() -> None:
    found: list[int] = []

    def work() -> None:
        with interruption.counted(), interruption.held_back() as number:
            interruption.heed_termination()
            interruption.check()
            found.append(number())

    with interruption.counted():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [0]


def command(body: Callable[[], None]) -> Command:
    @click.command(cls=Command)
    @debug_option
    def made() -> None:
        body()

    assert isinstance(made, Command)
    return made


def test_an_import_that_an_interruption_broke_is_an_interruption(dropped: list[type[BaseException]]) -> None:
    def broken_import() -> None:
        Loses()
        raise UnsupportedError("onnxruntime is installed but cannot be loaded: initialization failed")

    result = CliRunner().invoke(command(broken_import), [])
    assert dropped == [KeyboardInterrupt]
    assert result.exit_code == EXIT_INTERRUPTED
    assert result.stderr == "Error: interrupted; run the same command again to go on\n"


def test_an_error_after_an_interruption_that_was_acted_upon_is_told() -> None:
    def finishing() -> None:
        with interruption.held_back() as number:
            signal.raise_signal(signal.SIGINT)
            assert number() == 1
        raise UnsupportedError("the disk is full")

    result = CliRunner().invoke(command(finishing), [])
    assert result.exit_code == 3
    assert "the disk is full" in result.stderr


def test_an_interruption_keeps_its_hint_and_does_not_reach_the_next_command() -> None:
    def hinting() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("go on with --resume") from error

    def failing() -> None:
        raise UnsupportedError("no such thing")

    runner = CliRunner()
    assert "go on with --resume" in runner.invoke(command(hinting), []).stderr
    assert runner.invoke(command(failing), []).exit_code == 3


def test_one_while_the_command_line_is_read_has_the_same_exit_code_and_sentence() -> None:
    def slow(*read: object) -> None:
        del read
        signal.raise_signal(signal.SIGINT)

    @click.command(cls=Command)
    @click.option("--name", callback=slow)
    @debug_option
    def made(name: str | None) -> None:
        del name

    result = CliRunner().invoke(made, ["--name", "x"])
    assert result.exit_code == EXIT_INTERRUPTED
    assert result.stderr.endswith("Error: interrupted; run the same command again to go on\n")
