"""One run of matseg-run, from the options to the summary."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from matseg_runtime.ledger import Ledger, read_key, require_equal
from matseg_runtime.measure.phase_fractions import DRIFT_WARNING, phase_fractions
from matseg_runtime.records import ExcludedSlice, SliceRecord
from matseg_runtime.run.finalize import complete, labelled_slices, settled
from matseg_runtime.run.leave import leave_page
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.pipeline import StageTimes, run_pipeline
from matseg_runtime.run.plan import pending_units
from matseg_runtime.run.setup import Job, now, open_input, prepare_job
from matseg_runtime.run.stages import Record
from matseg_runtime.run.stock import remove_account, remove_tables, tables_in, take_stock
from matseg_runtime.run.summary import Summary, clipping_warning, difference_warning, drift_warning
from matseg_runtime.sink.base import Block
from matseg_runtime.source.base import Slice, Source
from matseg_runtime.source.open import open_source
from matseg_runtime.source.watch import WatchSource
from matseg_runtime.units import choose_voxel_size, oblong_warning, voxel_of_model
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import ImageError, MissingExtraError, OutputError, UsageError


def run_job(options: RunOptions, progress: Progress = SILENT) -> Summary:
    """Segment an input; goes on where an earlier run of the same job stopped.

    Args:
        options: what the user asked for.
        progress: told of stages and slices.

    Raises:
        UsageError: the input, the output or an option does not fit; nothing was written.
        ModelError: the model file cannot be used.
        UnsupportedError: this machine cannot run it.
        OutputError: results cannot be written; the same command goes on once that is mended.
    """
    _refuse_combinations(options)
    progress.stage("opening the input and the model")
    with closing(open_input(options)) as source:
        if isinstance(source, WatchSource):
            source.wait_for_first()
        job = prepare_job(options, source)
        return _run(job, progress)


def plan_job(options: RunOptions) -> list[str]:
    """What `run_job` would do, for a person, or why it would not; writes nothing.

    Raises:
        MatsegError: as `run_job` does before it labels anything.
    """
    _refuse_combinations(options)
    with closing(open_source(options.input, options.source)) as source:
        job = prepare_job(options, source)
        done = 0 if options.output.overwrite else len(_done_before(job))
        lines = [
            f"input: {source.location} ({source.identity.kind})",
            f"output: {job.place.path} ({job.place.format})",
            f"model: {job.key.model_name} on {job.session.provider} ({job.session.reason}), "
            f"{job.session.threads} thread(s) per stream",
            *job.plan.lines(len(source.slices)),
            *(f"warning: {text}" for text in (*job.warnings, *source.warnings())),
        ]
        return [*lines, f"done before: {done} of {len(source.slices)} slices"] if done else lines


def _run(job: Job, progress: Progress) -> Summary:
    ledger = Ledger(job.place.ledger_folder, job.options.part)
    times, before = None, _identities(ledger)
    tables = tables_in(job.sink.report_folder)
    if job.options.finish:
        ledger.require_job(job.key)
        ledger.reload()
        before = _identities(ledger)
    else:
        replace = partial(_replace, job) if job.options.output.overwrite else None
        ledger.open(job.key, lambda others: _begin(job, ledger, others), replace)
        with closing(ledger):
            before = _identities(ledger)
            times = _process(job, ledger, progress)
    progress.stage("completing the output")
    summary = _summary(job, ledger, before, times)
    summary = complete(
        summary,
        job.sink,
        ledger,
        job.session.model.metadata,
        job.source,
        lambda so_far, records: take_stock(job, so_far, records, progress, tables),
    )
    if job.options.finish and not summary.is_final:
        left = summary.slices - summary.labelled_before - len(summary.excluded)
        with ledger.job_lock():
            parts = ledger.busy_parts()
        busy = f" by {len(parts)} running parts" if parts else ""
        raise OutputError(
            f"{job.sink.path}: cannot be finished: {left} of {summary.slices} slices are not labelled yet{busy}; run "
            "the parts that are missing again"
        )
    if summary.is_final:
        progress.stage("making the report")
        with ledger.job_lock():  # who starts now would take half a page for what a killed process left
            summary = leave_page(job, summary)
    return summary


def _process(job: Job, ledger: Ledger, progress: Progress) -> StageTimes | None:
    if isinstance(job.source, WatchSource):
        progress.stage("labelling", unit="slices")
        return _run_watching(job, job.source, ledger, progress)
    units = list(pending_units(job.source, job.sink, ledger.done, job.plan.unit, job.options.part))
    if not units:
        return None
    progress.stage("labelling", sum(len(unit.slices) for unit in units), unit="slices")
    if job.options.dask is not None:
        return _on_dask(job, ledger, units, progress, job.options.dask)
    work = job.work(progress.advance, _recorder(job, ledger))
    return run_pipeline(
        units, work.read, work.infer, work.write, job.plan.workers, watch=_tell_bottleneck(progress)
    )


def _recorder(job: Job, ledger: Ledger) -> Record:
    """Tables that an earlier run made go before the first slice that they know nothing of."""

    def record(done: Sequence[SliceRecord], excluded: Sequence[ExcludedSlice]) -> None:
        before = (ledger.done.get(item.name) for item in done)
        if any(old is None or old.identity != new.identity for old, new in zip(before, done, strict=True)):
            remove_tables(job.sink.report_folder)
        ledger.append(done, excluded)

    return record


def _tell_bottleneck(progress: Progress) -> Callable[[StageTimes], None]:
    return lambda times: progress.note(f"{times.bottleneck} is slowest")


def _run_watching(job: Job, source: WatchSource, ledger: Ledger, progress: Progress) -> StageTimes | None:
    """Label slices as they come; Ctrl-C is a proper end here."""
    work = job.work(progress.advance, _recorder(job, ledger))

    def outcome(item: Slice) -> str | None:
        record = ledger.done.get(item.name)
        return record.identity if record is not None else ("" if item.name in ledger.excluded else None)

    units = (
        Block(number=item.index, slices=(item,))
        for item in source.arrivals(outcome)
        if not _is_done(item, job, ledger)
    )
    try:
        return run_pipeline(
            units, work.read, work.infer, work.write, job.plan.workers, on_interrupt=source.stop
        )
    except KeyboardInterrupt:
        return None


def _is_done(item: Slice, job: Job, ledger: Ledger) -> bool:
    """Whether the label of a slice is there, and is that of its file as it is now; else it counts as not labelled."""
    record = ledger.done.get(item.name)
    if record is not None and record.identity == item.identity and not job.sink.lost([record]):
        return True
    if record is not None:
        job.sink.withdraw(record)
    ledger.withdraw(item.name)
    return False


def _on_dask(job: Job, ledger: Ledger, units: list[Block], progress: Progress, address: str) -> StageTimes:
    if importlib.util.find_spec("distributed") is None:
        raise MissingExtraError("dask", "--dask")
    from matseg_runtime.run.dask import run_units_on_dask

    return run_units_on_dask(job, _recorder(job, ledger), units, progress, address)


def _begin(job: Job, ledger: Ledger, others: Sequence[str]) -> None:
    """Under the ledger's lock: find out what is done, and make room for the rest; `others` are parts at work."""
    if ledger.is_new or (not others and ledger.locks_supported):
        job.sink.clean(is_new=ledger.is_new or not ledger.done)
    if not isinstance(
        job.source, WatchSource
    ):  # one that is watched is looked at slice by slice, as they come
        _lose_what_is_gone(job, ledger, others)
    _forget_unscored(job, ledger)
    if any(item.name not in ledger.done for item in job.source.slices):
        job.sink.start()


