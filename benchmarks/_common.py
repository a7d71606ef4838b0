"""Shared by all benchmarks: the machine, medians of interleaved repeats, tables, and a saved report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from matseg_shared.errors import UnsupportedError
from matseg_shared.system.files import write_text
from matseg_shared.system.machine import available_cpus

Outcome = TypeVar("Outcome")

ROOT = Path(__file__).resolve().parents[1]
BUSY = 0.2
"""Cores kept busy by others from which on a measurement is called disturbed."""
_PACKAGES = ("matseg", "onnxruntime", "numpy", "pillow", "zarr")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve")
"""Those that decide how fast a convolution is."""


@dataclass(kw_only=True)
class Report:
    """Lines that are printed as they come and, if asked for, saved as Markdown at the end."""

    path: Path | None = None
    lines: list[str] = field(default_factory=list)

    def say(self, text: str = "") -> None:
        """Print one line or several."""
        click.echo(text)
        self.lines.append(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a Markdown table."""
        self.say(markdown_table(header, rows))
        self.say()

    def save(self) -> None:
        """Write what was said, where a path was given."""
        if self.path is not None:
            write_text(self.path, "\n".join(self.lines).rstrip() + "\n")


@contextmanager
def reporting(title: str, path: Path | None) -> Iterator[Report]:
    """A report that begins with the machine and ends with what disturbed it; saved only if all went well."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # installed commands do not compile at each start
    report = Report(path=path)
    report.say(f"# {title}\n\n`{_command_line()}`, {datetime.now(UTC).date().isoformat()}\n")
    for line in machine_lines():
        report.say(f"- {line}")
    report.say()
    yield report
    warning = busy_warning("at the end")
    if warning is not None:
        report.say(warning)
    report.save()


def machine_lines() -> list[str]:
    """This machine for a reader: processor, cores, versions, load; a warning when others are at work."""
    name, flags = _processor()
    versions = ", ".join(f"{package} {_version(package)}" for package in _PACKAGES)
    lines = [
        f"processor: {name}; {' '.join(flags) or 'flags unknown'}",
        f"cores: {available_cpus()} for this process, {os.cpu_count()} in the machine",
        f"system: {platform.platform()}, Python {platform.python_version()}",
        f"versions: {versions}",
        f"load average at the start: {_load_average()}",
    ]
    warning = busy_warning("at the start")
    return lines if warning is None else [*lines, warning]


def busy_warning(when: str) -> str | None:
    """A warning when others keep cores busy at this moment; None on a quiet machine or where nobody tells."""
    busy = busy_cores()
    if busy is None or busy < BUSY:
        return None
    return (
        f"WARNING: {when} others kept {busy:.1f} cores busy; these are no figures for the record, run again on a "
        "quiet machine"
    )


def busy_cores(seconds: float = 0.5) -> float | None:
    """Cores in use while this process sleeps, time stolen by other virtual machines included; None off Linux."""
    before = _processor_times()
    started = time.perf_counter()
    time.sleep(seconds)
    after = _processor_times()
    if before is None or after is None:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return (after - before) / ticks / (time.perf_counter() - started)


def median(values: Sequence[float]) -> float:
    """The middle of several repeats."""
    return statistics.median(values)


def paired_ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Median of the ratios within each round, so that a machine that slows down for a while cancels out."""
    return median([value / other for value, other in zip(values, reference, strict=True)])


def spread(values: Sequence[float]) -> str:
    """`1.23 (1.20 to 1.31)`: median, smallest and largest."""
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def interleaved(
    contestants: Mapping[str, Callable[[], Outcome]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[Outcome]]:
    """Run A B C A B C ...; a round before the first, which is not counted, fills caches, but for a single round.

    Returns:
        What each contestant returned, one entry per round.
    """
    if warm_up and repeats > 1:
        for run in contestants.values():
            run()
    outcomes: dict[str, list[Outcome]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            outcomes[name].append(run())
    return outcomes


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are also aligned for a terminal."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def verdict(value: float, goal: float, *, at_least: bool = False) -> str:
    """The goal and whether it is met."""
    met = value >= goal if at_least else value <= goal
    return f"{'at least' if at_least else 'at most'} {goal:g}: {'met' if met else 'MISSED'}"


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A folder for inputs and outputs that is removed at the end.

    Args:
        parent: on the disk that is to be measured; None: where the system keeps temporary files.
    """
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="matseg-benchmark-", dir=parent) as folder:
        yield Path(folder)


def common_options(command: Any) -> Any:
    """`--repeats`, `--scratch` and `--save`, which every benchmark has."""
    options = (
        click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True),
        click.option(
            "--scratch",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder for inputs and outputs. Default: the system's temporary folder.",
        ),
        click.option("--save", type=click.Path(path_type=Path), help="Write the report to this file too."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def run_program(name: str, *arguments: str, python: str = sys.executable) -> str:
    """Run one of the programs beside this one to its end.

    Returns:
        What it printed.

    Raises:
        UnsupportedError: it failed; with the last that it said.
    """
    command = [python, str(ROOT / "benchmarks" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise UnsupportedError(f"{name} {arguments[0]}: ended with {done.returncode}: {reason}")
    return done.stdout


def _command_line() -> str:
    """The command as typed, without where the report, scratch files and environments go."""
    words: list[str] = []
    arguments = iter(sys.argv[1:])
    for word in arguments:
        if word in ("--save", "--scratch", "--environments"):
            next(arguments, None)
        elif not word.startswith(("--save=", "--scratch=", "--environments=")):
            words.append(word)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def _processor() -> tuple[str, list[str]]:
    """Name and the flags that matter."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    entries = [line.partition(":")[::2] for line in text.splitlines()]
    fields = {key.strip().lower(): value.strip() for key, value in reversed(entries)}
    present = fields.get("flags", fields.get("features", "")).split()
    name = fields.get("model name", platform.processor() or platform.machine())
    return name, [flag for flag in _FLAGS if flag in present]


def _processor_times() -> int | None:
    """Clock ticks that all cores were busy since the start of the machine."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, *rest = (int(value) for value in first.split()[1:9])
    return user + nice + system + sum(rest)


def _load_average() -> str:
    if not hasattr(os, "getloadavg"):
        return "not told by this system"
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
