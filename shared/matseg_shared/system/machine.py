"""What this process may use of the machine: cores and memory, cgroup limits included."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Cores this process may keep busy: the smaller of its CPU affinity and its cgroup quota, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, cores if quota is None else min(cores, math.floor(quota)))


def available_memory() -> int | None:
    """Bytes this process may still take: free memory, within its cgroup's and its own limits; None where nobody tells.

    Its own are those of `ulimit`, which batch systems set.
    """
    found = (_free_memory(), _cgroup_memory_left(), _own_memory_left())
    known = [value for value in found if value is not None]
    return min(known) if known else None


def used_memory() -> int:
    """Bytes of physical memory this process holds now; its peak where only that is told."""
    fields = _read(Path("/proc/self/statm")).split()
    if len(fields) > 1:
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory()


def peak_memory() -> int:
    """The most bytes of physical memory this process has held, since `reset_peak_memory` where that works."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return _peak_memory_windows()
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
    """Of the limits of address space and data segment (`ulimit -v`, `ulimit -d`)."""
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


def _free_memory() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return _free_memory_windows()
    try:  # macOS and the BSDs tell the whole, not the free; half of it is a fair guess
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return None


def _free_memory_windows() -> int | None:
    import ctypes

    class MemoryStatus(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *[(name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")],
        ]

    status = MemoryStatus()
    status.length = ctypes.sizeof(MemoryStatus)
    found = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.free) if found else None


def _peak_memory_windows() -> int:
    import ctypes

    names = ("peak", "now", "peak_paged", "paged", "peak_nonpaged", "nonpaged", "pagefile", "peak_pagefile")

    class Counters(ctypes.Structure):
        _fields_ = [
            ("size", ctypes.c_ulong),
            ("faults", ctypes.c_ulong),
            *[(n, ctypes.c_size_t) for n in names],
        ]

    counters = Counters()
    counters.size = ctypes.sizeof(Counters)
    process = ctypes.windll.kernel32.GetCurrentProcess()  # type: ignore[attr-defined]
    ctypes.windll.psapi.GetProcessMemoryInfo(  # type: ignore[attr-defined]
        process, ctypes.byref(counters), counters.size
    )
    return int(counters.peak)
