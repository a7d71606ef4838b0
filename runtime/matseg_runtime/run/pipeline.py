"""Three stages side by side: read, infer, write, with bounded queues between them.

```
 units ─> readers ─[queue]─> inferrers ─[queue]─> writers
```

Each stage has its own threads. A full queue makes the stage before it wait, so memory stays bounded whatever is slow;
the first error of any thread stops all stages and is raised in the caller's thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from matseg_shared.errors import UnsupportedError
from matseg_shared.system import interruption

Block = TypeVar("Block")
Read = TypeVar("Read")
Inferred = TypeVar("Inferred")
Item = TypeVar("Item")

_PATIENCE_SECONDS = 10.0
"""How long a stage may take to notice that another has failed before its thread is left behind."""
_STEP_SECONDS = 0.1
"""How long Ctrl-C may go unnoticed."""


class Stopped(Exception):  # noqa: N818 (not an error: the way a stage learns that the work is over)
    """Another stage has failed, or the caller has given up."""


class Queue(Generic[Item]):
    """A bounded queue that can end (no more items) and can be aborted (wake everybody)."""

    def __init__(self, size: int, producers: int) -> None:
        self._items: deque[Item] = deque()
        self._size = size
        self._producers = producers
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Add an item, waiting for room."""
        with self._changed:
            while len(self._items) >= self._size and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Items until every producer has finished."""
        while True:
            with self._changed:
                while not self._items and self._producers and not self._aborted:
                    self._changed.wait()
                if self._aborted:
                    raise Stopped
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def producer_done(self) -> None:
        """One producer will put nothing more."""
        with self._changed:
            self._producers -= 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Make every waiting or later `put` and iteration raise `Stopped`."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """How many threads each stage has, and how many units may wait between two stages."""

    readers: int = 1
    inferrers: int = 1
    writers: int = 1
    queue: int = 2

    @property
    def blocks_in_flight(self) -> int:
        """The most units that are in memory at a time."""
        return self.readers + self.inferrers + self.writers + 2 * self.queue


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds that the threads of each stage were at work, not waiting."""

    read: float
    infer: float
    write: float
    wall: float
    workers: WorkerCounts

    @property
    def bottleneck(self) -> str:
        """The stage whose threads had the least time to wait."""
        load = {
            "reading": self.read / self.workers.readers,
            "inference": self.infer / self.workers.inferrers,
            "writing": self.write / self.workers.writers,
        }
        return max(load, key=lambda stage: load[stage])


class _Stage:
    """Threads that apply one function; remembers the time they were busy."""

    def __init__(self, pipeline: _Pipeline, name: str, threads: int) -> None:
        self.seconds = 0.0
        self._pipeline = pipeline
        self._name = name
        self._count = threads
        self._lock = threading.Lock()

    def start(self, work: Callable[[], None]) -> None:
        for number in range(self._count):
            name = f"matseg-{self._name}-{number}"
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True).start()

    def timed(self, function: Callable[[Item], Read], item: Item) -> Read:
        started = time.perf_counter()
        result = function(item)
        with self._lock:
            self.seconds += time.perf_counter() - started
        return result

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            return
        except BaseException as error:  # handed to the caller's thread, whatever it is
            self._pipeline.fail(error)
        finally:
            self._pipeline.thread_ended()


class _Pipeline:
    """The shared state of one run."""

    def __init__(self, threads: int) -> None:
        self.queues: list[Queue[object]] = []
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._running = threads

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()
        for queue in self.queues:
            queue.abort()

    def thread_ended(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def is_at_work(self) -> bool:
        """Wait a moment, shorter when a thread ends or fails; whether any is still running."""
        with self._changed:
            if self._running:
                self._changed.wait(_STEP_SECONDS)
            return self._running > 0


class _Feed(Generic[Block]):
    """Hands out units to several readers, until it is told to stop."""

    def __init__(self, units: Iterable[Block]) -> None:
        self._units = iter(units)
        self._lock = threading.Lock()
        self.is_stopped = False

    def __iter__(self) -> Iterator[Block]:
        while True:
            with self._lock:
                if self.is_stopped:
                    return
                try:
                    unit = next(self._units)
                except StopIteration:
                    return
            yield unit

    def stop(self) -> None:
        self.is_stopped = True  # no lock: a feed that waits for new slices holds it


def run_pipeline(
    units: Iterable[Block],
    read: Callable[[Block], Read],
    infer: Callable[[Read], Inferred],
    write: Callable[[Inferred], None],
    workers: WorkerCounts,
    *,
    on_interrupt: Callable[[], None] | None = None,
    watch: Callable[[StageTimes], None] | None = None,
) -> StageTimes:
    """Push every unit through the three stages; returns when the last is written.

    Ctrl-C stops handing out units, lets those in flight be written, then is raised; a second one gives them up, and a
    third does not even wait for the threads to end.

    Args:
        units: handed out in order; iterated in a reader's thread.
        read, infer, write: the stages; called from several threads when `workers` says so.
        workers: threads and queue lengths.
        on_interrupt: called at the first Ctrl-C.
        watch: called after each unit, from a writer's thread, with the times so far.

    Raises:
        BaseException: the first that any stage raised.
        UnsupportedError: the threads cannot be started.
    """
    started = time.perf_counter()
    pipeline = _Pipeline(workers.readers + workers.inferrers + workers.writers)
    feed = _Feed(units)
    stages = {
        "read": _Stage(pipeline, "read", workers.readers),
        "infer": _Stage(pipeline, "infer", workers.inferrers),
        "write": _Stage(pipeline, "write", workers.writers),
    }
    to_infer: Queue[Read] = Queue(workers.queue, workers.readers)
    to_write: Queue[Inferred] = Queue(workers.queue, workers.inferrers)
    pipeline.queues += [to_infer, to_write]  # type: ignore[list-item]

    def reading() -> None:
        for unit in feed:
            to_infer.put(stages["read"].timed(read, unit))
        to_infer.producer_done()

    def inferring() -> None:
        for item in to_infer:
            to_write.put(stages["infer"].timed(infer, item))
        to_write.producer_done()

    def writing() -> None:
        for item in to_write:
            stages["write"].timed(write, item)
            if watch is not None:
                watch(times())

    def times() -> StageTimes:
        busy = {name: stage.seconds for name, stage in stages.items()}
        return StageTimes(**busy, wall=time.perf_counter() - started, workers=workers)

    with interruption.held_back() as interruptions:
        if interruptions():
            raise KeyboardInterrupt
        try:
            for name, work in (("write", writing), ("infer", inferring), ("read", reading)):
                stages[name].start(work)
        except RuntimeError as error:
            pipeline.fail(error)
            raise UnsupportedError(
                f"this machine lets no more threads start ({error}); use fewer with --threads, or raise its limit"
            ) from error
        _wait(pipeline, feed, interruptions, on_interrupt)
    return times()


def _wait(
    pipeline: _Pipeline,
    feed: _Feed[Block],
    interruptions: Callable[[], int],
    on_interrupt: Callable[[], None] | None,
) -> None:
    """Wait for all threads, and raise what went wrong."""
    while pipeline.error is None and pipeline.is_at_work():
        if interruptions() and not feed.is_stopped:
            feed.stop()
            if on_interrupt is not None:
                on_interrupt()
        if interruptions() > 1:
            pipeline.fail(KeyboardInterrupt())
    if pipeline.error is not None:
        feed.stop()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline and interruptions() < 3 and pipeline.is_at_work():
            pass
        raise pipeline.error
    if interruptions():
        raise KeyboardInterrupt
