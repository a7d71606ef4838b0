"""The pipeline never hangs, never grows, and raises what went wrong."""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence

import pytest

from matseg_runtime.run.pipeline import WorkerCounts, run_pipeline
from matseg_shared.system import interruption

CREWS = [
    WorkerCounts(),
    WorkerCounts(readers=3, inferrers=2, writers=2, blocks=9),
    WorkerCounts(readers=3, inferrers=2, writers=2, blocks=1),
]


def _alone(n: int) -> list[int]:
    """A block of one piece."""
    return [n]


@pytest.mark.parametrize("workers", CREWS)
def test_every_unit_passes_all_stages_once(workers: WorkerCounts) -> None:
    written: list[tuple[int, list[int]]] = []

    def write(block: int, inferred: Sequence[int]) -> None:
        written.append((block, list(inferred)))

    def pieces(n: int) -> list[int]:
        return [n + part for part in range(n % 5 + 1)]

    times = run_pipeline(range(100), pieces, lambda n: n * 2, write, workers)
    assert sorted(written) == [(n, [2 * piece for piece in pieces(n)]) for n in range(100)]
    assert times.threads == workers.threads


def test_one_thread_each_keeps_the_order() -> None:
    written: list[int] = []
    run_pipeline(range(50), _alone, lambda n: n, lambda n, _: written.append(n), WorkerCounts())
    assert written == list(range(50))


def test_streams_share_the_pieces_of_a_block() -> None:
    """Each waits for the other to be at work too, on blocks of which there is one at a time."""
    together = threading.Barrier(2, timeout=10)
    workers = WorkerCounts(inferrers=2, blocks=1)
    run_pipeline(range(2), lambda _: range(4), lambda _: together.wait(), lambda *_: None, workers)


def test_what_is_done_with_is_not_kept_while_the_next_block_is_waited_for() -> None:
    class Pixels:
        pass

    kept: list[weakref.ref[Pixels]] = []

    def blocks() -> Iterator[int]:
        for n in range(3):
            deadline = time.monotonic() + 10
            while any(one() is not None for one in kept):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            yield n

    def made(_: object) -> Pixels:
        pixels = Pixels()
        kept.append(weakref.ref(pixels))
        return pixels

    run_pipeline(blocks(), lambda n: [made(n), made(n)], made, lambda *_: None, WorkerCounts())
    assert len(kept) == 12


def test_no_units() -> None:
    run_pipeline([], _alone, lambda n: n, print, WorkerCounts(readers=2))


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
    def units() -> Iterator[int]:
        for n in range(1000):
            if where == "units" and n == 5:
                raise error
            yield n

    fails = {name: _fails_at(5 if where == name else -1, error) for name in ("read", "infer", "write")}
    started = time.monotonic()
    with pytest.raises(type(error)):
        run_pipeline(
            units(),
            lambda n: [fails["read"](n)],
            fails["infer"],
            lambda n, _: print(fails["write"](n)),
            workers,
        )
    assert time.monotonic() - started < 5
    for thread in threading.enumerate():
        if thread.name.startswith("matseg-"):
            thread.join(timeout=2)
            assert not thread.is_alive()


@pytest.mark.parametrize("workers", CREWS)
def test_a_slow_writer_holds_the_readers_back(workers: WorkerCounts) -> None:
    lock = threading.Lock()
    in_flight, most = 0, 0
    full = threading.Event()

    def read(n: int) -> list[int]:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
            if most == workers.blocks:
                full.set()
        return [n]

    def write(*_: object) -> None:
        nonlocal in_flight
        assert full.wait(10)
        time.sleep(0.002)
        with lock:
            in_flight -= 1

    run_pipeline(range(60), read, lambda n: n, write, workers)
    assert most == workers.blocks


@pytest.mark.parametrize(
    ("slow", "name"), [("read", "reading"), ("infer", "inference"), ("write", "writing")]
)
def test_the_bottleneck_is_named(slow: str, name: str) -> None:
    def stage(kind: str) -> Callable[..., list[int]]:
        return lambda n, *_: (time.sleep(0.005 if kind == slow else 0.0005), [n])[1]

    times = run_pipeline(range(15), stage("read"), stage("infer"), stage("write"), WorkerCounts())
    assert times.bottleneck == name


def test_ctrl_c_finishes_what_is_in_flight() -> None:
    read: list[int] = []
    written: list[int] = []
    told: list[bool] = []

    def reading(n: int) -> list[int]:
        read.append(n)
        if n == 10:
            _thread.interrupt_main()
        time.sleep(0.01)
        return [n]

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(
            range(10_000),
            reading,
            lambda n: n,
            lambda n, _: written.append(n),
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
            run_pipeline(range(10), lambda n: [read.append(n)], lambda n: n, print, WorkerCounts())
    assert read == []


@pytest.mark.parametrize("times", [2, 3])
def test_a_second_ctrl_c_gives_up_what_is_in_flight(times: int) -> None:
    never = threading.Event()
    begun = time.monotonic()

    def reading(n: int) -> list[int]:
        if n == 3:
            for _ in range(times):
                _thread.interrupt_main()
                time.sleep(0.3)
            never.wait(60 if times == 3 else 0)
        return [n]

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(range(10), reading, lambda n: n, print, WorkerCounts())
    never.set()
    assert time.monotonic() - begun < 8  # a third does not wait for threads that are stuck
