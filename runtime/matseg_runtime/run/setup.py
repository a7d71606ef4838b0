"""Everything that is checked, opened and decided before the first slice is labelled."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from matseg_runtime.inference.background import ConstantTileCache
from matseg_runtime.inference.providers import (
    PROVIDER_CHOICES,
    ProviderChoice,
    installed_runtimes,
)
from matseg_runtime.inference.session import SelfTestResult, Session
from matseg_runtime.inference.tiles import constant_tile_cache
from matseg_runtime.ledger import Ledger, Part, read_key
from matseg_runtime.measure.measurer import MeasureOptions
from matseg_runtime.measure.regions import require_scikit_image
from matseg_runtime.measure.report import Provenance
from matseg_runtime.model.file import ModelFile, read_model
from matseg_runtime.model.trust import HasSha256, Trust
from matseg_runtime.records import JobKey
from matseg_runtime.run.neighbours import Neighbours
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.plan import LARGEST_STREAMS, Plan, PlanConstraints, Planner, default_budget, probe
from matseg_runtime.sink.base import LabelInfo, Sink
from matseg_runtime.sink.target import (
    OutputTarget,
    choose_target,
    label_volume,
    open_sink,
    output_format,
    stored_votes,
)
from matseg_runtime.source.base import Source
from matseg_runtime.source.checks import check_input
from matseg_runtime.source.open import open_source, require_text
from matseg_runtime.source.transform import Mask, NoData, Transform
from matseg_runtime.source.watch import WatchSource
from matseg_runtime.units import VoxelSize, choose_voxel_size, oblong_warning, voxel_of_model
from matseg_shared.console.progress import Progress
from matseg_shared.contract.metadata import InputInfo, ModelMetadata
from matseg_shared.errors import UsageError
from matseg_shared.images.channel_files import ChannelFiles
from matseg_shared.images.channels import GREY, ChannelChoice, described, require_count, shown_choice
from matseg_shared.system.machine import available_cpus

if TYPE_CHECKING:
    from matseg_runtime.run.thumbnails import Thumbnails
    from matseg_runtime.sink.votes import StoredVotes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One job on this machine, with all that is open and decided while it runs."""

    options: RunOptions
    source: Source
    session: Session
    self_test: SelfTestResult
    plan: Plan
    key: JobKey
    target: OutputTarget
    sink: Sink
    transform: Transform
    metadata: ModelMetadata
    probabilities: bool
    """The network is asked for them, to be written or to find what is uncertain."""
    constant_tiles: ConstantTileCache | None
    """None: the network reads constant regions like all others."""
    measure: MeasureOptions | None
    """None: nothing is to be measured."""
    neighbours: Neighbours | None
    """None: the model sees each slice by itself."""
    voxel: VoxelSize | None
    """None: not known, so lengths are in pixels."""
    votes: tuple[StoredVotes, ...]
    """Those that this run decides on; empty: it makes no such decision."""
    started: str
    warnings: tuple[str, ...]
    thumbnails: Thumbnails | None = None
    """Pictures that are taken for a page; None: no page is wanted, or what it shows is read again."""


@contextmanager
def open_run(options: RunOptions, progress: Progress) -> Iterator[Run]:
    """Check and decide everything; writes nothing.

    Raises:
        UsageError: the input, the output or an option does not fit.
        ModelError: the model file cannot be used.
        UnsupportedError: this machine cannot run it.
    """
    refuse_combinations(options)
    progress.stage("opening the input and the model")
    with ExitStack() as opened:
        file = read_model(options.model, options.trust)
        metadata = file.model.metadata
        source = opened.enter_context(closing(open_input(options, metadata.input)))
        if isinstance(source, WatchSource):
            source.wait_for_first()
        started = now()
        target = choose_target(source, options.output, metadata)
        earlier = None if options.output.overwrite else read_key(target.ledger_folder)
        before = None if earlier is None or options.window is None else earlier.stored_dtype
        no_data = opened.enter_context(closing(_open_no_data(options, source, metadata)))
        transform = Transform(
            info=metadata.input.of_slice, window=options.window, stored_dtype=before, no_data=no_data
        )
        # more streams than slices would be idle
        most = min(options.threads or available_cpus(), LARGEST_STREAMS, len(source.slices))
        with ThreadPoolExecutor(1) as beside:  # neither keeps a whole core at work
            tested = beside.submit(_tested_session, options, file, most)
            found = check_input(source, transform, accept=options.accept_intensities)
        if options.memory is not None:
            source.keep_little()
            if no_data.mask_slices is not None:
                no_data.mask_slices.keep_little()
        shape = found.shape
        if target.is_volume and earlier is not None:
            shape = _shape_before(target.ledger_folder, source) or shape
        session, self_test = tested.result()
        session, plan = _plan(options, source, no_data, file, session, shape, target, earlier, most)
        transform = replace(transform, stored_dtype=None if options.window is None else found.dtype)
        run = _assembled(options, source, session, self_test, plan, target, transform, started)
        run.sink.check_place(overwrite=options.output.overwrite)
        yield replace(run, warnings=(*found.warnings, *run.warnings))


