"""Everything that is checked and decided before the first slice is labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from matseg_runtime.inference.background import ConstantTileCache
from matseg_runtime.inference.providers import COMPUTE_ON_CPU, ProviderChoice
from matseg_runtime.inference.session import SelfTestResult, Session
from matseg_runtime.inference.tiles import constant_answers
from matseg_runtime.ledger import Ledger, Part, read_key
from matseg_runtime.measure.measurer import Measurer
from matseg_runtime.measure.regions import require_scikit_image
from matseg_runtime.model.file import ModelFile, read_model
from matseg_runtime.model.trust import HasSha256, Trust
from matseg_runtime.records import JobKey
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.plan import LARGEST_STREAMS, Plan, PlanConstraints, Planner, default_budget
from matseg_runtime.run.probe import probe
from matseg_runtime.run.stages import Record, Work
from matseg_runtime.run.summary import provenance_text
from matseg_runtime.sink.base import LabelInfo, Sink
from matseg_runtime.sink.target import OutputTarget, choose_target, label_volume, open_sink
from matseg_runtime.source.base import PixelArray, Slice, Source
from matseg_runtime.source.checks import check_slices
from matseg_runtime.source.open import open_source, require_text
from matseg_runtime.source.transform import Transform
from matseg_runtime.source.watch import WatchSource
from matseg_runtime.units import choose_voxel_size, voxel_of_model
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.system.machine import available_cpus

_MOST_TRIED = 1000
"""Slices from the first on, and again as many of the others, that are tried to find one that can be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """Everything that is decided and open while a job runs; `prepare_job` makes it."""

    options: RunOptions
    source: Source
    session: Session
    self_test: SelfTestResult
    plan: Plan
    key: JobKey
    place: OutputTarget
    sink: Sink
    answers: ConstantTileCache | None
    """For constant regions; None: the network is to read them, too."""
    measurer: Measurer
    started: str
    warnings: tuple[str, ...] = ()
    """Of what a look at some slices showed."""

    def work(self, advance: Callable[[int], None], record: Record) -> Work:
        """The stages of the pipeline."""
        slice_shape = None
        if self.place.is_volume:
            slice_shape = label_volume(self.source, self.plan.shape).slice_shape
        return Work(
            source=self.source,
            transform=Transform(
                info=self.session.model.metadata.input,
                window=self.options.window,
                stored_dtype=self.key.stored_dtype,
            ),
            session=self.session,
            plan=self.plan,
            sink=self.sink,
            record=record,
            probabilities=_probabilities_needed(self.options),
            answers=self.answers,
            slice_shape=slice_shape,
            measurer=self.measurer,
            advance=advance,
        )


def open_input(options: RunOptions) -> Source:
    """The input, or a folder to watch."""
    if options.watch is None:
        return open_source(options.input, options.source)
    require_text(options.input)
    if (option := options.source.named()) is not None:
        raise UsageError(
            f"{options.input}: --watch waits for images in a folder, to which {option} does not apply"
        )
    return WatchSource(Path(options.input), options.watch)


def prepare_job(options: RunOptions, source: Source) -> Job:
    """Check everything and decide everything; writes nothing."""
    started = now()
    if options.wanted.regions is not None:
        require_scikit_image("--quantify")
    file = read_model(options.model, options.trust)
    session, self_test = _tested_session(options, file)
    metadata = session.model.metadata
    on_cpu = session.provider in COMPUTE_ON_CPU
    place = choose_target(source, options.output, metadata)
    earlier = None if options.output.overwrite else read_key(place.ledger_folder)
    dtype = _windowed_dtype(options, source, earlier)
    transform = Transform(info=metadata.input, window=options.window, stored_dtype=dtype)
    shape = _check_first_slice(source, transform, accept=options.accept_intensities)
    if place.is_volume and not options.output.overwrite:
        shape = _shape_before(place.ledger_folder, source) or shape
    warnings = check_slices(source, transform, accept=options.accept_intensities)
    plan = Planner(
        source=source,
        metadata=metadata,
        shape=shape,
        probe=probe(session, shape, options.memory or default_budget()),
        constraints=_constraints(options, place, earlier),
        streams=_streams(options) if on_cpu else 1,
        on_cpu=on_cpu,
    ).plan()
    if on_cpu and plan.workers.inferrers < _streams(options):
        session = replace(
            _open_session(options, file, session.provider, plan.workers.inferrers),
            reason=session.reason,
        )
    key = _key(options, source, session, plan, place, dtype)
    if options.watch is not None and place.is_volume:
        raise UsageError(f"{place.path}: --watch writes label images into a folder, not one {place.format}")
    sink = _sink(options, source, session, plan, key, place)
    sink.check_place(overwrite=options.output.overwrite)
    return Job(
        options=options,
        source=source,
        session=session,
        self_test=self_test,
        plan=plan,
        key=key,
        place=place,
        sink=sink,
        answers=_answers(options, session, plan),
        measurer=Measurer(wanted=options.wanted),
        started=started,
        warnings=warnings,
    )


