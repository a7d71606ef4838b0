"""The pipeline never hangs, never grows, and raises what went wrong."""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
import time
from collections.abc import Callable

import pytest

from matseg_runtime.run.pipeline import WorkerCounts, run_pipeline
from matseg_shared.system import interruption

CREWS = [WorkerCounts(), WorkerCounts(readers=3, inferrers=2, writers=2, queue=1)]


@pytest.mark.parametrize("workers", CREWS)
def test_every_unit_passes_all_stages_once(workers: WorkerCounts) -> None:
    written: list[int] = []
    times = run_pipeline(range(100), lambda n: n * 2, lambda n: n + 1, written.append, workers)
    assert sorted(written) == [2 * n + 1 for n in range(100)]
    assert times.threads == workers.threads


def test_one_thread_each_keeps_the_order() -> None:
    written: list[int] = []
    run_pipeline(range(50), lambda n: n, lambda n: n, written.append, WorkerCounts())
    assert written == list(range(50))


def test_no_units() -> None:
    run_pipeline([], lambda n: n, lambda n: n, [].append, WorkerCounts(readers=2))


def _fails_at(number: int, error: BaseException) -> Callable[[int], int]:
    def stage(n: int) -> int:
        if n == number:
            raise error
        return n

    return stage


@pytest.mark.parametrize("workers", CREWS)
@pytest.mark.parametrize("where", ["units", "read", "infer", "write"])
@pytest.mark.parametrize("error", [ValueError("broken"), MemoryError(), SystemExit(9)])
def test_a_dead_stage_raises(workers: WorkerCounts, where: str, error: BaseException) -> None:
    def units() -> object:
        for n in range(1000):
            if where == "units" and n == 5:
                raise error
            yield n

    stages = {
        name: _fails_at(5, error) if where == name else (lambda n: n) for name in ("read", "infer", "write")
    }
    started = time.monotonic()
    with pytest.raises(type(error)):
        run_pipeline(units(), stages["read"], stages["infer"], stages["write"], workers)  # type: ignore[type-var]
    assert time.monotonic() - started < 5
    for thread in threading.enumerate():
        if thread.name.startswith("matseg-"):
            thread.join(timeout=2)
            assert not thread.is_alive()


@pytest.mark.parametrize("workers", CREWS)
def test_a_slow_writer_holds_the_readers_back(workers: WorkerCounts) -> None:
    lock = threading.Lock()
    in_flight, most = 0, 0

    def read(n: int) -> int:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        return n

    def write(_: int) -> None:
        nonlocal in_flight
        time.sleep(0.002)
        with lock:
            in_flight -= 1

    run_pipeline(range(60), read, lambda n: n, write, workers)
    assert workers.blocks_in_flight >= most > 1


@pytest.mark.parametrize(
    ("slow", "name"), [("read", "reading"), ("infer", "inference"), ("write", "writing")]
)
def test_the_bottleneck_is_named(slow: str, name: str) -> None:
    def stage(kind: str) -> Callable[[int], int]:
        return lambda n: (time.sleep(0.005 if kind == slow else 0.0005), n)[1]

    times = run_pipeline(range(15), stage("read"), stage("infer"), stage("write"), WorkerCounts())
    assert times.bottleneck == name


def test_ctrl_c_finishes_what_is_in_flight() -> None:
    read: list[int] = []
    written: list[int] = []
    told: list[bool] = []

    def reading(n: int) -> int:
        read.append(n)
        if n == 10:
            _thread.interrupt_main()
        time.sleep(0.01)
        return n

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(
            range(10_000),
            reading,
            lambda n: n,
            written.append,
            WorkerCounts(),
            on_interrupt=lambda: told.append(True) is not None,
        )
    assert told == [True]
    assert written == read
    assert 11 <= len(read) < 200


def test_ctrl_c_that_was_lost_before_stops_a_run_before_anything_is_read() -> None:
    read: list[int] = []
    with interruption.counted():
        with contextlib.suppress(KeyboardInterrupt):  # as a destructor does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(range(10), read.append, lambda n: n, print, WorkerCounts())
    assert read == []


@pytest.mark.parametrize("times", [2, 3])
def test_a_second_ctrl_c_gives_up_what_is_in_flight(times: int) -> None:
    never = threading.Event()
    begun = time.monotonic()

    def reading(n: int) -> int:
        if n == 3:
            for _ in range(times):
                _thread.interrupt_main()
                time.sleep(0.3)
            never.wait(60 if times == 3 else 0)
        return n

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(range(10), reading, lambda n: n, print, WorkerCounts())
    never.set()
    assert time.monotonic() - begun < 8  # a third does not wait for threads that are stuck
