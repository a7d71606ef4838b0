"""Carry out cases one by one in this process, which may die of it: `python -m fuzzing.worker SEEDS SCRATCH`.

Reads one case per line (`KIND NUMBER`) from standard input and answers each with one line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

import click
from click.testing import CliRunner

from fuzzing import verdict
from fuzzing.seeds import settle
from fuzzing.targets import TARGETS, Bench, Line

MEMORY_LIMIT = 1 << 30
"""Bytes by which a case may make this process grow."""
_COLLECT_EVERY = 20
"""Cases; what one leaves behind must not be counted against many others, and looking for it takes as long as a case."""


def main() -> None:
    """Answer cases until standard input ends."""
    seeds, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what native libraries print is no answer
    limit_memory()
    bench = Bench(root=seeds)
    for line in sys.stdin:
        kind, number = line.split()
        answer = carry_out(bench, scratch / "case", kind, int(number))
        answers.write(json.dumps(answer) + "\n")


def limit_memory() -> None:
    """Allocations far beyond the limit fail at once instead of taking the machine with them."""
    import resource

    import fuzzing.preload  # noqa: F401  (what the commands import counts as theirs otherwise)

    gc.freeze()  # nothing of that is garbage; looking through it takes longer than most cases
    held = int(
        next(
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
        ).split()[1]
    )
    limit = held * 1024 + 3 * MEMORY_LIMIT // 2
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def carry_out(bench: Bench, folder: Path, kind: str, number: int) -> dict[str, Any]:
    """Make one case, run its commands, and say what is wrong with what they did."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what makes the input
        lines = TARGETS[kind].make(bench, folder, Random(f"{kind} {number}"))
    settle(folder)
    findings: list[str] = []
    codes: list[int] = []
    if number % _COLLECT_EVERY == 0:
        gc.collect()
    before = verdict.reset_peak()
    for line in lines:
        code, found = run(line, folder)
        codes.append(code)
        findings += [f"{' '.join(line)}: {problem}" for problem in found]
    grown = verdict.peak() - before
    if grown > MEMORY_LIMIT:
        findings.append(f"{lines[0][0]}: grew by {grown >> 20} MiB")
    seconds = time.monotonic() - started
    return {
        "kind": kind,
        "number": number,
        "codes": codes,
        "findings": findings,
        "seconds": seconds,
        "grown": grown,
    }


def run(line: Line, folder: Path) -> tuple[int, list[str]]:
    """(exit code, what is wrong) of one command."""
    os.environ.pop(verdict.CANARY, None)
    with verdict.working_in(folder):
        result = CliRunner().invoke(command(line[0]), list(line[1:]))
    problems = verdict.problems(result, line, folder)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        problems.append(
            "".join(traceback.format_exception(*result.exc_info)) if result.exc_info else "no exception"
        )
    return result.exit_code, problems


def command(name: str) -> click.Command:
    """The real one."""
    from matseg_trainer.commands.matseg import commands
    from matseg_trainer.commands.matseg import main as overview

    return overview if name == "matseg" else commands()[name].load()


if __name__ == "__main__":
    main()
