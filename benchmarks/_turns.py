"""Processes that take turns: each is started, warmed up, and then waits until it is asked again."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from _network_worker import Job

_WORKER = Path(__file__).with_name("_network_worker.py")
_MOST_SLICES = 200


class LeftOutError(Exception):
    """A contestant cannot run here; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to label a slice."""

    name: str
    job: Job
    fresh: bool = False
    """A new process for every turn, for those that hold more memory between turns than the machine can spare."""
    python: str = sys.executable
    """Interpreter of the environment that has the engine."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of the process, beside those of this one."""


@dataclass(kw_only=True)
class Outcome:
    """Cost of a contestant."""

    milliseconds: list[float] = field(default_factory=list)
    """A slice, one entry per round."""
    left_out: str | None = None


class Worker:
    """A contestant's process."""

    def __init__(self, contestant: Contestant) -> None:
        self._process = subprocess.Popen(
            [contestant.python, str(_WORKER), json.dumps(asdict(contestant.job))],
            env={**os.environ, **contestant.variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._streams = contestant.job.streams
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def wait_until_ready(self) -> None:
        """Wait for the warm-up.

        Raises:
            LeftOutError: it cannot do what it should.
        """
        self.seconds = self._answer("ready")

    def turn(self, least: float) -> float:
        """Milliseconds a slice, over as many slices as fill `least` seconds."""
        assert self._process.stdin is not None
        wanted = math.ceil(least / max(self.seconds, 1e-4) / self._streams)
        count = min(max(wanted, 1), _MOST_SLICES) * self._streams
        try:
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
        except OSError as error:
            raise LeftOutError(f"its process ended with {self._process.wait()}") from error
        return self._answer("seconds") / count * 1e3

    def _answer(self, key: str) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LeftOutError(f"its process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "left_out" in answer:
            raise LeftOutError(str(answer["left_out"]))
        return float(answer[key])


def take_turns(contestants: Sequence[Contestant], repeats: int, least: float) -> dict[str, Outcome]:
    """Run A B C A B C ..., after every one is warmed up.

    Args:
        contestants: with different names.
        repeats: rounds.
        least: seconds of one turn, at least.
    """
    outcomes = {contestant.name: Outcome() for contestant in contestants}
    with ExitStack() as stack:
        waiting: dict[str, Worker] = {}
        for contestant in contestants:
            if not contestant.fresh:
                worker = stack.enter_context(Worker(contestant))
                waiting[contestant.name] = worker
                _attempt(outcomes[contestant.name], worker.wait_until_ready)
        for _ in range(repeats):
            for contestant in contestants:
                outcome = outcomes[contestant.name]
                if outcome.left_out is None:
                    _attempt(outcome, partial(_one_turn, contestant, waiting, outcome, least))
    return outcomes


def _one_turn(contestant: Contestant, waiting: dict[str, Worker], outcome: Outcome, least: float) -> None:
    if not contestant.fresh:
        outcome.milliseconds.append(waiting[contestant.name].turn(least))
        return
    with Worker(contestant) as worker:
        worker.wait_until_ready()
        outcome.milliseconds.append(worker.turn(least))


def _attempt(outcome: Outcome, step: Callable[[], None]) -> None:
    """Take a step, or note why this contestant is left out from here on."""
    try:
        step()
    except LeftOutError as error:
        outcome.left_out = str(error)
        outcome.milliseconds.clear()