def worker_run(options: RunOptions, plan: Plan, key: JobKey, threads: int) -> Run:
    """The run of another process, opened again on a machine that helps with it.

    Args:
        options: with absolute paths.
        threads: calls of the network at a time.

    Raises:
        UsageError: this machine sees another input or model than the other, which made `plan` and `key`.
    """
    if options.measure.regions is not None:
        require_scikit_image("--quantify on a worker")
    if key.provider not in PROVIDER_CHOICES:
        raise UsageError(f"this version of matseg does not know the provider {key.provider}")
    with ExitStack() as stack:
        session = Session.open(
            options.model,
            provider=cast(ProviderChoice, key.provider),  # each worker uses what the client found
            threads=options.threads,
            streams=threads,
            trust=Trust.of_site().also(HasSha256(sha256=key.model_sha256, source="the client's model")),
        )
        self_test = session.require_self_test()
        metadata = session.model.metadata
        source = stack.enter_context(closing(open_input(options, metadata.input)))
        target = choose_target(source, options.output, metadata)
        transform = Transform(
            info=metadata.input.of_slice,
            window=options.window,
            stored_dtype=key.stored_dtype,
            no_data=stack.enter_context(closing(_open_no_data(options, source, metadata))),
        )
        run = _assembled(options, source, session, self_test, plan, target, transform, now())
        if differences := key.differences(run.key):
            raise UsageError(
                f"{source.location}: a worker sees something else than the client: {'; '.join(differences)}"
            )
        stack.pop_all()
        return run


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_of(key: JobKey) -> Provenance:
    """The job and the versions of what computes its labels."""
    versions = {name: _version(name) for name in ("matseg", "numpy", *installed_runtimes())}
    return Provenance(**key.model_dump(), versions=versions)


@functools.cache  # a look through the installed packages, 3 ms each
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def refuse_combinations(options: RunOptions) -> None:
    """Name options that exclude each other, before anything is opened.

    Raises:
        UsageError: some do.
    """
    chosen = {
        "--watch": options.watch is not None,
        "--dask": options.dask is not None,
        "--part": options.part.total > 1,
        "--device": options.devices is not None,
        "--finish": options.finish,
        "--overwrite": options.output.overwrite,
    }
    excluded = {
        "--watch": ("--dask", "--part", "--finish"),
        "--dask": ("--part", "--device"),
        "--overwrite": ("--finish",),
    }
    for first, second in ((first, second) for first, others in excluded.items() for second in others):
        if chosen[first] and chosen[second]:
            raise UsageError(f"{first} and {second} cannot be combined; leave one of them out")
    kind = output_format(options.output)
    if options.watch is not None and kind not in ("png", "tiff"):
        where = options.output.path or f"--label {options.output.label}"
        raise UsageError(f"{where}: --watch writes label images into a folder, not one {kind}")
    if options.measure.regions is not None:
        require_scikit_image("--quantify")