def worker_job(options: RunOptions, plan: Plan, key: JobKey, threads: int) -> Job:
    """The job of another process, opened again on a machine that helps with it.

    Args:
        options: with absolute paths.
        plan: made by the other process.
        key: what the job is.
        threads: calls of the network at a time.

    Raises:
        UsageError: this machine sees another input or model than the other.
    """
    if options.wanted.regions is not None:
        require_scikit_image("--quantify on a worker")
    source = open_source(options.input, options.source)
    session = Session.open(
        options.model,
        provider=_provider_of(key),
        threads=options.threads,
        streams=threads,
        trust=Trust.of_site().also(HasSha256(sha256=key.model_sha256, source="the client's model")),
    )
    self_test = session.require_self_test(options.accepted_difference)
    place = choose_target(source, options.output, session.model.metadata)
    found = _key(options, source, session, plan, place, key.stored_dtype)
    if differences := key.differences(found):
        source.close()
        raise UsageError(
            f"{source.location}: a worker sees something else than the client: {'; '.join(differences)}"
        )
    return Job(
        options=options,
        source=source,
        session=session,
        self_test=self_test,
        plan=plan,
        key=key,
        place=place,
        sink=_sink(options, source, session, plan, key, place),
        answers=_answers(options, session, plan),
        measurer=Measurer(wanted=options.wanted),
        started=now(),
    )


def _streams(options: RunOptions) -> int:
    return min(options.threads or available_cpus(), LARGEST_STREAMS)


def _tested_session(options: RunOptions, file: ModelFile) -> tuple[Session, SelfTestResult]:
    """The model on a provider that passes its self-test; `auto` goes on to the CPU where another one fails."""
    streams, accepted = _streams(options), options.accepted_difference
    session = _open_session(options, file, options.provider, streams)
    result = session.self_test()
    if (
        options.provider == "auto"
        and session.provider != "cpu"
        and result.mismatches > accepted * result.pixels
    ):
        failure = f"{session.provider} fails the self-test in {result.mismatches} of {result.pixels} pixels"
        reason = f"{session.reason}; {failure}"
        session = replace(_open_session(options, file, "cpu", streams), reason=reason)
        result = session.self_test()
    session.require_passed(result, accepted)
    return session, result


def _open_session(options: RunOptions, file: ModelFile, provider: ProviderChoice, streams: int) -> Session:
    return Session.open(file, provider=provider, threads=options.threads, streams=streams)


def _answers(options: RunOptions, session: Session, plan: Plan) -> ConstantTileCache | None:
    if not options.skip_constant:
        return None
    return constant_answers(session, batch=plan.batch, probabilities=_probabilities_needed(options))


def _constraints(options: RunOptions, place: OutputTarget, earlier: JobKey | None) -> PlanConstraints:
    """An earlier run of the job has fixed how it is cut up, unless the user says otherwise now."""
    tile = None if options.tile is None else (options.tile, options.tile)
    if tile is None and earlier is not None:
        tile = earlier.tile
    return PlanConstraints(
        tile=tile,
        whole_slices=earlier is not None and earlier.tile is None,
        unit=None if earlier is None else earlier.unit,
        batch=options.batch,
        memory=options.memory,
        probabilities=_probabilities_needed(options),
        chunked_output=place.format == "zarr",
    )


