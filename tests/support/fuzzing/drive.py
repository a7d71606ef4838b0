"""Send cases to worker processes, and notice when one hangs or dies."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzzing.targets import TARGETS

SECONDS = 30.0
"""After which a case is said to hang; on an idle machine the slowest take about two."""
_ROOT = Path(__file__).parents[3]
_PATHS = [str(_ROOT / name) for name in ("tests/support", "shared", "runtime", "trainer")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of one case."""

    kind: str
    number: int
    codes: tuple[int, ...]
    """Exit codes of its commands."""
    findings: tuple[str, ...]
    seconds: float = 0.0
    grown: int = 0
    """Bytes by which the process grew."""


def corpus(count: int, seed: int, kinds: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Kind and number of `count` cases, the kinds in proportion to their weights; the same for the same seed."""
    random = Random(f"corpus {seed}")
    names = [name for name in TARGETS if not kinds or name in kinds]
    weights = [TARGETS[name].weight for name in names]
    total = sum(weights)
    cases = [
        (name, seed * 10_000_000 + number)
        for name, weight in zip(names, weights, strict=True)
        for number in range(max(1, round(count * weight / total)))
    ]
    random.shuffle(cases)
    return cases


class Worker:
    """One process at a time; a new one after a crash."""

    def __init__(self, seeds: Path, scratch: Path) -> None:
        self._seeds, self._scratch = seeds, scratch
        self._process: subprocess.Popen[str] | None = None
        self._fresh = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def try_case(self, kind: str, number: int) -> Outcome:
        """Carry out one case, in a fresh process if need be."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{kind} {number}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS + (60 if self._fresh else 0))
        self._fresh = False
        answer = process.stdout.readline() if ready else ""
        if not ready:
            os.kill(process.pid, signal.SIGABRT)  # the worker's faulthandler prints where it hangs
            return self._lost(kind, number, f"HANG: no answer after {SECONDS:g} s")
        if not answer:
            return self._lost(kind, number, f"CRASH: the process ended with {process.wait()}")
        found = json.loads(answer)
        return Outcome(**{**found, "codes": tuple(found["codes"]), "findings": tuple(found["findings"])})

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            self._log.close()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._fresh = True
            self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the worker)
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(_PATHS),
                "MATSEG_REPORT": "0",
                "OMP_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "2",
                "MATSEG_MODELS": str(self._scratch),
            }
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-X",
                    "faulthandler",
                    "-m",
                    "fuzzing.worker",
                    str(self._seeds),
                    str(self._scratch),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=environment,
            )
        return self._process

    def _lost(self, kind: str, number: int, what: str) -> Outcome:
        assert self._process is not None
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.seek(0)
        tail = self._log.read()[-3000:]
        self.stop()
        return Outcome(kind=kind, number=number, codes=(), findings=(f"{what}\n{tail}",))


def try_cases(cases: Iterable[tuple[str, int]], seeds: Path, scratch: Path) -> Iterator[Outcome]:
    """The outcome of every case, in order."""
    with Worker(seeds, scratch) as worker:
        for kind, number in cases:
            yield worker.try_case(kind, number)
