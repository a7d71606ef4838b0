"""One run: what is left to do passes through the stages, and the output is completed."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from matseg_runtime.ledger import Ledger
from matseg_runtime.measure.report import Stages
from matseg_runtime.run.finalize import (
    Summary,
    done_slices,
    finalize,
    labelled_slices,
    remove_tables,
    tables_in,
)
from matseg_runtime.run.pipeline import run_pipeline
from matseg_runtime.run.setup import Run
from matseg_runtime.run.stages import WrittenBlock, infer_piece, read_block, write_block
from matseg_runtime.sink.base import Block, Result
from matseg_runtime.source.base import Slice
from matseg_runtime.source.watch import WatchSource
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import MissingExtraError, UsageError


def label(run: Run, progress: Progress = SILENT, all_read: Callable[[], object] = lambda: None) -> Summary:
    """Label what is left to do, and complete the output when nothing is.

    Args:
        run: the open job.
        progress: told of each step.
        all_read: called when the last block is read, and a core may have nothing to do; of a run in this process.

    Raises:
        UsageError: the output is another job's, or an input has changed.
        OutputError: results cannot be written.
    """
    ledger = Ledger(run.target.ledger_folder, run.options.part)
    tables, stages = tables_in(run.sink.report_folder), None
    if run.options.finish:
        if not ledger.has_job(run.key):
            raise UsageError(f"{ledger.folder}: there is no job to finish; run it first, without --finish")
    else:
        with ledger.exclusive():
            _start(run, ledger)
            stages = _label_blocks(run, ledger, progress, all_read)
    return finalize(run, ledger, stages, tables, progress)


def _start(run: Run, ledger: Ledger) -> None:
    """Find out what is done, and make room for the rest, while no other process may start or finish."""
    with ledger.job_lock():
        ledger.take_part()
        if run.options.output.overwrite:
            remove_results(run, ledger)
        others = ledger.start(run.key)
        if ledger.is_new or (not others and ledger.locks_supported):
            run.sink.clean(is_new=ledger.is_new or not ledger.done)
        if not isinstance(run.source, WatchSource):  # whose slices are compared as they come
            _lose_what_is_gone(run, ledger, others)
        # probabilities are not kept, so what was not scored is labelled again
        for _, record in done_slices(run.source, ledger):
            if not run.options.measure.is_scored(record):
                del ledger.done[record.name]
        if any(item.name not in ledger.done for item in run.source.slices):
            run.sink.start()


def remove_results(run: Run, ledger: Ledger) -> None:
    """Delete what an earlier job has left; under the job's lock.

    Raises:
        UsageError: somebody works on it.
        OutputError: it cannot be deleted.
    """
    ledger.require_alone()
    ledger.reload()
    run.sink.remove_earlier(tuple(ledger.done))
    remove_tables(run.sink.report_folder, with_report=True)
    ledger.clear()


def _label_blocks(
    run: Run, ledger: Ledger, progress: Progress, all_read: Callable[[], object]
) -> Stages | None:
    """Pass what is left to do through the stages; None when there was nothing, or a person ended the watching."""
    recorder, source = _Recorder(run, ledger, progress), run.source
    blocks: Iterable[Block]
    if isinstance(source, WatchSource):
        blocks, count, on_interrupt = _arrivals(run, source, ledger), None, source.stop
    else:
        blocks = list(_pending_blocks(run, ledger))
        count, on_interrupt = sum(len(block.slices) for block in blocks), None
        if not blocks:
            return None
    progress.stage(_stage_name(run), count, unit="slices")
    if run.options.dask is not None:
        if importlib.util.find_spec("distributed") is None:
            raise MissingExtraError("dask", "--dask")
        from matseg_runtime.run.dask import label_on_dask

        return label_on_dask(run, blocks, recorder.record, progress, run.options.dask)
    try:
        return run_pipeline(
            _until_read(blocks, all_read),
            read=partial(read_block, run),
            infer=partial(infer_piece, run),
            write=recorder.write,
            workers=run.plan.workers,
            on_interrupt=on_interrupt,
            watch=lambda stage: progress.note(f"{stage} is slowest"),
        )
    except KeyboardInterrupt:
        if on_interrupt is None:
            raise
        return None  # Ctrl-C is how watching ends


def _until_read(blocks: Iterable[Block], all_read: Callable[[], object]) -> Iterator[Block]:
    yield from blocks
    all_read()


def _stage_name(run: Run) -> str:
    if run.options.consensus is None or run.source.volume is None:
        return "labelling"
    deciding = " and deciding" if run.votes else ""
    return f"labelling along axis {run.source.volume.axis}{deciding}" if run.probabilities else "deciding"


def _pending_blocks(run: Run, ledger: Ledger) -> Iterator[Block]:
    """Blocks of this process's part with something left to do, in order."""
    depth = run.plan.depth
    for number, start in enumerate(range(0, len(run.source.slices), depth)):
        slices = tuple(run.source.slices[start : start + depth])
        missing = tuple(item for item in slices if item.name not in ledger.done)
        if missing and run.options.part.owns(number):
            yield Block(number=number, slices=slices if run.sink.whole_units else missing)


