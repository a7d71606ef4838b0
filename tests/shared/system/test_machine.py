"""Cores and memory, as cgroups of both versions limit them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from matseg_shared.system import machine


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cgroup file system that this process is in at /job/step."""
    monkeypatch.setattr(machine, "_CGROUP_ROOT", tmp_path)
    own = tmp_path / "self"
    own.write_text("3:cpu,cpuacct:/job/step\n4:memory:/job/step\n0::/job/step\n")
    monkeypatch.setattr(machine, "_OWN_CGROUPS", own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.usefixtures("cgroups")
def test_affinity_without_quota() -> None:
    assert machine.available_cpus() == 16


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", 16), ("250000 100000", 2), ("50000 100000", 1), ("oddity", 16)]
)
def test_version_2_quota(cgroups: Path, text: str, cpus: int) -> None:
    _write(cgroups / "job/step/cpu.max", text)
    assert machine.available_cpus() == cpus


def test_the_tightest_group_above_counts(cgroups: Path) -> None:
    _write(cgroups / "job/step/cpu.max", "800000 100000")
    _write(cgroups / "job/cpu.max", "300000 100000")
    assert machine.available_cpus() == 3


def test_version_1_quota(cgroups: Path) -> None:
    _write(cgroups / "cpu/job/cpu.cfs_quota_us", "400000")
    _write(cgroups / "cpu/job/cpu.cfs_period_us", "100000")
    # controllers that share a hierarchy also have a link of their own name
    own = cgroups / "self"
    own.write_text("3:cpu:/job\n")
    assert machine.available_cpus() == 4
    _write(cgroups / "cpu/job/cpu.cfs_quota_us", "-1")
    assert machine.available_cpus() == 16


def test_memory_limit_of_a_group(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 << 30))
    assert machine.available_memory() == 8 << 30
    _write(cgroups / "job/memory.max", str(3 << 30))
    _write(cgroups / "job/memory.current", str(1 << 30))
    assert machine.available_memory() == 2 << 30
    _write(cgroups / "job/memory.max", "max")
    assert machine.available_memory() == 8 << 30


def test_this_machine_has_both() -> None:
    assert machine.available_cpus() >= 1
    assert machine.available_memory() > 0
    assert 0 < machine.used_memory() <= machine.peak_memory()


def test_the_limit_that_a_batch_system_sets_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ulimit -v`, as grid engines set it: memory is free, but not for this process."""
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells how much address space a process has")
    held = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")
    )
    limit = int(held.split()[1]) * 1024 + (50 << 20)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    limits = {resource.RLIMIT_AS: (limit, limit), resource.RLIMIT_DATA: unlimited}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    left = machine.available_memory()
    assert 0 <= left <= 50 << 20
