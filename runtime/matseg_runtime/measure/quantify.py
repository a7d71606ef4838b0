"""Measure labels that lie on a disk, slice by slice; memory does not depend on how many slices there are."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from matseg_runtime.ledger import SliceRecord
from matseg_runtime.measure.label_input import (
    LabelFacts,
    as_labels,
    class_names,
    facts_of,
    open_labels,
    unlabelled_value,
)
from matseg_runtime.measure.regions import (
    DEFAULT_CONNECTIVITY,
    MOST_CLASSES,
    TooManyClassesError,
    measure_regions,
    require_scikit_image,
)
from matseg_runtime.measure.tables import RegionTables, SliceRow
from matseg_runtime.records import Connectivity, SliceRegions
from matseg_runtime.source.base import Slice, Source, SourceOptions
from matseg_runtime.units import VoxelSize, choose_voxel_size, parse_voxel_size
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import ImageError, UnsupportedError, UsageError
from matseg_shared.images.read import read_stored
from matseg_shared.system.machine import available_cpus

_SLICES_PER_TASK = 32
_PIXELS_PER_WORKER = 40_000_000
"""Work below this is done sooner than another process has started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantifyOptions:
    """One call of matseg-quantify."""

    labels: str
    source: SourceOptions = field(default_factory=SourceOptions)
    output: Path | None = None
    """A folder; None: where matseg-run left its report, else beside the labels."""
    voxel_size: str | None = None
    """As `parse_voxel_size` takes it; goes before what the labels themselves say."""
    connectivity: Connectivity = DEFAULT_CONNECTIVITY
    names: tuple[str, ...] = ()
    """Of the classes; empty: what is known from elsewhere."""
    ignore: int | None = None
    """Value of pixels that have no class; None: 255 in what matseg-run wrote, else there are none."""
    workers: int | None = None
    """Processes; None: one per core, when there is work enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedSlice:
    """A slice that could not be measured."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantified:
    """What became of it."""

    tables: RegionTables
    folder: Path
    excluded: tuple[ExcludedSlice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Some slices, measured by one process; everything in it can be pickled."""

    location: str
    source: SourceOptions
    facts: LabelFacts
    slices: tuple[int, ...]
    """Positions in the source, ascending."""
    connectivity: Connectivity
    unlabelled: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One slice of a task."""

    slice: Slice
    regions: SliceRegions | None
    reason: str = ""
    """Why it could not be measured."""


def quantify(options: QuantifyOptions, progress: Progress = SILENT) -> Quantified:
    """Measure all slices and write the tables.

    Raises:
        UsageError: the labels cannot be opened, are no labels, or an option does not fit them.
        MissingExtraError: scikit-image, or what their format needs, is not installed.
        OutputError: the tables cannot be written.
    """
    require_scikit_image("matseg-quantify")
    facts = facts_of(options.labels)
    with closing(open_labels(options.labels, options.source, facts)) as source:
        tasks = list(_tasks(options, facts, source))
        workers = options.workers or _worth(source)
        voxel, _ = choose_voxel_size(
            _asked_voxel(options, source), _known_voxel(options, facts, source), None
        )
        folder = (
            options.output
            or facts.report_folder
            or source.beside.with_name(f"{source.beside.name}_quantities")
        )
        location, first = source.location, source.first
        progress.stage("measuring", sum(len(task.slices) for task in tasks), unit="slices")
        found: list[Measured] = []
        for measured in run_tasks(tasks, workers, source):
            found += measured
            progress.advance(len(measured))
    tables = _tables(options, facts, found, voxel, location, first)
    tables.write(folder)
    excluded = tuple(
        ExcludedSlice(where=item.slice.where, reason=item.reason) for item in found if item.regions is None
    )
    return Quantified(tables=tables, folder=folder, excluded=excluded)


def _asked_voxel(options: QuantifyOptions, source: Source) -> VoxelSize | None:
    """Its three numbers are those of the volume, which may be cut along the axis of the run that wrote it."""
    if options.voxel_size is None:
        return None
    return parse_voxel_size(options.voxel_size, 0 if source.volume is None else source.volume.axis)


def _known_voxel(options: QuantifyOptions, facts: LabelFacts, source: Source) -> VoxelSize | None:
    """The run's own figure, which is of slices as the run cut them, at their finest; else what the labels say."""
    was = facts.axis or 0
    axis = was if options.source.axis is None else options.source.axis
    known = None if facts.voxel is None or options.source.level else facts.voxel.cut_along(axis, was)
    return known or source.voxel_size()


def _tasks(options: QuantifyOptions, facts: LabelFacts, source: Source) -> Iterator[Task]:
    """Whole chunks of a chunked volume, so that none is decoded twice."""
    chunk = 1 if source.volume is None else source.volume.slices_per_chunk
    step = -(-_SLICES_PER_TASK // chunk) * chunk
    for start in range(0, len(source.slices), step):
        yield Task(
            location=options.labels,
            source=options.source,
            facts=facts,
            slices=tuple(range(start, min(start + step, len(source.slices)))),
            connectivity=options.connectivity,
            unlabelled=unlabelled_value(facts, options.ignore),
        )


def _worth(source: Source) -> int:
    """Processes that pay for their start."""
    if source.volume is None:
        shape: tuple[int, ...] = (len(source.slices), *_first_shape(source))
    else:
        shape = source.volume.shape
    pixels = math.prod(shape)
    return max(1, min(available_cpus(), len(source.slices) // _SLICES_PER_TASK, pixels // _PIXELS_PER_WORKER))


def _first_shape(source: Source) -> tuple[int, ...]:
    """Of the first image of a folder; nothing of one that is broken, which is found out later."""
    try:
        return source.read(0, 1)[0].shape[:2]
    except ImageError:
        return (0, 0)


def run_tasks(tasks: Sequence[Task], workers: int, source: Source) -> Iterator[list[Measured]]:
    """Results in the order of the tasks; at most a few tasks are under way.

    Args:
        tasks: of one source.
        workers: processes, which open it again, each for every task; 1: this one, with `source` as it is.
        source: open.

    Raises:
        UsageError: the labels are no labels.
        UnsupportedError: a process was lost.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from (_measure_in(task, source) for task in tasks)
        return
    # never a fork: threads of this process may hold locks that nobody in a copy would release
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from _in_order(pool, tasks, 2 * workers)
        except BrokenProcessPool as error:
            raise UnsupportedError(
                "a measuring process was killed, most likely for lack of memory; run again with --workers 1"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, tasks: Sequence[Task], ahead: int) -> Iterator[list[Measured]]:
    waiting: list[Future[list[Measured]]] = []
    for task in tasks:
        waiting.append(pool.submit(measure, task))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()


def measure(task: Task) -> list[Measured]:
    """Do one task; runs in a process of its own, or in this one.

    Raises:
        UsageError: a slice has more values than there can be classes.
    """
    with closing(open_labels(task.location, task.source, task.facts)) as source:
        return _measure_in(task, source)


def _measure_in(task: Task, source: Source) -> list[Measured]:
    chunk = 1 if source.volume is None else source.volume.slices_per_chunk
    found: list[Measured] = []
    for positions in _runs(task.slices, chunk):
        found += _measure_run(task, source, positions)
    return found


def _runs(positions: Sequence[int], longest: int) -> Iterator[list[int]]:
    """Consecutive positions, to be read at once."""
    run: list[int] = []
    for position in positions:
        if run and (position != run[-1] + 1 or len(run) == longest):
            yield run
            run = []
        run.append(position)
    if run:
        yield run


def _measure_run(task: Task, source: Source, positions: Sequence[int]) -> list[Measured]:
    first, last = positions[0], positions[-1]
    try:
        block = source.read(first, last + 1)
    except ImageError as error:
        if len(positions) > 1:  # find out which of them it is
            return [item for position in positions for item in _measure_run(task, source, [position])]
        return [Measured(slice=source.slices[first], regions=None, reason=str(error))]
    found = []
    for position in positions:
        item = source.slices[position]
        try:
            labels = as_labels(block[position - first], item.where)
            regions = measure_regions(labels, connectivity=task.connectivity, unlabelled=task.unlabelled)
        except ImageError as error:
            found.append(Measured(slice=item, regions=None, reason=str(error)))
        except TooManyClassesError as error:
            raise UsageError(_too_many(item.where, str(error))) from error
        else:
            found.append(Measured(slice=item, regions=regions))
    return found


def _too_many(where: str, found: str) -> str:
    return (
        f"{where}: expected labels of at most {MOST_CLASSES} classes, found {found}; this looks like an image, or like "
        "numbered objects: give class labels"
    )


def _tables(
    options: QuantifyOptions,
    facts: LabelFacts,
    found: Sequence[Measured],
    voxel: VoxelSize | None,
    location: str,
    first: int,
) -> RegionTables:
    rows = [
        SliceRow(name=item.slice.name, position=first + item.slice.index, regions=item.regions)
        for item in found
        if item.regions is not None
    ]
    if not rows:
        reasons = "\n".join(f"  - {item.reason}" for item in found[:5])
        raise UsageError(f"{location}: none of its {len(found)} slices can be measured:\n{reasons}")
    values = sorted({item.value for row in rows for item in row.regions.classes})
    if len(values) > MOST_CLASSES:
        raise UsageError(_too_many(location, f"{len(values)} values"))
    labelled = [row for row in rows if row.regions.classes]
    return RegionTables(
        labels=location,
        rows=labelled,
        classes=class_names(values, options.names or facts.names, bool(options.names), location),
        voxel=voxel,
        connectivity=options.connectivity,
        unlabelled=len(rows) - len(labelled),
    )


def measure_output(
    location: str, records: Sequence[SliceRecord], *, axis: int, connectivity: Connectivity
) -> dict[str, SliceRegions]:
    """Measure some slices of a complete volume of matseg-run.

    Args:
        location: of the volume.
        records: of the slices wanted.
        axis: the spatial axis that it is cut along.
        connectivity: which pixels belong together.

    Returns:
        By the records' names.

    Raises:
        UsageError: the output cannot be read.
    """
    facts = LabelFacts(ours=True)
    wanted = {record.index: record.name for record in records}
    task = Task(
        location=location,
        source=SourceOptions(axis=axis or None),
        facts=facts,
        slices=tuple(sorted(wanted)),
        connectivity=connectivity,
        unlabelled=unlabelled_value(facts, None),
    )
    found = {}
    for item in measure(task):
        if item.regions is None:
            raise UsageError(f"its labels cannot be measured: {item.reason}")
        found[wanted[item.slice.index]] = item.regions
    return found


def measure_images(files: Mapping[str, Path], *, connectivity: Connectivity) -> dict[str, SliceRegions]:
    """Measure label images of matseg-run, whatever else lies in their folder.

    Args:
        files: by the names of their slices.
        connectivity: which pixels belong together.

    Returns:
        By the same names.

    Raises:
        UsageError: one cannot be read.
    """
    found = {}
    for name, file in files.items():
        try:
            labels = as_labels(read_stored(file).pixels, str(file))
        except ImageError as error:
            raise UsageError(f"its labels cannot be measured: {error}") from error
        found[name] = measure_regions(labels, connectivity=connectivity)
    return found
