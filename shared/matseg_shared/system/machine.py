"""Cores and memory that this process may use, cgroup limits included."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path

import psutil

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Cores this process may keep busy: the smaller of its CPU affinity and its cgroup quota, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, cores if quota is None else min(cores, math.floor(quota)))


def available_memory() -> int:
    """Bytes this process may still take: free memory, within its cgroup's limits and those of `ulimit`."""
    found = (psutil.virtual_memory().available, _cgroup_memory_left(), _own_memory_left())
    return int(min(value for value in found if value is not None))


def release_memory() -> None:
    """Give memory that was freed back to the system, where the C library (glibc) keeps it for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def used_memory() -> int:
    """Bytes of physical memory this process holds now."""
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """The most bytes of physical memory this process has held, since `reset_peak_memory` where that works."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> bool:
    """Start counting the peak afresh; False where the system does not offer that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _cpu_quota() -> float | None:
    """Cores' worth of time per period, the tightest of the cgroup and those above it."""
    quotas: list[float] = []
    for folder in _cgroup_folders("cpu"):
        fields = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        if len(fields) == 2 and fields[0].isdecimal() and fields[1].isdecimal() and int(fields[1]) > 0:
            quotas.append(int(fields[0]) / int(fields[1]))
    return min(quotas, default=None)


def _cgroup_memory_left() -> int | None:
    left: list[int] = []
    for folder in _cgroup_folders("memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        # an unlimited version 1 group reports a number near 2**63
        if limit.isdecimal() and used.isdecimal() and int(limit) < 1 << 60:
            left.append(max(0, int(limit) - int(used)))
    return min(left, default=None)


def _own_memory_left() -> int | None:
    """Bytes left of the limits of address space and data segment (`ulimit -v`, `ulimit -d`)."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    held = dict(
        line.split(":", 1) for line in _read(Path("/proc/self/status")).splitlines() if line.startswith("Vm")
    )
    left: list[int] = []
    for name, field in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY and field in held:
            left.append(max(0, limit - int(held[field].split()[0]) * 1024))
    return min(left, default=None)


def _cgroup_folders(controller: str) -> list[Path]:
    """The folders of this process's group and of all above it, version 2 and version 1 hierarchies."""
    folders: list[Path] = []
    for line in _read(_OWN_CGROUPS).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUP_ROOT / controller if controllers else _CGROUP_ROOT
        folder = root / group.strip("/")
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return folders


def _read(path: Path) -> str:
    """A kernel file's text, "" where it does not exist or must not be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
