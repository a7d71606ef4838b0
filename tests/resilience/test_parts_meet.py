"""At every step of one part's run another part does something, which must be neither missed nor destroyed."""

from __future__ import annotations

import gc
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import pytest
import small_jobs
from small_jobs import JOBS, SmallJob
from thoroughness import THOROUGH, chosen

import matseg_runtime.run.run
from matseg_shared.system import files
from matseg_shared.system.locks import FileLock

PACKAGE = Path(matseg_runtime.__file__).parent
MODULES = (
    *(str(PACKAGE / name) for name in ("run", "ledger.py", "sink", "page/build.py")),
    files.__file__,
)
MEETING_POINTS = (
    "_settle_two_names",
    "_start",
    "_start_job",
    "atomic_write",
    "check_place",
    "clean",
    "finalize",
    "finish",
    "leave_page",
    "start",
    "take_part",
)
"""Functions that look at what other parts have done; the others are looked into when asked to be thorough."""


class Parts:
    """A job, its folder in a state that can be had again, and its two parts."""

    def __init__(self, job: SmallJob, inputs: Path, folder: Path) -> None:
        self.job, self.inputs, self.folder = job, inputs, folder
        self._kept = folder.with_name("kept")
        small_jobs.fresh_folder(inputs, folder)

    def keep(self) -> None:
        """Save the folder for `restore`."""
        shutil.copytree(self.folder, self._kept)

    def restore(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder)

    def run(self, part: int) -> None:
        """It labels everything, or at least everything but what the other part has still to try again."""
        result = small_jobs.run(self.job, self.inputs, self.folder, "--part", f"{part}/2")
        assert result.exit_code in (0, 4), result.output

    def run_first(self) -> None:
        """The first part's whole run."""
        self.run(1)

    def begin_first(self) -> None:
        """The first part's run until it labels something, when it is told to stop."""
        with mock.patch.object(matseg_runtime.run.run, "run_pipeline", side_effect=KeyboardInterrupt):
            result = small_jobs.run(self.job, self.inputs, self.folder, "--part", "1/2")
        assert result.exit_code in (0, 4, 130), result.output

    def may_begin(self) -> bool:
        """True where the first part would not have to wait for the second."""
        side = self.job.side(self.folder)
        return all(_is_free(path) for path in (*side.glob("job.lock"), *side.glob("axis-*/job.lock")))


def _is_free(path: Path) -> bool:
    lock = FileLock(path)
    is_free = lock.acquire()
    lock.release()
    return is_free


class Half(Parts):
    """The first part has written everything, and is about to say so."""

    def __init__(self, job: SmallJob, inputs: Path, folder: Path) -> None:
        super().__init__(job, inputs, folder)
        self.run(1)
        self._ledger = job.side(folder) / "done-1-of-2.jsonl"
        self._lines = self._ledger.read_bytes()
        assert self._lines
        self._ledger.write_bytes(b"")
        self.keep()
        self._lock = FileLock(job.side(folder) / "part-1-of-2.lock")

    def restore(self) -> None:
        self._lock.release()
        super().restore()
        assert self._lock.acquire()

    def end_first(self) -> None:
        """Its last unit is recorded, and it is not at work any more."""
        self._ledger.write_bytes(self._lines)
        self._lock.release()

    def complete_first(self) -> None:
        """The same, and it completes the output."""
        self.end_first()
        if self.may_begin():
            self.run(1)


def at_each_call(work: Callable[[], None], look: Callable[[int], None]) -> None:
    """Have somebody look before each of the calls that `work` makes where parts meet, given its number.

    Without garbage collection, whose finalizers make calls of their own at other places in each run.
    """
    numbers = itertools.count()

    def notice(frame: FrameType, event: str, _: Any) -> None:
        caller = frame if event == "c_call" else frame.f_back if event == "call" else None
        if (
            caller is not None
            and caller.f_code.co_filename.startswith(MODULES)
            and (THOROUGH or caller.f_code.co_name in MEETING_POINTS)
        ):
            sys.setprofile(None)
            look(next(numbers))
            sys.setprofile(notice)

    before = sys.getprofile()
    gc.collect()
    gc.disable()
    sys.setprofile(notice)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()


