"""Three stages side by side: read, infer, write.

```
 blocks ─> readers ─[pieces]─> inferrers ─[whole blocks]─> writers ─[room for another block]─> readers
```

Each stage has its own threads. A block is read and written as a whole; in between, whoever is free takes the next piece
of it, so that nobody is idle while there is one. So many blocks have room, and a written one gives up its own, so that
memory stays bounded whatever is slow. The first error of any thread stops all stages and is raised in the caller's
thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from matseg_runtime.measure.report import Stages
from matseg_shared.errors import UnsupportedError
from matseg_shared.system import interruption

Block = TypeVar("Block")
Piece = TypeVar("Piece")
Inferred = TypeVar("Inferred")

_PATIENCE_SECONDS = 10.0
"""Time in which a stage must notice that another has failed before its thread is left behind."""
_STEP_SECONDS = 0.1
"""Time that Ctrl-C may go unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """Threads of each stage, and how many blocks may be in memory."""

    readers: int = 1
    inferrers: int = 1
    writers: int = 1
    blocks: int = 3
    """The most at a time; with one for each thread, none has to wait for another as long as all are as fast."""

    @property
    def threads(self) -> dict[str, int]:
        """Threads by the name of their stage."""
        return {"reading": self.readers, "inference": self.inferrers, "writing": self.writers}


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
    read: Callable[[Block], Sequence[Piece]],
    infer: Callable[[Piece], Inferred],
    write: Callable[[Block, Sequence[Inferred]], None],
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
        read: gives the pieces of a block, one at least.
        infer: called with each piece.
        write: called with a block and what became of its pieces, in their order.
        workers: threads of each stage; those of several are called from several threads.
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


@dataclass(slots=True, eq=False)
class _Unit:
    """A block between the first stage and the last."""

    block: Any
    inferred: list[Any]
    """By the number of the piece."""
    left: int
    """Pieces that are still to infer."""


class _Pipeline:
    """The state that the threads of one run share."""

    def __init__(
        self, blocks: Iterable[Any], workers: WorkerCounts, watch: Callable[[str], None] | None
    ) -> None:
        self._blocks = iter(blocks)
        self._workers = workers
        self._watch = watch
        self._room = threading.Semaphore(workers.blocks)
        self._queues: dict[str, SimpleQueue[Any]] = {"inference": SimpleQueue(), "writing": SimpleQueue()}
        """That each stage takes from; they end with a None for each of its threads."""
        self.busy = {"reading": 0.0, "inference": 0.0, "writing": 0.0}
        self._error: BaseException | None = None
        self._is_fed = True
        self._feeding = threading.Lock()
        self._changed = threading.Condition()
        self._running = dict(workers.threads)

    def start(
        self,
        read: Callable[[Any], Sequence[Any]],
        infer: Callable[[Any], Any],
        write: Callable[[Any, Sequence[Any]], None],
    ) -> None:
        """Start all threads, the last stage first."""
        work: dict[str, Callable[[], None]] = {
            "writing": partial(self._write, write),
            "inference": partial(self._infer, infer),
            "reading": partial(self._read, read),
        }
        for name, function in work.items():
            for number in range(self._workers.threads[name]):
                label = f"matseg-{name}-{number}"
                threading.Thread(target=self._run, args=(name, function), name=label, daemon=True).start()

    def fail(self, error: BaseException) -> None:
        """Stop all stages for an error; only the first one counts."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
        self._is_fed = False
        self._room.release()
        for stage in self._queues:
            self._end(stage)

    def wait(self, interruptions: Callable[[], int], on_interrupt: Callable[[], bool] | None) -> None:
        """Wait for all threads, and raise what went wrong."""
        is_told = False
        while self._error is None and self._is_at_work():
            if interruptions() and not is_told:
                is_told = True
                if on_interrupt is None or not on_interrupt():
                    self._is_fed = False
            if interruptions() > 1:
                self.fail(KeyboardInterrupt())
        if self._error is not None:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while time.monotonic() < deadline and interruptions() < 3 and self._is_at_work():
                pass
            raise self._error
        if interruptions():
            raise KeyboardInterrupt

    def _run(self, stage: str, work: Callable[[], None]) -> None:
        """One thread of a stage; the last one lets the stage behind it end."""
        try:
            work()
        except BaseException as error:  # handed to the caller's thread, whatever it is
            self.fail(error)
        finally:
            with self._changed:
                self._running[stage] -= 1
                is_last = not self._running[stage]
                self._changed.notify_all()
            if is_last and stage != "writing":
                self._end("inference" if stage == "reading" else "writing")

    def _end(self, stage: str) -> None:
        """Let the threads of a stage end when they have taken what is there; at once where something has failed."""
        for _ in range(self._workers.threads[stage]):
            self._queues[stage].put(None)

    def _next(self, stage: str) -> Any:
        """The next item for a stage; None where there will be no more, or something has failed."""
        item = self._queues[stage].get()
        return item if self._error is None else None

    def _read(self, read: Callable[[Any], Sequence[Any]]) -> None:
        for block in self._feed():
            with self._timed("reading"):
                pieces = read(block)
            unit = _Unit(block, [None] * len(pieces), len(pieces))
            for number, piece in enumerate(pieces):
                self._queues["inference"].put((unit, number, piece))
            del pieces, unit, piece  # they are not to take memory while the next block is waited for

    def _infer(self, infer: Callable[[Any], Any]) -> None:
        while (item := self._next("inference")) is not None:
            unit, number, piece = item
            with self._timed("inference"):
                unit.inferred[number] = infer(piece)
            with self._changed:
                unit.left -= 1
                is_whole = not unit.left
            if is_whole:
                self._queues["writing"].put(unit)
            del unit, piece, item

    def _write(self, write: Callable[[Any, Sequence[Any]], None]) -> None:
        while (unit := self._next("writing")) is not None:
            with self._timed("writing"):
                write(unit.block, unit.inferred)
            del unit
            self._room.release()
            if self._watch is not None:
                self._watch(bottleneck(self.busy, self._workers.threads))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        with self._changed:
            self.busy[stage] += time.perf_counter() - started

    def _feed(self) -> Iterator[Any]:
        """Blocks for one reader, until there are no more or none are to be handed out."""
        while self._room.acquire():
            with self._feeding:
                try:
                    if not self._is_fed:  # set without the lock, which blocks that wait for new slices hold
                        break
                    block = next(self._blocks)
                except StopIteration:
                    break
            yield block
        self._room.release()  # another reader may be waiting for it, to find the same

    def _is_at_work(self) -> bool:
        """Wait a moment, shorter when a thread ends or fails; whether any is still running."""
        with self._changed:
            if any(self._running.values()):
                self._changed.wait(_STEP_SECONDS)
            return any(self._running.values())
