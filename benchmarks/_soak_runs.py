"""Runs of matseg-run that are killed, stopped and started again."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from _flat import take_sample
from _workload import matseg_run_command

_SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 3, signal.SIGINT: 1}
_UNHEARD = re.compile(r"^Traceback \(most recent call last\):\n(?: .*\n)*KeyboardInterrupt\n", re.MULTILINE)
"""Python's message for Ctrl-C in the first moments, while a program is being loaded and cannot listen yet."""
_HANGING = 60.0
"""Seconds after which a run that was asked to stop is said to hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Speed of all of it."""

    seconds: float
    """Duration of the writer."""
    life: float
    """The longest time between two disturbances."""

    @property
    def patience(self) -> float:
        """The longest pause of the writer, in seconds."""
        return min(20.0, self.seconds / 6)

    @property
    def idle(self) -> float:
        """Seconds without anything new after which a watching run may take it that nothing more comes."""
        return 2 * self.patience + 3  # the writer itself may be held up


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Base of all runs."""

    model: Path
    folder: Path
    """For all files."""
    pace: Pace

    @property
    def live(self) -> Path:
        """The folder that is being filled."""
        return self.folder / "live"

    @property
    def log(self) -> Path:
        """Output of the runs."""
        return self.folder / "log.txt"

    def start(self, source: Path, out: Path, *options: object) -> subprocess.Popen[str]:
        """Start matseg-run in a process of its own."""
        command = [
            matseg_run_command(),
            self.model,
            source,
            "-o",
            out,
            "--provider",
            "cpu",
            "--threads",
            1,
            *options,
        ]
        environment = {**os.environ, "MATSEG_REPORT": "0", "PYTHONFAULTHANDLER": "1"}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n--- {out.name} {' '.join(map(str, options))}\n")
            log.flush()
            return subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, text=True, env=environment
            )


def label(runs: Runs, source: Path, out: Path, *options: object) -> int:
    """Run matseg-run to its end; its exit code."""
    return runs.start(source, out, *options).wait()


def finish(name: str, process: subprocess.Popen[str], codes: Iterable[int], log: Path) -> list[str]:
    """Wait for a run; what was wrong with its end."""
    try:
        code = process.wait(_HANGING)
    except subprocess.TimeoutExpired:
        process.send_signal(
            signal.SIGABRT
        )  # Python's fault handler writes into the log where each thread was
        process.wait()
        return [f"{name}: did not end within {_HANGING:.0f} s: {read_text(log)[-5000:]}"]
    problems = [] if code in codes else [f"{name}: ended with {code}: {read_text(log)[-500:]}"]
    if "Traceback" in _UNHEARD.sub("", read_text(log)):
        problems.append(f"{name}: a traceback in {log}")
    return problems


def read_text(path: Path) -> str:
    """Content of a log so far."""
    return path.read_text(encoding="utf-8", errors="replace")


@dataclass(kw_only=True)
class _Restless:
    """Disturbances of runs, and their outcomes."""

    lives: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: int = 0
    """The most that a run held."""
    files: int = 0

    def disturb(
        self, name: str, process: subprocess.Popen[str], after: float, dice: random.Random, log: Path
    ) -> bool:
        """Kill or stop a run after so many seconds; False when it had ended before."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(after)
            return False
        sample = take_sample(process.pid, 0, 0, Path())
        if sample is not None:
            self.memory, self.files = max(self.memory, sample.memory), max(self.files, sample.files)
        kind = dice.choices(list(_SIGNALS), list(_SIGNALS.values()))[0]
        process.send_signal(kind)
        self.lives[kind.name] += 1
        # without a handler yet, a signal ends Python with its number; 0 and 4 are proper ends of --watch
        self.problems += finish(name, process, {-kind, 130, 0, 4}, log)
        return True


