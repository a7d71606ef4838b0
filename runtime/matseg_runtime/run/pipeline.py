"""Three stages side by side: read, infer, write, with bounded queues between them.

```
 blocks ─> readers ─[queue]─> inferrers ─[queue]─> writers
```

Each stage has its own threads. A full queue makes the stage before it wait, so memory stays bounded whatever is slow;
the first error of any thread stops all stages and is raised in the caller's thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from matseg_runtime.measure.report import Stages
from matseg_shared.errors import UnsupportedError
from matseg_shared.system import interruption

Block = TypeVar("Block")
Read = TypeVar("Read")
Inferred = TypeVar("Inferred")

_PATIENCE_SECONDS = 10.0
"""Time in which a stage must notice that another has failed before its thread is left behind."""
_STEP_SECONDS = 0.1
"""Time that Ctrl-C may go unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """Threads of each stage, and how many blocks may wait between two stages."""

    readers: int = 1
    inferrers: int = 1
    writers: int = 1
    queue: int = 2

    @property
    def threads(self) -> dict[str, int]:
        """Threads by the name of their stage."""
        return {"reading": self.readers, "inference": self.inferrers, "writing": self.writers}

    @property
    def blocks_in_flight(self) -> int:
        """The most blocks that are in memory at a time."""
        return self.readers + self.inferrers + self.writers + 2 * self.queue


def bottleneck(busy: Mapping[str, float], threads: Mapping[str, int]) -> str:
    """The stage whose threads had the least time to wait; `busy` has the seconds of all of its threads together."""
    return max(busy, key=lambda name: busy[name] / threads[name])


def stages_of(busy: Mapping[str, float], threads: Mapping[str, int], seconds: float) -> Stages:
    """Seconds of each stage, for the report; `seconds` from the first block read to the last one written."""
    return Stages(
        seconds=round(seconds, 3),
        busy_seconds={name: round(value, 3) for name, value in busy.items()},
        threads=dict(threads),
        bottleneck=bottleneck(busy, threads),
    )


def run_pipeline(
    blocks: Iterable[Block],
    read: Callable[[Block], Read],
    infer: Callable[[Read], Inferred],
    write: Callable[[Inferred], None],
    workers: WorkerCounts,
    *,
    on_interrupt: Callable[[], bool] | None = None,
    watch: Callable[[str], None] | None = None,
) -> Stages:
    """Push every block through the three stages; returns when the last is written.

    Ctrl-C stops handing out blocks, lets those in flight be written, then is raised; a second one gives them up, and a
    third does not even wait for the threads to end.

    Args:
        blocks: handed out in order; iterated in a reader's thread.
        read, infer, write: the stages; called from several threads when `workers` says so.
        workers: threads and queue lengths.
        on_interrupt: called at the first Ctrl-C; True: it ends the blocks, so that what they still hand out is taken.
        watch: called after each block, from a writer's thread, with the stage that is slowest so far.

    Raises:
        BaseException: the first that any stage raised.
        UnsupportedError: the threads cannot be started.
    """
    pipeline, started = _Pipeline(blocks, workers, watch), time.perf_counter()
    with interruption.held_back() as interruptions:
        if interruptions():
            raise KeyboardInterrupt
        try:
            pipeline.start(read, infer, write)
        except RuntimeError as error:
            pipeline.fail(error)
            raise UnsupportedError(
                f"this machine lets no more threads start ({error}); use fewer with --threads, or raise its limit"
            ) from error
        pipeline.wait(interruptions, on_interrupt)
    return stages_of(pipeline.busy, workers.threads, time.perf_counter() - started)


class _Stopped(Exception):  # noqa: N818 (not an error: the way a stage learns that the work is over)
    """Another stage has failed, or the caller has given up."""