def open_input(options: RunOptions, info: InputInfo) -> Source:
    """The input, or a folder to watch, with the channels that the model takes."""
    context, info = info.context, info.of_slice
    channels = options.source.channels or info.picked
    require_count(channels, info)
    if (files := options.source.channel_files) is not None:
        _check_channel_files(files, channels, info)
    if options.watch is None:
        wanted = replace(options.source, channels=channels, taken=info.channels)
        source = open_source(options.input, wanted)
        try:
            if context:
                source.require_neighbours()
        except UsageError:
            source.close()
            raise
        return source
    require_text(options.input)
    option = options.source.named() or (options.source.channel_files and "--channel-files")
    if option is not None:
        raise UsageError(
            f"{options.input}: --watch waits for images in a folder, to which {option} does not apply"
        )
    return WatchSource(Path(options.input), options.watch, channels, context)


def _check_channel_files(files: ChannelFiles, choice: ChannelChoice, info: InputInfo) -> None:
    names = files.channels
    if choice != GREY and choice and max(choice) < len(names):
        names = tuple(names[number] for number in choice)
    if len(names) != info.channels or (info.channel_names and names != info.channel_names):
        raise UsageError(
            f"--channel-files {files}: expected {described(info)} in this order, which this model takes, found "
            f"{len(names)} ({', '.join(names)})"
        )


def _open_no_data(options: RunOptions, source: Source, metadata: ModelMetadata) -> NoData:
    given = options.no_data
    found = NoData(
        source=source,
        options=given,
        mask=None if given.mask is None else Mask.open(given.mask, source, options.source.axis),
        model_crop=metadata.input.crop_bottom,
        across=options.output.votes,
    )
    if options.watch is not None and found.mask_slices is not None:
        found.close()
        raise UsageError(f"--mask {given.mask}: --watch takes a --mask of one image for all slices")
    return found


def _plan(
    options: RunOptions,
    source: Source,
    no_data: NoData,
    file: ModelFile,
    session: Session,
    shape: tuple[int, int],
    target: OutputTarget,
    earlier: JobKey | None,
    most: int,
) -> tuple[Session, Plan]:
    """The plan of the job on a session for `most` streams: as before, unless the user says otherwise."""
    tile, consensus = None if earlier is None else earlier.tile, options.consensus
    constraints = PlanConstraints(
        tile=tile if options.tile is None else (options.tile, options.tile),
        whole_slices=earlier is not None and earlier.tile is None,
        depth=None if earlier is None else earlier.unit,
        batch=options.batch,
        memory=options.memory,
        probabilities=consensus is None and _needs_probabilities(options),
        votes=None if consensus is None else 0 if options.output.votes is not None else len(consensus.axes),
        chunked_output=consensus is not None
        or target.format == "zarr"
        or (target.keeps_axes and bool(options.source.axis)),
    )
    on_cpu = session.provider == "cpu"
    plan = Planner(
        source=source,
        metadata=file.model.metadata,
        shape=shape,
        probe=probe(session, shape, options.memory or default_budget()),
        constraints=constraints,
        streams=most if on_cpu else max(1, len(session.devices)),
        on_cpu=on_cpu,
        mask=None if no_data.mask_slices is None else no_data.mask_slices.volume,
    ).plan()
    streams = plan.workers.inferrers
    if on_cpu and streams < most:  # for lack of memory, or of slices
        again = Session.open(file, provider=session.provider, threads=options.threads, streams=streams)
        session = replace(again, reason=session.reason)
    return session, plan


def _tested_session(options: RunOptions, file: ModelFile, streams: int) -> tuple[Session, SelfTestResult]:
    """The model on a provider that passes its self-test; `auto` goes on to the CPU where another one fails."""
    open_on = functools.partial(Session.open, file, threads=options.threads, streams=streams)
    session = open_on(provider=options.provider, devices=options.devices, memory=options.memory)
    result = session.self_test()
    if (
        options.provider == "auto"
        and options.devices is None
        and session.provider != "cpu"
        and not result.passed
    ):
        failure = f"{session.provider} fails the self-test in {result.mismatches} of {result.pixels} pixels"
        session = replace(open_on(provider="cpu"), reason=f"{session.reason}; {failure}")
        result = session.self_test()
    session.require_passed(result)
    return session, result