class Disturbed:
    """Watches the folder; killed, stopped and started again until the writer has finished."""

    def __init__(self, runs: Runs, dice: random.Random) -> None:
        self._runs, self._dice = runs, dice
        self._out = runs.folder / "disturbed"
        self._restless = _Restless()
        self._deleted = 0

    @property
    def problems(self) -> list[str]:
        """Errors found."""
        return self._restless.problems

    def go(self) -> None:
        """Until the writer has finished; then one more run, which is left alone."""
        end = time.monotonic() + self._runs.pace.seconds
        while time.monotonic() < end and not self.problems:
            process = self._start()
            if not self._restless.disturb("disturbed", process, self._life(), self._dice, self._runs.log):
                self.problems.append(f"disturbed: ended with {process.returncode} before anybody asked it to")
            self._delete_some()
        process = self._start()
        code = process.wait()
        if code not in (0, 4):
            self.problems.append(f"disturbed: the last run ended with {code}")

    def summary(self) -> str:
        """Counts, for the report."""
        left = len(list(self._out.glob(".matseg-*")))
        return (
            f"{_counts(self._restless.lives)}; {self._deleted} outputs deleted behind its back; at most "
            f"{self._restless.memory / 1e6:.0f} MB and {self._restless.files} open files when it was hit; "
            f"{left} unfinished files left in its output"
        )

    def _start(self) -> subprocess.Popen[str]:
        return self._runs.start(self._runs.live, self._out, "--watch", "--idle", self._runs.pace.idle)

    def _life(self) -> float:
        """Often short, so that the start is hit as well."""
        return self._runs.pace.life * self._dice.random() ** 1.5 + self._dice.random()

    def _delete_some(self) -> None:
        found = sorted(self._out.glob("[!.]*.png"))
        for path in self._dice.sample(found, min(len(found), self._dice.randrange(4))):
            path.unlink()
            self._deleted += 1


class SteadyVolume:
    """Labels one volume over and over; each time killed and started again until it is whole."""

    def __init__(self, runs: Runs, volume: Path, dice: random.Random) -> None:
        self._runs, self._volume, self._dice = runs, volume, dice
        self._restless = _Restless()
        self._rounds = 0
        self._files = 0

    @property
    def problems(self) -> list[str]:
        """Errors found."""
        return self._restless.problems

    def go(self) -> None:
        """Until the writer has finished."""
        end = time.monotonic() + self._runs.pace.seconds
        started = time.monotonic()
        expected = self._label_undisturbed()
        seconds = time.monotonic() - started
        while time.monotonic() < end and not self.problems:
            out = self._runs.folder / f"round{self._rounds}" / "labels.zarr"
            out.parent.mkdir()
            for life in self._lives(seconds):
                process = self._runs.start(self._volume, out, "--pyramid", "--tile", 80)
                self._restless.disturb("volume", process, life, self._dice, self._runs.log)
            self.problems.extend(
                finish(
                    "volume",
                    self._runs.start(self._volume, out, "--pyramid", "--tile", 80),
                    {0},
                    self._runs.log,
                )
            )
            found = digests(out)
            if found != expected:
                names = [name for name in expected | found if expected.get(name) != found.get(name)]
                self.problems.append(f"volume: round {self._rounds} differs in {', '.join(names[:5])}")
            shutil.rmtree(out.parent)
            self._rounds += 1
            time.sleep(self._dice.random() * self._runs.pace.life)

    def summary(self) -> str:
        """Counts, for the report."""
        return (
            f"{self._rounds} rounds of {self._files} files, {_counts(self._restless.lives)}; every round equal "
            "byte for byte to the undisturbed one"
        )

    def _lives(self, seconds: float) -> Iterator[float]:
        for _ in range(self._dice.randint(1, 4)):
            yield self._dice.uniform(0, 1.05) * seconds

    def _label_undisturbed(self) -> dict[str, str]:
        out = self._runs.folder / "whole" / "labels.zarr"
        out.parent.mkdir()
        process = self._runs.start(self._volume, out, "--pyramid", "--tile", 80)
        self.problems.extend(finish("volume", process, {0}, self._runs.log))
        found = digests(out)
        self._files = len(found)
        return found


def _counts(lives: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(lives.items())) or "never disturbed"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