def meet(
    parts: Parts, deed: Callable[[], None], clean: dict[str, bytes], when: Callable[[], bool] = lambda: True
) -> None:
    """At each step of the second part's run the first one does its deed; then both are run again."""
    steps: list[int] = []
    parts.restore()
    parts.run(2)  # what is imported on the way makes calls once only
    parts.restore()
    at_each_call(lambda: parts.run(2), lambda number: steps.append(number) if when() else None)
    assert len(steps) > 5
    most = 8 if parts.job.name == "consensus" else 24  # whose runs are several
    places = sorted(set(chosen(len(steps), most, f"{parts.job.name} {deed.__name__}")))
    done: set[int] = set()
    for place in places:
        parts.restore()

        def look(number: int, step: int = steps[place]) -> None:
            # at the next step that will do where calls are not at the same places as before
            if step not in done and number >= step and when():
                done.add(step)
                deed()

        at_each_call(lambda: parts.run(2), look)
        if steps[place] not in done:
            deed()
        parts.run(1)
        parts.run(2)
        assert small_jobs.results(parts.folder) == clean, steps[place]
    # threads do not make the same number of calls each time, so that the last step may not come
    assert len(places) - len(done) <= max(1, len(places) // 10)


def _job(name: str) -> SmallJob:
    return next(job for job in JOBS if job.name == name)


IMAGES_TO_ZARR = SmallJob(name="images-to-zarr", source="folder", output="out.zarr")
NAMES = [job.name for job in JOBS] if THOROUGH else ["png", "zarr"]
ENDING = [name for name in NAMES if name != "consensus"] if THOROUGH else ["zarr"]
"""Whose parts write the output itself."""
TAKEN_BACK = [IMAGES_TO_ZARR, *([_job("png"), _job("stack")] if THOROUGH else [])]


@pytest.mark.parametrize("ending", ["end", "complete"])
@pytest.mark.parametrize("name", ENDING)
def test_a_part_ends_while_another_runs(
    name: str, ending: str, inputs: Path, folder: Path, clean: Any
) -> None:
    half = Half(_job(name), inputs, folder)
    deed = half.end_first if ending == "end" else half.complete_first
    meet(half, deed, clean(half.job))


@pytest.mark.parametrize("deed", ["begin", "run"])
@pytest.mark.parametrize("name", NAMES if THOROUGH else [*NAMES, "consensus"])
def test_a_part_runs_while_another_runs(name: str, deed: str, inputs: Path, folder: Path, clean: Any) -> None:
    parts = Parts(_job(name), inputs, folder)
    parts.keep()
    meet(parts, getattr(parts, f"{deed}_first"), clean(parts.job), parts.may_begin)


@pytest.mark.parametrize("deed", ["begin", "run"])
@pytest.mark.parametrize("job", TAKEN_BACK, ids=lambda job: job.name)
def test_parts_take_a_finished_output_back(
    job: SmallJob, deed: str, inputs: Path, folder: Path, clean: Any
) -> None:
    """Two images were broken and are mended now; each part has one of them."""
    own = folder.parent / "inputs"
    shutil.copytree(inputs, own)
    parts = Parts(job, own, folder)
    broken = {path: path.read_bytes() for path in (own / "folder" / f"s{number}.png" for number in (2, 5))}
    for path in broken:
        path.write_bytes(b"")
    result = small_jobs.run(parts.job, own, folder)
    assert result.exit_code == 4, result.output
    for path, content in broken.items():
        path.write_bytes(content)
    parts.keep()
    meet(parts, getattr(parts, f"{deed}_first"), clean(parts.job), parts.may_begin)
