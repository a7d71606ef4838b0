"""One run of matseg-run, from the options to the summary."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from matseg_runtime.intake import Intake, Window
from matseg_runtime.ledger import JobKey, Ledger, Part, SliceRecord
from matseg_runtime.pipeline import Crew, StageTimes, run_pipeline
from matseg_runtime.plan import Plan, pending_units
from matseg_runtime.progress import Advance
from matseg_runtime.providers import ProviderChoice
from matseg_runtime.quantities import CSV_NAME, DRIFT_WARNING, phase_fractions, write_phase_fractions
from matseg_runtime.report import REPORT_NAME, Summary, drift_warning, provenance_text, write_report
from matseg_runtime.session import Session
from matseg_runtime.sink.base import Sink, Unit
from matseg_runtime.sink.images import LEDGER_NAME, ImageSink
from matseg_runtime.source import open_source
from matseg_runtime.source.base import Source
from matseg_runtime.work import Work
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.files import output_errors
from matseg_shared.metadata import ModelMetadata
from matseg_shared.tiling import plan_tiles, smallest_tile

ProgressFactory = Callable[[int], AbstractContextManager[Advance]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the user asked for."""

    model: Path
    input: str
    output: Path | None = None
    provider: ProviderChoice = "auto"
    threads: int | None = None
    tile: int | None = None
    """Edge length of the largest tile in pixels; None: whole slices."""
    batch: int = 1
    window: Window | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """Everything that is open while a job runs."""

    options: RunOptions
    source: Source
    session: Session
    plan: Plan
    key: JobKey
    sink: Sink
    ledger: Ledger


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
    started = _now()
    with closing(open_source(options.input)) as source:
        session = Session.open(options.model, provider=options.provider, threads=options.threads)
        output = options.output or default_output(source, session.model.metadata)
        _refuse_overlap(source, output)
        plan = _plan(options, session)
        session.require_self_test()
        _check_first_slice(source, Intake(info=session.model.metadata.input, window=options.window))
        key = _key(options, source, session, plan)
        sink = ImageSink(output, session.model.metadata, provenance_text(key))
        _prepare_output(sink, options.overwrite)
        sink.start()
        ledger = Ledger(sink.ledger_folder, Part())
        ledger.open(key)
        with closing(ledger):
            _forget_lost_outputs(source, sink, ledger)
            job = _Job(
                options=options,
                source=source,
                session=session,
                plan=plan,
                key=key,
                sink=sink,
                ledger=ledger,
            )
            return _run(job, progress, started)


def default_output(source: Source, metadata: ModelMetadata) -> Path:
    """`<INPUT>_predictions/<dataset>_<version>` beside the input."""
    return source.beside.with_name(f"{source.beside.name}_predictions") / metadata.name


def _run(job: _Job, progress: ProgressFactory, started: str) -> Summary:
    before = set(job.ledger.done)
    units = list(pending_units(job.source, job.sink, job.ledger, job.plan.unit, job.ledger.part))
    times = None
    if units:
        with progress(sum(len(unit.slices) for unit in units)) as advance:
            times = _process(job, units, advance)
    job.ledger.reload()
    records = _records(job)
    new = [record for record in records if record.name not in before]
    complete = len(records) == len(job.source.slices)
    names = {item.name for item in job.source.slices}
    metadata = job.session.model.metadata
    warnings = [drift_warning([record.drift for record in records], DRIFT_WARNING), _lock_warning(job.ledger)]
    summary = Summary(
        key=job.key,
        model=job.options.model,
        input=job.options.input,
        output=job.sink.path,
        provider=job.session.provider,
        provider_reason=job.session.reason,
        threads=job.session.threads,
        started=started,
        finished=_now(),
        slices=len(job.source.slices),
        labelled=len(new),
        labelled_before=len(records) - len(new),
        pixels=sum(record.shape[0] * record.shape[1] for record in new),
        set_aside=tuple(aside for aside in job.ledger.set_aside.values() if aside.name in names),
        skipped=job.source.skipped,
        fractions=phase_fractions(records, metadata),
        times=times,
        complete=complete,
        warnings=tuple(text for text in warnings if text is not None),
    )
    write_phase_fractions(job.sink.path / CSV_NAME, records, metadata)
    write_report(job.sink.path / REPORT_NAME, summary)
    return summary


