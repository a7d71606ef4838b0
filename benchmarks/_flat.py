"""Memory, files and threads of a process, sampled while it runs, and a test that they stay flat."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_BARS = "▁▂▃▄▅▆▇█"
_BLOCKS = 40
"""Samples of one process hang together; means over so many stretches of time hardly do."""
_T_95 = 2.03
"""Student's t for 95 % on both sides and 38 degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at a process and its output folder."""

    seconds: float
    """Since the start."""
    memory: int
    """Bytes of physical memory."""
    files: int
    """Open ones, sockets and pipes included."""
    threads: int
    processor: float
    """Seconds used so far."""
    labelled: int
    """Label images in the output folder."""
    temporary: int
    """Unfinished files there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """A least-squares line through the means of equal stretches of time."""

    per_hour: float
    bound: float
    """Half of the 95 % interval of `per_hour`."""
    blocks: tuple[float, ...]
    """The means."""

    @property
    def picture(self) -> str:
        """One bar per stretch, from the smallest to the largest."""
        low, high = min(self.blocks), max(self.blocks)
        scale = (len(_BARS) - 1) / (high - low) if high > low else 0
        return "".join(_BARS[round((value - low) * scale)] for value in self.blocks)


def take_sample(process: int, started: float, now: float, out: Path) -> Sample | None:
    """Look at a process of this machine (Linux); None when it is over."""
    folder = Path("/proc") / str(process)
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        files = len(list((folder / "fd").iterdir()))
        times = (folder / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    if "VmRSS" not in status:
        return None  # a zombie
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    return Sample(
        seconds=now - started,
        memory=int(status["VmRSS"].split()[0]) * 1024,
        files=files,
        threads=int(status["Threads"]),
        processor=(int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
        labelled=sum(name.endswith(".png") and not name.startswith(".") for name in names),
        temporary=sum(name.startswith(".matseg-") for name in names),
    )


def fit(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of `values` over time.

    Args:
        seconds: ascending.
        values: one per moment; at least 80 of them.
    """
    bounds = [round(len(values) * block / _BLOCKS) for block in range(_BLOCKS + 1)]
    blocks = [slice(*pair) for pair in pairwise(bounds)]
    hours = [statistics.fmean(seconds[block]) / 3600 for block in blocks]
    means = [statistics.fmean(values[block]) for block in blocks]
    middle, level = statistics.fmean(hours), statistics.fmean(means)
    spread = sum((hour - middle) ** 2 for hour in hours)
    slope = sum((hour - middle) * (mean - level) for hour, mean in zip(hours, means, strict=True)) / spread
    left = sum((mean - level - slope * (hour - middle)) ** 2 for hour, mean in zip(hours, means, strict=True))
    error = math.sqrt(left / (_BLOCKS - 2) / spread)
    return Slope(per_hour=slope, bound=_T_95 * error, blocks=tuple(means))
