"""Blocks as tasks of a dask.distributed cluster: elastic, and indifferent to workers that come and go.

The process that submits keeps the ledger; a worker writes a block's bytes and reports what to record. A task that runs
twice, because its worker was lost after it had written, writes the same bytes again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import distributed

from matseg_runtime.measure.report import Stages
from matseg_runtime.records import ExcludedSlice, JobKey
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.pipeline import stages_of
from matseg_runtime.run.plan import Plan
from matseg_runtime.run.setup import Run, worker_run
from matseg_runtime.run.stages import WrittenBlock, excluded, infer_piece, read_block, write_block
from matseg_runtime.sink.base import Block
from matseg_runtime.source.base import Source
from matseg_runtime.source.open import absolute_location
from matseg_shared.console.progress import Progress
from matseg_shared.errors import UnsupportedError
from matseg_shared.system import interruption

_RETRIES = 3
_CONNECT_SECONDS = 10
_LOOK_SECONDS = 2.0
_AHEAD = 3
"""Blocks submitted per worker thread: enough to keep it busy, few enough to lose little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReport:
    """Report of a worker on one block."""

    slices: int
    written: WrittenBlock
    seconds: tuple[float, float, float]
    """Reading, inference, writing."""


class RunPlugin(distributed.WorkerPlugin):
    """One open run per worker, whatever number of threads it has; workers that join later get it too."""

    def __init__(self, options: RunOptions, plan: Plan, key: JobKey) -> None:
        self._job = (options, plan, key)
        self._lock = threading.Lock()
        self._run: Run | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RunPlugin, self._job

    def run(self, threads: int) -> Run:
        """The run, opened by the first task that asks."""
        with self._lock:
            if self._run is None:
                self._run = worker_run(*self._job, threads)
            return self._run

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 (the name is distributed's)
        """Close the input, and its mask."""
        if self._run is not None:
            self._run.source.close()
            if self._run.transform.no_data is not None:
                self._run.transform.no_data.close()
        self._run = None


def label_on_dask(
    run: Run,
    blocks: Iterable[Block],
    record: Callable[[WrittenBlock], None],
    progress: Progress,
    address: str,
) -> Stages:
    """Label blocks on the workers of a cluster, and hand to `record` what each has become.

    Args:
        address: of the scheduler, such as `tcp://host:8786`, or the path of its scheduler file (.json).

    Raises:
        UnsupportedError: the scheduler cannot be reached, or is lost.
        MatsegError: what a block raised, after its retries.
    """
    started = time.perf_counter()
    totals = [0.0, 0.0, 0.0]
    with _client(address) as client:
        threads = max(1, sum(client.nthreads().values()))
        with _scheduler_losses(client, address), _waits_told(client, progress):
            for report in _reports(client, run, blocks, threads):
                interruption.check()
                record(report.written)
                totals = [total + seconds for total, seconds in zip(totals, report.seconds, strict=True)]
                progress.advance(report.slices)
    stages = ("reading", "inference", "writing")
    busy, seconds = dict(zip(stages, totals, strict=True)), time.perf_counter() - started
    return stages_of(busy, dict.fromkeys(stages, threads), seconds)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        client = distributed.Client(**where, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnsupportedError(
            f"--dask {address}: no scheduler answers there ({error}); start one with `dask scheduler` and workers with "
            "`dask worker`, or label on this machine without --dask"
        ) from error
    # what distributed logs of a lost connection are tracebacks; we say the same in a sentence
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with client:
            yield client
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _scheduler_losses(client: Any, address: str) -> Iterator[None]:
    """Name the loss of the scheduler, which shows as one of many errors in whatever was asked of it last."""
    try:
        yield
    except (OSError, TimeoutError, CancelledError, asyncio.CancelledError) as error:
        if not _is_lost(client):
            raise
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(
            f"--dask {address}: the scheduler is gone ({told}); what was labelled is safe: "
            "start it again, then run the same command again"
        ) from error


def _is_lost(client: Any) -> bool:
    """Asks what distributed does not publish: its own `status` may be told late."""
    comm = client.scheduler_comm
    return client.status != "running" or comm is None or bool(comm.comm.closed())


@contextmanager
def _waits_told(client: Any, progress: Progress) -> Iterator[None]:
    """Say so while there is no worker: a cluster may be about to get some, so that is no failure."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            try:
                alone = not client.nthreads()
            except Exception:  # the connection is lost, which the main thread is about to find out
                return
            if alone:
                progress.note("no dask worker is there: waiting for one")
                progress.advance(0)

    watcher = threading.Thread(target=look, name="matseg-dask-workers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()


def _reports(client: Any, run: Run, blocks: Iterable[Block], threads: int) -> Iterator[BlockReport]:
    """Submit a few blocks ahead of those that are finished, and hand out reports as they come."""
    job = (absolute(run.options), run.plan, run.key)
    name = f"matseg-{hashlib.sha256(repr(job).encode()).hexdigest()[:16]}"
    client.register_plugin(RunPlugin(*job), name=name)
    waiting = iter(blocks)

    def submit(block: Block) -> Any:
        return client.submit(process_block, name, block, retries=_RETRIES, pure=False)

    try:
        running = distributed.as_completed(
            [submit(block) for block in itertools.islice(waiting, threads * _AHEAD)], loop=client.loop
        )
        for future in running:
            yield future.result()
            future.release()
            block = next(waiting, None)
            if block is not None:
                running.add(submit(block))
    except distributed.KilledWorker as error:
        raise UnsupportedError(
            "one block has cost several dask workers their life, most likely for lack of memory; give the workers "
            f"more, or smaller --tile and --memory ({error})"
        ) from error
    finally:
        if not _is_lost(client):
            client.unregister_worker_plugin(name)


def process_block(plugin: str, block: Block) -> BlockReport:
    """Read, infer and write one block; runs on a worker that has the plugin of that name."""
    worker = distributed.get_worker()
    holder = worker.plugins[plugin]
    assert isinstance(holder, RunPlugin)
    run = holder.run(worker.state.nthreads)
    block, gone = own_block(run.source, block)
    times = [time.perf_counter()]
    pieces = read_block(run, block)
    times.append(time.perf_counter())
    labelled = [infer_piece(run, piece) for piece in pieces]
    times.append(time.perf_counter())
    written = write_block(run, block, labelled)
    times.append(time.perf_counter())
    return BlockReport(
        slices=len(block.slices) + len(gone),
        written=dataclasses.replace(written, excluded=(*gone, *written.excluded)),
        seconds=(times[1] - times[0], times[2] - times[1], times[3] - times[2]),
    )


def own_block(source: Source, block: Block) -> tuple[Block, tuple[ExcludedSlice, ...]]:
    """A client's block with the places that its slices have here, and those of its slices that are gone.

    A worker lists a folder later than the client, so images may have come since, or gone.
    """
    places = source.slices
    if all(item.index < len(places) and places[item.index].name == item.name for item in block.slices):
        return block, ()
    index = {item.name: item.index for item in places}
    found = tuple(
        dataclasses.replace(item, index=index[item.name]) for item in block.slices if item.name in index
    )
    gone = tuple(
        excluded(item, f"{item.where}: cannot be read: it is no longer there")
        for item in block.slices
        if item.name not in index
    )
    return dataclasses.replace(block, slices=found), gone


def absolute(options: RunOptions) -> RunOptions:
    """The same options for a worker that runs in another folder."""
    output, no_data = options.output, options.no_data
    return dataclasses.replace(
        options,
        model=options.model.absolute(),
        trust=None,  # lists are this machine's; a worker takes the very bytes that were proved here
        input=absolute_location(options.input),
        output=dataclasses.replace(
            output,
            path=None if output.path is None else output.path.absolute(),
            disagreement=None if output.disagreement is None else output.disagreement.absolute(),
        ),
        no_data=dataclasses.replace(
            no_data, mask=None if no_data.mask is None else absolute_location(no_data.mask)
        ),
    )