def _process(job: _Job, units: Iterable[Unit], advance: Advance) -> StageTimes:
    work = Work(
        source=job.source,
        intake=Intake(info=job.session.model.metadata.input, window=job.options.window),
        session=job.session,
        plan=job.plan,
        sink=job.sink,
        ledger=job.ledger,
        probabilities=False,
        advance=advance,
    )
    return run_pipeline(units, work.read, work.infer, work.write, job.plan.crew)


def _records(job: _Job) -> list[SliceRecord]:
    """Of the slices that are in the input now, in its order."""
    return [job.ledger.done[item.name] for item in job.source.slices if item.name in job.ledger.done]


def _plan(options: RunOptions, session: Session) -> Plan:
    tiling = session.model.metadata.tiling
    tile = None if options.tile is None else (options.tile, options.tile)
    if tile is not None:
        edge = smallest_tile(tiling.halo, tiling.stride)
        plan_tiles(
            (edge + 1, edge + 1), tile, halo=tiling.halo, stride=tiling.stride
        )  # refuses one too small
    return Plan(tile=tile, batch=options.batch, unit=1, crew=Crew(readers=2, writers=2))


def _key(options: RunOptions, source: Source, session: Session, plan: Plan) -> JobKey:
    return JobKey(
        model_name=session.model.metadata.name,
        model_sha256=session.model.sha256,
        input_kind=source.identity.kind,
        input_name=source.identity.name,
        input_content=source.identity.content,
        output_format="png",
        tile=plan.tile,
        unit=plan.unit,
        provider=session.provider,
        window=None if options.window is None else str(options.window),
    )


def _check_first_slice(source: Source, intake: Intake) -> None:
    """Refuse an input that does not fit the model before any work, by its first slice that can be read."""
    broken: list[ImageError] = []
    for item in source.slices:
        try:
            pixels = source.read(item.index, item.index + 1)[0]
        except ImageError as error:
            broken.append(error)
            continue
        intake.check_range(intake.convert(pixels, item.where), item.where)
        return
    reasons = "\n".join(f"  - {error}" for error in broken[:5])
    raise UsageError(f"{source.location}: none of its {len(broken)} slices can be read:\n{reasons}")


def _refuse_overlap(source: Source, output: Path) -> None:
    given, out = Path(source.location.split("::")[0]).resolve(), output.resolve()
    if out == given or out.is_relative_to(given):
        raise UsageError(
            f"{output}: the output would lie inside the input {source.location}, and become part of it; choose a "
            "place outside with -o"
        )


def _prepare_output(sink: ImageSink, overwrite: bool) -> None:
    """Remove an earlier result when asked to; refuse to mix with files that are not ours."""
    folder = sink.path
    with output_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"{folder}: expected a folder for the label images, found a file; choose another -o"
            )
        if not folder.exists():
            return
        ours = (folder / LEDGER_NAME).exists()
        if overwrite:
            _remove_earlier(sink)
        elif not ours and any(folder.iterdir()):
            raise UsageError(
                f"{folder}: is not empty and holds no earlier results of matseg-run; choose another output with -o, "
                "or add to it (replacing files of the same name) with --overwrite"
            )


def _remove_earlier(sink: ImageSink) -> None:
    """Delete the label images that the ledger lists, then the ledger."""
    earlier = Ledger(sink.ledger_folder, Part())
    earlier.reload()
    for name in earlier.done:
        if Path(name).name == name:
            sink.file_of(name).unlink(missing_ok=True)
    if sink.ledger_folder.exists():
        shutil.rmtree(sink.ledger_folder)


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