def _replace(job: Job, names: tuple[str, ...]) -> None:
    """The labels of an earlier job, and what it says of them."""
    job.sink.remove_earlier(names)
    remove_account(job.sink.report_folder)


def _done_before(job: Job) -> set[str]:
    """Names of the slices that a run would not label again."""
    ledger = Ledger(job.place.ledger_folder, job.options.part)
    earlier = read_key(ledger.folder)
    if earlier is None:  # units without a job count for nothing
        return set()
    require_equal(ledger.folder, earlier, job.key)
    ledger.reload()
    records = labelled_slices(job.source, ledger)
    for item in job.source.slices:
        if item.name in ledger.done:
            _refuse_changed(item, ledger.done[item.name])
    lost = set(job.sink.lost(records))
    return {item.name for item in records if item.name not in lost and job.measurer.wanted.is_scored(item)}


def _identities(ledger: Ledger) -> dict[str, str]:
    """Name of each slice that is done to that of the file it was read from."""
    return {name: record.identity for name, record in ledger.done.items()}


def _summary(job: Job, ledger: Ledger, before: dict[str, str], times: StageTimes | None) -> Summary:
    ledger.reload()
    slices = job.source.slices
    records = labelled_slices(job.source, ledger)
    new = [
        record
        for record in records
        if record.name in ledger.appended and before.get(record.name) != record.identity
    ]
    metadata = job.session.model.metadata
    voxel, voxel_warning = choose_voxel_size(
        job.options.voxel, job.source.voxel_size(), voxel_of_model(metadata.pixel_size)
    )
    warnings = [
        *job.warnings,
        voxel_warning,
        oblong_warning(voxel),
        clipping_warning(records),
        *job.source.warnings(),
        metadata.precision_warning(job.session.provider),
        difference_warning(job.self_test),
        drift_warning(records, DRIFT_WARNING),
        _lock_warning(ledger),
        _idle_parts_warning(job),
        _new_files_warning(job.source),
        _changed_warning(job.source, ledger),
    ]
    return Summary(
        key=job.key,
        model=job.options.model,
        proofs=job.session.model.proofs,
        input=job.options.input,
        output=job.sink.path,
        provider=job.session.provider,
        provider_reason=job.session.reason,
        self_test=job.self_test,
        threads=job.session.threads * job.plan.workers.inferrers,
        started=job.started,
        finished=now(),
        slices=len(slices),
        labelled=len(new),
        labelled_before=len(records) - len(new),
        pixels=sum(record.shape[0] * record.shape[1] for record in new),
        constant=sum(record.constant for record in new),
        clipped=sum(record.clipped for record in new),
        excluded=tuple(ledger.excluded[item.name] for item in slices if item.name in ledger.excluded),
        skipped=job.source.skipped,
        fractions=phase_fractions(records, metadata),
        times=times,
        is_final=settled(job.source, ledger),
        part=job.options.part,
        voxel=voxel,
        costs=None if job.measurer.wanted.nothing or job.options.dask is not None else job.measurer.costs,
        warnings=tuple(text for text in warnings if text is not None),
    )


