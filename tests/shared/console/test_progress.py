"""Progress: a bar on a terminal, plain lines without one, nothing when quiet."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from matseg_shared.console import progress
from matseg_shared.console.progress import duration, shown_progress, speed


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_log_gets_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as shown:
        shown.stage("labelling", 100, unit="slices")
        for _ in range(25):
            clock.now += 1
            shown.note("inference is slowest")
            shown.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "labelling: 20 of 100 slices, 2/s, 0:40 left, inference is slowest",
        "labelling: 40 of 100 slices, 2/s, 0:30 left, inference is slowest",
    ]


def test_a_log_gets_a_line_per_stage(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("exporting") as shown:
        shown.stage("comparing with torch")
        clock.now += 11
        shown.advance()
        shown.stage("choosing ranges", 4)
        clock.now += 40
        shown.reach(2)
    assert capsys.readouterr().err.splitlines() == [
        "exporting: comparing with torch",
        "exporting: comparing with torch: 1, 5.5/min",
        "exporting: choosing ranges",
        "exporting: choosing ranges: 2 of 4, 3/min, 0:40 left",
    ]


def test_steps_tell_how_many_there_are_as_they_go(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as shown:
        shown.stage("evaluating", unit="images")
        clock.now += 10
        shown.reach(1, 3)
    assert capsys.readouterr().err == "evaluating: 1 of 3 images, 0.1/s, 0:20 left\n"


class Terminal(io.StringIO):
    """A stream that says that somebody watches it."""

    def isatty(self) -> bool:
        return True


def drawn(width: int, monkeypatch: pytest.MonkeyPatch, term: str = "xterm") -> str:
    """Text that a terminal of that width is sent."""
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    out = Console(file=stream, width=width, force_terminal=term != "dumb", highlight=False)
    with shown_progress("exporting", out=out) as shown:
        shown.stage("choosing ranges", 64, unit="crops")
        shown.advance(16)
        shown.note("reading is slowest")
        out.print("a line that stays")
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bar_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = drawn(width, monkeypatch)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent).replace("\r", "\n").splitlines()
    assert "a line that stays" in lines
    bars = [line for line in lines if "16/64" in line]
    assert bars
    for line in lines:
        assert len(line) <= width
    assert all("exporting: choosing ranges" in line for line in bars)
    assert ("━" in bars[-1]) == (width >= 60)
    assert ("reading is slowest" in bars[-1]) == (width >= 60)


@pytest.mark.usefixtures("clock")
def test_a_dumb_terminal_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn(80, monkeypatch, "dumb") == "a line that stays\n"
    assert capsys.readouterr().err == "exporting: choosing ranges\n"


def test_no_colour_means_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][;m]", drawn(80, monkeypatch))


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0, ""), (float("inf"), ""), (12.34, "12.3/s"), (0.1, "0.1/s"), (0.05, "3/min"), (1234.4, "1234/s")],
)
def test_rates_for_a_person(per_second: float, text: str) -> None:
    assert speed(per_second) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_durations_for_a_person(seconds: float, text: str) -> None:
    assert duration(seconds) == text
