"""One part of a job ends at every step of another's run, which must neither miss its work nor destroy it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import small_jobs
from small_jobs import JOBS, SmallJob
from thoroughness import THOROUGH, chosen

import matseg_runtime
from matseg_runtime.locks import FileLock

WHERE_PARTS_MEET = tuple(
    str(Path(matseg_runtime.__file__).parent / name)
    for name in ("job.py", "ledger.py", "finish.py", *(["sink", "prepare.py"] if THOROUGH else []))
)


class Half:
    """A job of which the first part has written everything, and is about to say so."""

    def __init__(self, job: SmallJob, inputs: Path, folder: Path) -> None:
        small_jobs.fresh_folder(inputs, folder)
        assert small_jobs.run(job, inputs, folder, "--part", "1/2").exit_code == 0
        self.job, self.inputs, self.folder = job, inputs, folder
        self._ledger = job.side(folder) / "done-1-of-2.jsonl"
        self._lines = self._ledger.read_bytes()
        assert self._lines
        self._ledger.write_bytes(b"")
        self._kept = folder.with_name("half")
        shutil.copytree(folder, self._kept)
        self._lock = FileLock(job.side(folder) / "part-1-of-2.lock")

    def restore(self) -> None:
        """With the first part at work."""
        self._lock.release()
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder)
        assert self._lock.acquire()

    def end(self) -> None:
        """The first part's last unit is recorded, and it is not at work any more."""
        self._ledger.write_bytes(self._lines)
        self._lock.release()

    def complete(self) -> None:
        """It completes the output, too, if nobody keeps it waiting."""
        self.end()
        lock = FileLock(self.job.side(self.folder) / "job.lock")
        if lock.acquire():
            lock.release()
            self.run("1/2")

    def run(self, part: str) -> None:
        result = small_jobs.run(self.job, self.inputs, self.folder, "--part", part)
        assert result.exit_code == 0, result.output


def at_step(number: int, deed: Callable[[], None], work: Callable[[], None]) -> int:
    """Do something before one of the calls that `work` makes where parts meet; returns how many there were."""
    count = 0

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(WHERE_PARTS_MEET)
            and not code.co_name.startswith("<")
        ):
            if count == number:
                sys.setprofile(None)
                deed()
                sys.setprofile(look)
            count += 1

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("ending", ["end", "complete"])
@pytest.mark.parametrize("name", [job.name for job in JOBS] if THOROUGH else ["png", "zarr"])
def test_a_part_ends_at_any_step_of_another(
    name: str, ending: str, inputs: Path, folder: Path, clean: Any
) -> None:
    job = next(job for job in JOBS if job.name == name)
    half = Half(job, inputs, folder)
    half.restore()
    steps = at_step(-1, half.end, lambda: half.run("2/2"))
    assert steps > 30
    for number in range(steps) if name != "png" else chosen(steps, 8, f"{name} {ending}"):
        half.restore()
        at_step(number, getattr(half, ending), lambda: half.run("2/2"))
        if ending == "complete":
            half.run("1/2")
        else:
            assert small_jobs.run(job, inputs, folder, "--finish").exit_code == 0
        assert small_jobs.results(folder) == clean(job), number