def _assembled(
    options: RunOptions,
    source: Source,
    session: Session,
    self_test: SelfTestResult,
    plan: Plan,
    target: OutputTarget,
    transform: Transform,
    started: str,
) -> Run:
    """Put together what follows from all decisions."""
    metadata = session.model.metadata
    key = _key(options, source, session, plan, target, transform)
    of_model = None if metadata.pixel_size is None else voxel_of_model(metadata.pixel_size)
    voxel, voxel_warning = choose_voxel_size(options.voxel, source.voxel_size(), of_model)
    oblong = None if voxel is None or options.consensus is not None else oblong_warning(voxel)
    info = LabelInfo(metadata=metadata, provenance=provenance_of(key).text(), voxel=voxel)
    volume = label_volume(source, plan.shape, voxel, given=options.voxel is not None)
    constant_tiles, probabilities = None, _needs_probabilities(options)
    if options.skip_constant:
        constant_tiles = constant_tile_cache(session, batch=plan.batch, probabilities=probabilities)
    return Run(
        options=options,
        source=source,
        session=session,
        self_test=self_test,
        plan=plan,
        key=key,
        target=target,
        sink=open_sink(target, options.output, info, volume, plan.depth),
        transform=transform,
        metadata=metadata,
        probabilities=probabilities,
        constant_tiles=constant_tiles,
        measure=None if options.measure == MeasureOptions() else options.measure,
        neighbours=_neighbours(source, metadata.input.context, plan),
        voxel=voxel,
        votes=() if options.consensus is None else stored_votes(target, source, options.consensus.stored),
        started=started,
        warnings=tuple(text for text in (voxel_warning, oblong) if text is not None),
    )


def _neighbours(source: Source, context: int, plan: Plan) -> Neighbours | None:
    depth = 1 if isinstance(source, WatchSource) else plan.depth  # which hands out slice by slice
    readers = plan.workers.readers
    return Neighbours(source, context, depth=depth, readers=readers) if context else None


def _key(
    options: RunOptions,
    source: Source,
    session: Session,
    plan: Plan,
    target: OutputTarget,
    transform: Transform,
) -> JobKey:
    content = source.identity.content
    if source.volume is None and target.is_volume:
        content = "\n".join(item.name for item in source.slices)  # a slice's place depends on all names
    range_ = options.source.slices
    flags = [name for name in ("pyramid", "shards") if getattr(options.output, name)]
    # it is in the files, but not in PNGs, nor in labels that lie where their image does
    if options.voxel is not None and target.format != "png" and target.image is None:
        flags.append(f"voxels of {options.voxel.exactly}")
    consensus = None if options.consensus is None else str(options.consensus)
    if options.output.disagreement is not None:
        consensus = f"{consensus}, disagreement in {options.output.disagreement.name}"
    return JobKey(
        model_name=session.model.metadata.name,
        model_sha256=session.model.sha256,
        input_kind=source.identity.kind,
        input_name=source.identity.name,
        input_content=content,
        output_format=target.format,
        tile=plan.tile,
        unit=plan.depth,
        provider=session.provider,
        window=None if options.window is None else str(options.window),
        stored_dtype=transform.stored_dtype,
        axis=options.source.axis,
        slices=None if range_ is None else ":".join("" if end is None else str(end) for end in range_),
        level=options.source.level or None,
        axes=options.source.axes,
        channels=shown_choice(options.source.channels) or None,
        channel_files=None if options.source.channel_files is None else str(options.source.channel_files),
        probabilities=options.output.probabilities,
        skip_constant=options.skip_constant,
        layout=", ".join(flags) or None,
        no_data=None if transform.no_data is None else transform.no_data.text(),
        consensus=consensus,
    )


def _needs_probabilities(options: RunOptions) -> bool:
    consensus = options.consensus
    if consensus is not None:
        return options.output.votes is not None or consensus.axes[0] not in consensus.stored
    return options.output.probabilities or options.measure.uncertain is not None


def _shape_before(ledger_folder: Path, source: Source) -> tuple[int, int] | None:
    """(H, W) of the slices that a volume holds already; None without any.

    Most images of a folder need not have it: some may have been unreadable then, and be mended since.
    """
    ledger = Ledger(ledger_folder, Part())
    ledger.reload()
    found = (ledger.done[item.name] for item in source.slices if item.name in ledger.done)
    return next((record.shape for record in found), None)
