"""Real processes: signals at random moments, two on one output, a source that changes, a scheduler that is lost."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import small_jobs
from ledgers import at_work
from small_jobs import JOBS, SmallJob
from thoroughness import THOROUGH

from matseg_runtime.ledger import Ledger, Part, read_key
from matseg_runtime.records import JobKey
from matseg_runtime.run.pipeline import WorkerCounts, run_pipeline
from matseg_runtime.source.folder import FolderSource
from matseg_shared.errors import UnsupportedError

PROGRAM = [sys.executable, "-c", "from matseg_runtime.cli.run import run_main; run_main()"]
SECONDS = 60
"""No process may live longer, whatever is done to it."""


def start(job: SmallJob, inputs: Path, folder: Path, *more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *small_jobs.command(job, inputs, folder, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, printed


def real_units(job: SmallJob, inputs: Path, folder: Path) -> dict[str, bytes]:
    """The undisturbed results of a process, which cuts a zarr into larger units than the runs in this process do."""
    small_jobs.fresh_folder(inputs, folder)
    with start(job, inputs, folder) as process:
        code, printed = end_of(process)
    assert code == 0, printed
    return small_jobs.results(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT], ids=lambda kind: kind.name)
def test_a_signal_at_any_moment(kind: signal.Signals, inputs: Path, folder: Path) -> None:
    jobs = JOBS if THOROUGH else [job for job in JOBS if job.name == "label"]
    for job in jobs:
        begun = time.monotonic()
        clean = real_units(job, inputs, folder)
        lifetime = time.monotonic() - begun
        dice = random.Random(f"{kind} {job.name}")
        for _ in range(20 if THOROUGH else 2):
            small_jobs.fresh_folder(inputs, folder)
            with start(job, inputs, folder) as process:
                time.sleep(lifetime * dice.uniform(0.2, 1.0))
                process.send_signal(kind)
                code, printed = end_of(process)
            # 0: it was done; 130: told to stop; -signal: before it could listen
            assert code in (0, 130, -kind), (code, printed)
            assert "unexpected" not in printed
            if code == 130:
                assert "run the same command again" in printed
            with start(job, inputs, folder) as process:
                code, printed = end_of(process)
            assert code == 0, printed
            assert small_jobs.results(folder) == clean


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT], ids=lambda kind: kind.name)
def test_a_watch_ends_whenever_it_is_told_to(kind: signal.Signals, inputs: Path, folder: Path) -> None:
    job = next(job for job in JOBS if job.name == "png")
    dice = random.Random(f"watch {kind}")
    for _ in range(60 if THOROUGH else 5):
        small_jobs.fresh_folder(inputs, folder)
        with start(job, inputs, folder, "--watch") as process:  # which never ends by itself
            time.sleep(dice.uniform(0.05, 1.5))
            process.send_signal(kind)
            code, printed = end_of(process)
        # 0: it was watching, and that is how a watch ends; 130: it had not begun yet
        assert code in (0, 130, -kind), (code, printed)
        assert "Traceback" not in printed or code == -kind, printed


@pytest.mark.parametrize(
    "second", [(), ("--overwrite",), ("--part", "2/2")], ids=lambda more: " ".join(more) or "same"
)
def test_two_processes_on_one_output(second: tuple[str, ...], inputs: Path, folder: Path) -> None:
    jobs = JOBS if THOROUGH else [job for job in JOBS if job.name == "zarr"]
    first = ("--part", "1/2") if "--part" in second else ()
    for job in jobs:
        clean = real_units(job, inputs, folder)
        for _ in range(10 if THOROUGH else 1):
            small_jobs.fresh_folder(inputs, folder)
            with start(job, inputs, folder, *first) as one, start(job, inputs, folder, *second) as two:
                ends = [end_of(one), end_of(two)]
            for code, printed in ends:
                assert code in (0, 2), printed
                assert code == 0 or "another matseg-run works on" in printed
            assert 0 in {code for code, _ in ends}
            if "--part" in second:
                assert [code for code, _ in ends] == [0, 0], ends
            assert small_jobs.results(folder) == clean


def _key(job: SmallJob, inputs: Path, folder: Path) -> JobKey:
    """A job of which the first of two parts is done."""
    small_jobs.fresh_folder(inputs, folder)
    assert small_jobs.run(job, inputs, folder, "--part", "1/2").exit_code == 0
    key = read_key(job.side(folder))
    assert key is not None
    return key


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_nothing_is_replaced_under_the_hands_of_a_process(job: SmallJob, inputs: Path, folder: Path) -> None:
    key = _key(job, inputs, folder)
    with at_work(job.side(folder), key, Part(number=2, total=2)):
        before = small_jobs.results(folder)
        result = small_jobs.run(job, inputs, folder, "--overwrite", "--part", "1/2", model="other_v1")
    assert result.exit_code == 2
    assert (
        "cannot be replaced under its hands; wait for it, or choose another output with -o" in result.output
    )
    assert small_jobs.results(folder) == before
    assert small_jobs.run(job, inputs, folder, "--overwrite", model="other_v1").exit_code == 0


def test_who_only_looks_whether_a_part_is_busy_is_not_taken_for_one_who_works(
    inputs: Path, folder: Path
) -> None:
    job = JOBS[0]
    key = _key(job, inputs, folder)
    side = job.side(folder)
    looking = Ledger(side, Part(number=1, total=2))
    taken = threading.Event()

    def look() -> None:
        """As one that completes an output does, only longer."""
        with looking.job_lock():
            probe = Ledger(side, Part(number=2, total=2))
            assert probe._lock.acquire()
            taken.set()
            time.sleep(0.2)
            probe._lock.release()

    looker = threading.Thread(target=look)
    looker.start()
    assert taken.wait(5)
    with at_work(side, key, Part(number=2, total=2)):
        looker.join()


class Meddler:
    """Does something to the input when a certain slice is about to be read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, deed: Any) -> None:
        real = FolderSource.read
        numbers = itertools.count(1)  # one call, so that no two readers get the same

        def read(source: FolderSource, start: int, stop: int) -> Any:
            if next(numbers) == at:
                deed()
            return real(source, start, stop)

        monkeypatch.setattr(FolderSource, "read", read)


