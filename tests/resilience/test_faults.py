"""Disks that are full, broken, read-only or slow: each fault has its sentence, and nothing is lost by it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import small_jobs
from crashing_disk import CrashingDisk
from disturbed import count_steps, require_sound
from small_disks import as_nobody, mounted, remount
from small_jobs import JOBS, SmallJob
from thoroughness import THOROUGH, chosen

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="follows open files through /proc, and mounts disks"
)

SENTENCES = {
    errno.ENOSPC: "no space is left on that disk; free some, then run the same command again",
    errno.EDQUOT: "no space is left on that disk",
    errno.EIO: os.strerror(errno.EIO),
    errno.EACCES: "no permission to write there; choose another output folder or change its permissions",
    errno.EROFS: "no permission to write there",
    errno.ESTALE: os.strerror(errno.ESTALE),
}
SECONDS = 20
"""No fault may take longer than that to come to its end."""


def require_named(result: Any, sentence: str, where: str) -> None:
    assert result.exit_code == 1, (where, result.output)
    lines = [line for line in result.output.splitlines() if not line.startswith("warning: ")]
    assert lines[0].startswith("Error: /"), (where, result.output)
    assert sentence in lines[0], (where, result.output)
    assert "unexpected" not in result.output, where
    assert len(lines) == 1, (where, result.output)


@pytest.mark.parametrize("number", SENTENCES, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_disk_that_fails_from_some_step_on(
    job: SmallJob, number: int, inputs: Path, folder: Path, clean: Any
) -> None:
    whole = clean(job)
    for step in chosen(count_steps(job, inputs, folder), 2, f"{job.name} {number}"):
        disk = CrashingDisk(
            root=small_jobs.fresh_folder(inputs, folder),
            fail_at=step,
            fault=OSError(number, os.strerror(number)),
        )
        started = time.monotonic()
        with disk.failing():
            result = small_jobs.run(job, inputs, folder)
        where = f"step {step}: {disk.steps[step]}"
        assert time.monotonic() - started < SECONDS
        require_named(result, SENTENCES[number], where)
        require_sound(job, inputs, folder, whole, where)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_disk_that_fails_once(job: SmallJob, inputs: Path, folder: Path, clean: Any) -> None:
    """The run may end with that or get over it; nothing wrong is left."""
    whole = clean(job)
    for step in chosen(count_steps(job, inputs, folder), 5, job.name):
        disk = CrashingDisk(
            root=small_jobs.fresh_folder(inputs, folder),
            fail_at=step,
            fault=OSError(errno.EIO, os.strerror(errno.EIO)),
            lasting=False,
        )
        with disk.failing():
            result = small_jobs.run(job, inputs, folder)
        where = f"step {step}: {disk.steps[step]}"
        if result.exit_code:
            require_named(result, SENTENCES[errno.EIO], where)
        require_sound(job, inputs, folder, whole, where)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_disk_that_is_too_small(
    job: SmallJob, inputs: Path, folder: Path, clean: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own answers, to the writers' own calls; a job that asks before is told of a disk that is not."""
    whole = clean(job)
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
    sizes = range(4, 400, 4) if THOROUGH else (8, 24, 40, 80, 160)
    least, full = _kilobytes(small_jobs.fresh_folder(inputs, folder)), 0
    for size in sizes:
        with mounted(folder, least + size) as disk:
            small_jobs.fill_folder(inputs, disk)
            result = small_jobs.run(job, inputs, disk)
            if result.exit_code:
                full += 1
                require_named(result, SENTENCES[errno.ENOSPC], f"{size} kB")
                assert small_jobs.wrong_under_final_names(job, disk, whole) == []
            remount(disk, "size=20m")
            require_sound(job, inputs, disk, whole, f"{size} kB")
    assert full > 1


def _kilobytes(folder: Path) -> int:
    """As tmpfs counts: whole pages, folders and files alike."""
    return sum(4 * -(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file()) + 4


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_disk_that_turned_read_only(job: SmallJob, inputs: Path, folder: Path, clean: Any) -> None:
    whole = clean(job)
    with mounted(folder, 20_000) as disk:
        small_jobs.fill_folder(inputs, disk)
        assert small_jobs.run(job, inputs, disk, "--part", "1/2").exit_code == 0
        before = small_jobs.snapshot(disk)
        remount(disk, "ro")
        require_named(small_jobs.run(job, inputs, disk), "no permission", "read-only")
        assert small_jobs.snapshot(disk) == before
        remount(disk, "rw")
        require_sound(job, inputs, disk, whole, "writable again")


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_user_who_may_not_write(job: SmallJob, inputs: Path, folder: Path, clean: Any) -> None:
    whole = clean(job)
    small_jobs.fresh_folder(inputs, folder)
    for shown in (folder.parent, inputs, *inputs.parents):
        if not shown.stat().st_mode & 0o001 and shown.is_relative_to("/tmp"):
            shown.chmod(shown.stat().st_mode | 0o055)
    folder.parent.chmod(0o755)
    before = small_jobs.snapshot(folder)
    with as_nobody():
        result = small_jobs.run(job, inputs, folder)
    require_named(result, "no permission", "nothing there")
    assert small_jobs.snapshot(folder) == before
    assert small_jobs.run(job, inputs, folder, "--part", "1/2").exit_code == 0
    before = small_jobs.snapshot(folder)
    with as_nobody():
        result = small_jobs.run(job, inputs, folder)
    require_named(result, "no permission", "half done")
    assert small_jobs.snapshot(folder) == before
    require_sound(job, inputs, folder, whole, "root again")


def test_a_slow_disk_costs_time_only(inputs: Path, folder: Path, clean: Any) -> None:
    for job in JOBS:
        disk = CrashingDisk(root=small_jobs.fresh_folder(inputs, folder), slow=0.02)
        with disk.failing():
            result = small_jobs.run(job, inputs, folder)
        assert result.exit_code == 0, result.output
        assert small_jobs.results(folder) == clean(job)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_clock_that_goes_astray(
    job: SmallJob, inputs: Path, folder: Path, clean: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of events comes from the ledger's own count, whatever the clocks of the machines say."""
    real = time.time
    small_jobs.fresh_folder(inputs, folder)
    for number, error in enumerate((+3.2e8, -3.2e8, -1e9), start=1):
        monkeypatch.setattr(time, "time", lambda error=error: real() + error)
        if number == 2 and job.output == "out":
            next(folder.glob("out/s*")).unlink()
        assert small_jobs.run(job, inputs, folder, "--part", f"{min(number, 2)}/2").exit_code == 0
        for path in folder.rglob("*"):
            if not path.is_relative_to(folder / "image.zarr"):
                os.utime(path, (real() + error, real() + error))
    require_sound(job, inputs, folder, clean(job), "the right time again")