def _key(
    options: RunOptions,
    source: Source,
    session: Session,
    plan: Plan,
    place: OutputTarget,
    stored_dtype: str | None,
) -> JobKey:
    content = source.identity.content
    if source.volume is None and place.is_volume:
        content = "\n".join(item.name for item in source.slices)  # a slice's place depends on all names
    range_ = options.source.slices
    flags = [name for name in ("pyramid", "shards") if getattr(options.output, name)]
    # it is in the files, but not in PNGs, nor in labels that lie where their image does
    if options.voxel is not None and place.format != "png" and place.image is None:
        flags.append(f"voxels of {options.voxel.exactly}")
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
        stored_dtype=stored_dtype,
        axis=options.source.axis,
        slices=None if range_ is None else ":".join("" if end is None else str(end) for end in range_),
        level=options.source.level or None,
        probabilities=options.output.probabilities,
        skip_constant=options.skip_constant,
        layout=", ".join(flags) or None,
    )


def _sink(
    options: RunOptions, source: Source, session: Session, plan: Plan, key: JobKey, place: OutputTarget
) -> Sink:
    metadata = session.model.metadata
    voxel = choose_voxel_size(options.voxel, source.voxel_size(), voxel_of_model(metadata.pixel_size))[0]
    info = LabelInfo(metadata=metadata, provenance=provenance_text(key), voxel=voxel)
    volume = label_volume(source, plan.shape, voxel, given=options.voxel is not None)
    return open_sink(place, options.output, info, volume, plan.unit)


def _probabilities_needed(options: RunOptions) -> bool:
    return options.output.probabilities or options.wanted.uncertain is not None


def _provider_of(key: JobKey) -> ProviderChoice:
    """Each worker must use what the client found; a ledger holds it as text."""
    for choice in get_args(ProviderChoice):
        if choice == key.provider:
            return choice  # type: ignore[no-any-return]
    raise UsageError(f"this version of matseg does not know the provider {key.provider}")


def _windowed_dtype(options: RunOptions, source: Source, earlier: JobKey | None) -> str | None:
    """A window is for slices of one dtype, which only images in a folder may differ in: that of the first one ever."""
    if options.window is None:
        return None
    if earlier is not None and earlier.stored_dtype is not None:
        try:
            return str(_first_readable(source, earlier.stored_dtype)[1].dtype.name)
        except UsageError:
            pass  # another input, which the comparison of both jobs is about to tell
    return str(_first_readable(source)[1].dtype.name)


def _check_first_slice(source: Source, transform: Transform, *, accept: bool) -> tuple[int, int]:
    """Refuse an input that does not fit the model before any work, by its first slice that can be read.

    Returns:
        (H, W) of that slice.
    """
    item, pixels = _first_readable(source, transform.stored_dtype)
    image = transform.convert(pixels, item.where)
    if not accept:
        transform.check_range(image, item.where)
    return int(image.shape[1]), int(image.shape[2])


def _shape_before(ledger_folder: Path, source: Source) -> tuple[int, int] | None:
    """(H, W) of the slices that a volume holds already; None without any.

    The first image of a folder need not have it: it may have been unreadable then, and be mended since.
    """
    ledger = Ledger(ledger_folder, Part())
    ledger.reload()
    found = (ledger.done[item.name] for item in source.slices if item.name in ledger.done)
    return next((record.shape for record in found), None)


def _first_readable(source: Source, dtype: str | None = None) -> tuple[Slice, PixelArray]:
    """The first slice that can be read, and has that dtype where one is given.

    Of those after the first thousand only some are tried: to go through a hundred thousand that are not there takes
    minutes, in which nobody knows what is going on.
    """
    broken: list[str] = []
    count = len(source.slices)
    further = source.slices[_MOST_TRIED :: max(1, count // _MOST_TRIED)]
    for item in (*source.slices[:_MOST_TRIED], *further):
        try:
            pixels = source.read(item.index, item.index + 1)[0]
        except ImageError as error:
            broken.append(str(error))  # not the error, which would hold on to what it was raised over
            continue
        if dtype in (None, pixels.dtype.name):
            return item, pixels
        broken.append(f"{item.where}: has {pixels.dtype} pixels, not {dtype}")
    reasons = "\n".join(f"  - {error}" for error in broken[:5])
    which = f"of the {len(broken)} tried of its {count}" if len(broken) < count else f"of its {count}"
    raise UsageError(f"{source.location}: none {which} slices can be read:\n{reasons}")


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
