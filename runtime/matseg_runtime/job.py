"""One run of matseg-run, from the options to the summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime

from matseg_runtime.finish import complete, settled
from matseg_runtime.intake import Intake
from matseg_runtime.ledger import JobKey, Ledger, read_key
from matseg_runtime.machine import available_cpus
from matseg_runtime.options import RunOptions
from matseg_runtime.output import Place, choose_place, label_volume, make_sink
from matseg_runtime.pipeline import StageTimes, run_pipeline
from matseg_runtime.plan import LARGEST_STREAMS, Plan, Planner, Wishes, pending_units
from matseg_runtime.probe import probe
from matseg_runtime.progress import Advance
from matseg_runtime.quantities import DRIFT_WARNING, phase_fractions
from matseg_runtime.report import Summary, drift_warning, provenance_text
from matseg_runtime.session import Session
from matseg_runtime.sink.base import Sink, Unit
from matseg_runtime.source import open_source
from matseg_runtime.source.base import Source
from matseg_runtime.work import Record, Work
from matseg_shared.errors import ImageError, OutputError, UsageError

ProgressFactory = Callable[[int], AbstractContextManager[Advance]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """Everything that is decided and open while a job runs; `prepare_job` makes it."""

    options: RunOptions
    source: Source
    session: Session
    plan: Plan
    key: JobKey
    place: Place
    sink: Sink
    started: str

    def work(self, advance: Advance, record: Record) -> Work:
        """The stages of the pipeline."""
        volume = label_volume(self.source, self.plan.shape) if self.place.is_volume else None
        return Work(
            source=self.source,
            intake=Intake(info=self.session.model.metadata.input, window=self.options.window),
            session=self.session,
            plan=self.plan,
            sink=self.sink,
            record=record,
            probabilities=self.options.output.probabilities,
            slice_shape=None if volume is None else volume.slice_shape,
            advance=advance,
        )


def run_job(options: RunOptions, progress: ProgressFactory) -> Summary:
    """Segment an input; goes on where an earlier run of the same job stopped.

    Args:
        options: what the user asked for.
        progress: given the number of slices to do, opens a display of them.

    Raises:
        UsageError: the input, the output or an option does not fit; nothing was written.
        ModelError: the model file cannot be used.
        UnsupportedError: this machine cannot run it.
        OutputError: results cannot be written; the same command goes on once that is mended.
    """
    with closing(open_source(options.input, options.source)) as source:
        job = prepare_job(options, source)
        return _run(job, progress)


def plan_job(options: RunOptions) -> list[str]:
    """What `run_job` would do, for a person; writes nothing."""
    with closing(open_source(options.input, options.source)) as source:
        job = prepare_job(options, source)
        done = 0 if options.output.overwrite else len(_done_before(job))
        lines = [
            f"input: {source.location} ({source.identity.kind})",
            f"output: {job.place.path} ({job.place.format})",
            f"model: {job.key.model_name} on {job.session.provider} ({job.session.reason}), "
            f"{job.session.threads} thread(s) per stream",
            *job.plan.lines(len(source.slices)),
        ]
        return [*lines, f"done before: {done} of {len(source.slices)} slices"] if done else lines


def prepare_job(options: RunOptions, source: Source) -> Job:
    """Check everything and decide everything; writes nothing."""
    started = _now()
    session = _open_session(options, _streams(options))
    metadata = session.model.metadata
    place = choose_place(source, options.output, metadata)
    session.require_self_test()
    shape = _check_first_slice(source, Intake(info=metadata.input, window=options.window))
    earlier = None if options.output.overwrite else read_key(place.ledger_folder)
    plan = Planner(
        source=source,
        metadata=metadata,
        shape=shape,
        probe=probe(session, shape),
        wishes=_wishes(options, place, earlier),
        streams=_streams(options) if session.provider == "cpu" else 1,
        on_cpu=session.provider == "cpu",
    ).plan()
    if session.provider == "cpu" and plan.crew.inferrers < _streams(options):
        session = _open_session(options, plan.crew.inferrers)
    key = _key(options, source, session, plan, place)
    sink = make_sink(
        place, options.output, metadata, provenance_text(key), label_volume(source, shape), plan.unit
    )
    sink.check_place(overwrite=options.output.overwrite)
    return Job(
        options=options,
        source=source,
        session=session,
        plan=plan,
        key=key,
        place=place,
        sink=sink,
        started=started,
    )


def _run(job: Job, progress: ProgressFactory) -> Summary:
    ledger = Ledger(job.place.ledger_folder, job.options.part)
    if job.options.output.overwrite:
        _remove_earlier(job, ledger)
    times, before = None, set(ledger.done)
    if job.options.finish:
        ledger.require_job(job.key)
        before = _done_before(job)
    else:
        ledger.open(job.key, lambda: _begin(job, ledger))
        with closing(ledger):
            before = set(ledger.done)
            units = list(pending_units(job.source, job.sink, ledger.done, job.plan.unit, job.options.part))
            times = _process(job, ledger, units, progress)
    summary = _summary(job, ledger, before, times)
    summary = complete(summary, job.sink, ledger, job.session.model.metadata, job.source)
    if job.options.finish and not summary.is_final:
        left = summary.slices - summary.labelled_before - len(summary.set_aside)
        busy = f" by {len(ledger.busy_parts())} running parts" if ledger.busy_parts() else ""
        raise OutputError(
            f"{job.sink.path}: cannot be finished: {left} of {summary.slices} slices are not labelled yet{busy}; run "
            "the parts that are missing again"
        )
    return summary


def _process(job: Job, ledger: Ledger, units: Sequence[Unit], progress: ProgressFactory) -> StageTimes | None:
    if not units:
        return None
    with progress(sum(len(unit.slices) for unit in units)) as advance:
        return run_units(job, ledger, units, advance)


def run_units(job: Job, ledger: Ledger, units: Iterable[Unit], advance: Advance) -> StageTimes:
    """Push units through the pipeline of this process."""
    work = job.work(advance, ledger.append)
    return run_pipeline(units, work.read, work.infer, work.write, job.plan.crew)


def _begin(job: Job, ledger: Ledger) -> None:
    """Under the ledger's lock: find out what is done, and make room for the rest."""
    _forget_lost_outputs(job.source, job.sink, ledger)
    if any(item.name not in ledger.done for item in job.source.slices):
        job.sink.start()