class _Queue:
    """A bounded queue that can end (no more items) and can be aborted (wake everybody)."""

    def __init__(self, size: int, producers: int) -> None:
        self._items: deque[Any] = deque()
        self._size = size
        self._producers = producers
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: Any) -> None:
        """Add an item, waiting until there is space."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._size or self._aborted)
            if self._aborted:
                raise _Stopped
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        """Items until every producer has finished."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or not self._producers or self._aborted)
                if self._aborted:
                    raise _Stopped
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def producer_done(self) -> None:
        """Note that one producer will put nothing more."""
        with self._changed:
            self._producers -= 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Make every waiting or later `put` and iteration raise `_Stopped`."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()


class _Pipeline:
    """The state that the threads of one run share."""

    def __init__(
        self, blocks: Iterable[Any], workers: WorkerCounts, watch: Callable[[str], None] | None
    ) -> None:
        self._blocks = iter(blocks)
        self._workers = workers
        self._watch = watch
        self._to_infer = _Queue(workers.queue, workers.readers)
        self._to_write = _Queue(workers.queue, workers.inferrers)
        self.busy = {"reading": 0.0, "inference": 0.0, "writing": 0.0}
        self._error: BaseException | None = None
        self._is_fed = True
        self._feeding = threading.Lock()
        self._changed = threading.Condition()
        self._running = workers.readers + workers.inferrers + workers.writers

    def start(self, read: Callable[..., Any], infer: Callable[..., Any], write: Callable[..., Any]) -> None:
        """Start all threads, the last stage first."""
        stages: tuple[tuple[str, Callable[[], Iterable[Any]], Callable[..., Any], _Queue | None], ...] = (
            ("writing", lambda: self._to_write, write, None),
            ("inference", lambda: self._to_infer, infer, self._to_write),
            ("reading", self._feed, read, self._to_infer),
        )
        for name, items, function, target in stages:
            for number in range(self._workers.threads[name]):
                arguments = (name, items(), function, target)
                label = f"matseg-{name}-{number}"
                threading.Thread(target=self._run, args=arguments, name=label, daemon=True).start()

    def fail(self, error: BaseException) -> None:
        """Stop all stages for an error; only the first one counts."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
        self._to_infer.abort()
        self._to_write.abort()

    def wait(self, interruptions: Callable[[], int], on_interrupt: Callable[[], bool] | None) -> None:
        """Wait for all threads, and raise what went wrong."""
        is_told = False
        while self._error is None and self._is_at_work():
            if interruptions() and not is_told:
                is_told = True
                self._is_fed = on_interrupt is not None and on_interrupt()
            if interruptions() > 1:
                self.fail(KeyboardInterrupt())
        if self._error is not None:
            self._is_fed = False
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while time.monotonic() < deadline and interruptions() < 3 and self._is_at_work():
                pass
            raise self._error
        if interruptions():
            raise KeyboardInterrupt

    def _run(
        self, name: str, items: Iterable[Any], function: Callable[..., Any], target: _Queue | None
    ) -> None:
        """One thread of a stage."""
        try:
            for item in items:
                started = time.perf_counter()
                result = function(item)
                with self._changed:
                    self.busy[name] += time.perf_counter() - started
                if target is not None:
                    target.put(result)
                elif self._watch is not None:
                    self._watch(bottleneck(self.busy, self._workers.threads))
                del item, result  # neither is to take memory while the next is waited for
            if target is not None:
                target.producer_done()
        except _Stopped:
            pass
        except BaseException as error:  # handed to the caller's thread, whatever it is
            self.fail(error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _feed(self) -> Iterator[Any]:
        """Blocks for one reader, until there are no more or none are to be handed out."""
        while True:
            with self._feeding:
                if not self._is_fed:  # set without the lock, which blocks that wait for new slices hold
                    return
                try:
                    block = next(self._blocks)
                except StopIteration:
                    return
            yield block

    def _is_at_work(self) -> bool:
        """Wait a moment, shorter when a thread ends or fails; whether any is still running."""
        with self._changed:
            if self._running:
                self._changed.wait(_STEP_SECONDS)
            return self._running > 0
