"""Conditions that hold after a job was disturbed."""

from __future__ import annotations

from pathlib import Path

import small_jobs
from crashing_disk import CrashingDisk
from small_jobs import SmallJob


def count_steps(job: SmallJob, inputs: Path, folder: Path, *more: object) -> int:
    disk = CrashingDisk(root=small_jobs.fresh_folder(inputs, folder))
    with disk.failing():
        assert small_jobs.run(job, inputs, folder, *more).exit_code == 0
    return len(disk.steps)


def require_sound(job: SmallJob, inputs: Path, folder: Path, clean: dict[str, bytes], where: str) -> None:
    """Nothing is wrong now, and the same command makes everything right."""
    assert small_jobs.wrong_under_final_names(job, folder, clean) == [], where
    assert small_jobs.not_what_was_done(job, folder, clean) == [], where
    result = small_jobs.run(job, inputs, folder)
    assert result.exit_code == 0, (where, result.output)
    found = small_jobs.results(folder)
    assert sorted(found) == sorted(clean), where
    assert found == clean, where