@pytest.fixture
def own_inputs(inputs: Path, folder: Path) -> Path:
    """A copy of the inputs that may be spoiled, times of change included."""
    copy = folder.parent / "inputs"
    shutil.copytree(inputs, copy)
    return copy


@pytest.mark.parametrize("name", ["png", "stack"])
@pytest.mark.parametrize("deed", ["removed", "cut", "replaced"])
def test_a_source_that_changes_during_the_run(
    name: str, deed: str, own_inputs: Path, folder: Path, clean: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = next(job for job in JOBS if job.name == name)
    image = own_inputs / "folder" / "s5.png"
    saved = shutil.copy2(image, own_inputs / "saved.png")

    def spoil() -> None:
        if deed == "removed":
            image.unlink()
        elif deed == "cut":
            image.write_bytes(image.read_bytes()[:100])
        else:
            shutil.copyfile(own_inputs / "folder" / "s0.png", image)

    small_jobs.fresh_folder(own_inputs, folder)
    Meddler(monkeypatch, 3, spoil)
    result = small_jobs.run(job, own_inputs, folder)
    monkeypatch.undo()
    if deed == "replaced":  # what was read is what was labelled, and the ledger knows which file that was
        assert result.exit_code in (0, 4), result.output
        shutil.copy2(saved, image)
        again = small_jobs.run(job, own_inputs, folder)
        assert again.exit_code in (0, 2)
        assert again.exit_code == 0 or "has changed since it was labelled" in again.output
        assert again.exit_code or small_jobs.results(folder) == clean(job)
        return
    assert result.exit_code == 4, result.output
    assert "excluded" in result.output
    assert "s5.png" in result.output
    shutil.copy2(saved, image)
    result = small_jobs.run(job, own_inputs, folder)
    assert result.exit_code == 0, result.output
    assert small_jobs.results(folder) == clean(job)


def test_a_machine_that_lets_no_thread_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def refuse(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    real = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(UnsupportedError, match=r"no more threads start .* --threads"):
        run_pipeline(range(9), lambda n: [n], lambda n: n, print, WorkerCounts())
    started[0].join(5)
    assert not started[0].is_alive()