def _refuse_combinations(options: RunOptions) -> None:
    """Name options that exclude each other."""
    chosen = {
        "--watch": options.watch is not None,
        "--dask": options.dask is not None,
        "--part": options.part.total > 1,
        "--finish": options.finish,
        "--overwrite": options.output.overwrite,
    }
    for first, second in (
        ("--watch", "--dask"),
        ("--watch", "--part"),
        ("--watch", "--finish"),
        ("--dask", "--part"),
        ("--overwrite", "--finish"),
    ):
        if chosen[first] and chosen[second]:
            raise UsageError(f"{first} and {second} cannot be combined; leave one of them out")


def _lose_what_is_gone(job: Job, ledger: Ledger, others: Sequence[str]) -> None:
    """Do again what somebody deleted; refuse inputs that changed after they were labelled."""
    records = [ledger.done[item.name] for item in job.source.slices if item.name in ledger.done]
    for item in job.source.slices:
        if item.name in ledger.done:
            _refuse_changed(item, ledger.done[item.name])
    lost = job.sink.lost(records)
    if lost and others and job.place.is_volume:
        raise UsageError(
            f"{job.sink.path}: {len(lost)} slices that were labelled are gone from it, while other processes work on "
            f"it ({', '.join(others)}); stop them, then run again"
        )
    ledger.lose(lost)


def _forget_unscored(job: Job, ledger: Ledger) -> None:
    """Label again what was labelled without finding out how uncertain it is: probabilities are not kept."""
    for item in job.source.slices:
        record = ledger.done.get(item.name)
        if record is not None and not job.measurer.wanted.is_scored(record):
            ledger.forget(item.name)


def _refuse_changed(item: Slice, record: SliceRecord) -> None:
    if record.identity != item.identity:
        raise UsageError(
            f"{item.where}: has changed since it was labelled (then {record.identity}, now {item.identity}); label "
            "everything again with --overwrite, or choose another output with -o"
        )


def _lock_warning(ledger: Ledger) -> str | None:
    if ledger.locks_supported:
        return None
    return (
        f"{ledger.folder}: this disk knows no file locks; see to it yourself that no two runs share an output"
    )


def _new_files_warning(source: Source) -> str | None:
    found = source.new_files()
    if not found:
        return None
    return (
        f"{len(found)} images, {found[0].name} first, have come since the start; run again to label them, too"
    )


def _idle_parts_warning(job: Job) -> str | None:
    """That parts have nothing to do because there are more of them than units."""
    slices, unit, part = len(job.source.slices), job.plan.unit, job.options.part
    units = -(-slices // unit)
    if part.total <= max(units, 1):
        return None
    has = "part has" if units == 1 else "parts have"
    at_a_time = f"{slices} slices are written {unit} at a time to {job.place.path}"
    return f"only {units} of the {part.total} {has} work: {at_a_time}"


def _changed_warning(source: Source, ledger: Ledger) -> str | None:
    """Files that were written again after they were read, and before the run was over."""
    changed = [
        item.where
        for item in source.slices
        if (record := ledger.done.get(item.name)) is not None and _has_changed(source, item.index, record)
    ]
    if not changed:
        return None
    return (
        f"{len(changed)} images, {changed[0]} first, have changed since they were labelled; their labels are those of "
        "the earlier content"
    )


def _has_changed(source: Source, index: int, record: SliceRecord) -> bool:
    try:
        return source.current_identity(index) != record.identity
    except ImageError:
        return False  # gone: there is nothing that its label could disagree with
