"""Killed, or without power, before any step of the protocol: the same command goes on to the undisturbed result."""

from __future__ import annotations

import sys
from pathlib import Path

import disturbed
import pytest
import small_jobs
from crashing_disk import CrashingDisk, Loss, PowerCut
from small_jobs import JOBS, SmallJob
from thoroughness import chosen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="follows open files through /proc")


def cut(job: SmallJob, inputs: Path, folder: Path, step: int, *more: object, loss: Loss) -> str:
    """Run until the power fails, and leave what the disk has then; returns the step that did not happen."""
    disk = CrashingDisk(root=folder, fail_at=step)
    try:
        with disk.failing():
            result = small_jobs.run(job, inputs, folder, *more)
    except PowerCut:
        pass
    else:
        pytest.fail(
            f"{len(disk.steps)} steps, no cut before step {step}: {result.exit_code}, {result.output}"
        )
    disk.crash(loss, seed=step)
    return disk.steps[step]


@pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.value)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_cut_at_any_step(job: SmallJob, loss: Loss, inputs: Path, folder: Path, clean: object) -> None:
    whole = clean(job)  # type: ignore[operator]
    for step in chosen(disturbed.count_steps(job, inputs, folder), 4, f"{job.name} {loss}"):
        small_jobs.fresh_folder(inputs, folder)
        where = cut(job, inputs, folder, step, loss=loss)
        disturbed.require_sound(job, inputs, folder, whole, f"step {step}: {where}")