class _Recorder:
    """Puts into the ledger what has become of blocks; several threads may use it at a time."""

    def __init__(self, run: Run, ledger: Ledger, progress: Progress) -> None:
        self._ledger = ledger
        self._run = run
        self._progress = progress
        self._lock = threading.Lock()
        self._has_tables = bool(tables_in(run.sink.report_folder))  # none come while a part is at work

    def write(self, block: Block, labelled: Sequence[Sequence[Result]]) -> None:
        """Write a block: the last stage of the pipeline."""
        self.record(write_block(self._run, block, labelled))
        self._progress.advance(len(block.slices))

    def record(self, written: WrittenBlock) -> None:
        """Tables that an earlier run made go before the first slice that they know nothing of."""
        with self._lock:
            if self._has_tables and self._ledger.unknown(written.done):
                remove_tables(self._run.sink.report_folder)
                self._has_tables = False
        self._ledger.append(written.done, written.excluded)


def _arrivals(run: Run, source: WatchSource, ledger: Ledger) -> Iterator[Block]:
    """Slices whose label is not there, or not that of their file as it is now; that label is withdrawn."""

    def outcome(item: Slice) -> str | None:
        record = ledger.done.get(item.name)
        return record.identity if record is not None else ("" if item.name in ledger.excluded else None)

    for item in source.arrivals(outcome):
        record = ledger.done.get(item.name)
        if record is not None:
            is_same = record.identity == item.identity and not (
                run.neighbours is not None and run.neighbours.are_others(record, item)
            )
            if is_same and not run.sink.lost([record]):
                continue
            run.sink.withdraw(record)
        ledger.withdraw(item.name)
        yield Block(number=item.index, slices=(item,))


def done_before(run: Run) -> set[str]:
    """Names of the slices that a run would not label again."""
    ledger = Ledger(run.target.ledger_folder, run.options.part)
    if not ledger.has_job(run.key):  # blocks without a job count for nothing
        return set()
    ledger.reload()
    _refuse_changed(run, ledger)
    records = labelled_slices(run.source, ledger)
    lost = {*run.sink.lost(records), *_seen_with_others(run, ledger)}
    return {item.name for item in records if item.name not in lost and run.options.measure.is_scored(item)}


def _lose_what_is_gone(run: Run, ledger: Ledger, others: list[str]) -> None:
    """Do again what somebody deleted; refuse inputs that changed after they were labelled."""
    _refuse_changed(run, ledger)
    lost = run.sink.lost([record for _, record in done_slices(run.source, ledger)])
    ledger.lose(_seen_with_others(run, ledger))
    if lost and others and run.target.is_volume:
        raise UsageError(
            f"{run.sink.path}: {len(lost)} slices that were labelled are gone from it, while other processes work on "
            f"it ({', '.join(others)}); stop them, then run again"
        )
    ledger.lose(lost)


def _seen_with_others(run: Run, ledger: Ledger) -> list[str]:
    """Names of labelled images that have other neighbours now, as the last one has when more have come."""
    if run.neighbours is None:
        return []
    done = done_slices(run.source, ledger)
    return [item.name for item, record in done if run.neighbours.are_others(record, item)]


def _refuse_changed(run: Run, ledger: Ledger) -> None:
    for item, record in done_slices(run.source, ledger):
        if record.identity != item.identity:
            raise UsageError(
                f"{item.where}: has changed since it was labelled (then {record.identity}, now {item.identity}); label "
                "everything again with --overwrite, or choose another output with -o"
            )