def _done_before(job: Job) -> set[str]:
    ledger = Ledger(job.place.ledger_folder, job.options.part)
    ledger.reload()
    return {item.name for item in job.source.slices if item.name in ledger.done}


def _remove_earlier(job: Job, ledger: Ledger) -> None:
    ledger.reload()
    job.sink.remove_earlier(tuple(ledger.done))
    ledger.reload()


def _summary(job: Job, ledger: Ledger, before: set[str], times: StageTimes | None) -> Summary:
    ledger.reload()
    slices = job.source.slices
    records = [ledger.done[item.name] for item in slices if item.name in ledger.done]
    new = [record for record in records if record.name not in before]
    metadata = job.session.model.metadata
    warnings = [drift_warning([record.drift for record in records], DRIFT_WARNING), _lock_warning(ledger)]
    return Summary(
        key=job.key,
        model=job.options.model,
        input=job.options.input,
        output=job.sink.path,
        provider=job.session.provider,
        provider_reason=job.session.reason,
        threads=job.session.threads * job.plan.crew.inferrers,
        started=job.started,
        finished=_now(),
        slices=len(slices),
        labelled=len(new),
        labelled_before=len(records) - len(new),
        pixels=sum(record.shape[0] * record.shape[1] for record in new),
        set_aside=tuple(ledger.set_aside[item.name] for item in slices if item.name in ledger.set_aside),
        skipped=job.source.skipped,
        fractions=phase_fractions(records, metadata),
        times=times,
        is_final=settled(job.source, ledger),
        part=job.options.part,
        warnings=tuple(text for text in warnings if text is not None),
    )


def _streams(options: RunOptions) -> int:
    return min(options.threads or available_cpus(), LARGEST_STREAMS)


def _open_session(options: RunOptions, streams: int) -> Session:
    return Session.open(options.model, provider=options.provider, threads=options.threads, streams=streams)


def _wishes(options: RunOptions, place: Place, earlier: JobKey | None) -> Wishes:
    """An earlier run of the job has fixed how it is cut up, unless the user says otherwise now."""
    tile = None if options.tile is None else (options.tile, options.tile)
    if tile is None and earlier is not None:
        tile = earlier.tile
    return Wishes(
        tile=tile,
        whole_slices=earlier is not None and earlier.tile is None,
        unit=None if earlier is None else earlier.unit,
        batch=options.batch,
        memory=options.memory,
        probabilities=options.output.probabilities,
        chunked_output=place.format == "zarr",
    )


def _key(options: RunOptions, source: Source, session: Session, plan: Plan, place: Place) -> JobKey:
    content = source.identity.content
    if source.volume is None and place.is_volume:
        content = "\n".join(item.name for item in source.slices)  # a slice's place depends on all names
    range_ = options.source.slices
    flags = [name for name in ("pyramid", "shards") if getattr(options.output, name)]
    return JobKey(
        model_name=session.model.metadata.name,
        model_sha256=session.model.sha256,
        input_kind=source.identity.kind,
        input_name=source.identity.name,
        input_content=content,
        output_format=place.format,
        tile=plan.tile,
        unit=plan.unit,
        provider=session.provider,
        window=None if options.window is None else str(options.window),
        axis=options.source.axis or None,
        slices=None if range_ is None else ":".join("" if end is None else str(end) for end in range_),
        level=options.source.level or None,
        probabilities=options.output.probabilities,
        layout=", ".join(flags) or None,
    )


def _check_first_slice(source: Source, intake: Intake) -> tuple[int, int]:
    """Refuse an input that does not fit the model before any work, by its first slice that can be read.

    Returns:
        (H, W) of that slice.
    """
    broken: list[ImageError] = []
    for item in source.slices:
        try:
            pixels = source.read(item.index, item.index + 1)[0]
        except ImageError as error:
            broken.append(error)
            continue
        image = intake.convert(pixels, item.where)
        intake.check_range(image, item.where)
        return int(image.shape[1]), int(image.shape[2])
    reasons = "\n".join(f"  - {error}" for error in broken[:5])
    raise UsageError(f"{source.location}: none of its {len(broken)} slices can be read:\n{reasons}")


def _forget_lost_outputs(source: Source, sink: Sink, ledger: Ledger) -> None:
    """Do again what somebody deleted; refuse inputs that changed after they were labelled."""
    for item in source.slices:
        record = ledger.done.get(item.name)
        if record is None:
            continue
        if record.identity != item.identity:
            raise UsageError(
                f"{item.where}: has changed since it was labelled (then {record.identity}, now {item.identity}); "
                "label everything again with --overwrite, or choose another output with -o"
            )
        if not sink.holds(record):
            ledger.forget(item.name)


def _lock_warning(ledger: Ledger) -> str | None:
    if ledger.locks_supported:
        return None
    return (
        f"{ledger.folder}: this disk knows no file locks; see to it yourself that no two runs share an output"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
