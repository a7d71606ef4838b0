"""Measure labels that lie on a disk, slice by slice; memory does not depend on how many slices there are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from matseg_runtime.measure.label_input import LabelFacts, as_labels, class_names, facts_of, open_labels
from matseg_runtime.measure.regions import (
    DEFAULT_CONNECTIVITY,
    MOST_CLASSES,
    TooManyClassesError,
    measure_regions,
    require_scikit_image,
)
from matseg_runtime.measure.tables import RegionSummary, SliceRow, write_tables
from matseg_runtime.measure.tables_3d import VolumeSummary, write_volume_tables
from matseg_runtime.records import Connectivity, ExcludedSlice, SliceRecord, SliceRegions
from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.units import VoxelSize, parse_voxel_size
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.read import read_stored
from matseg_shared.system.machine import available_cpus

Measured = SliceRow | ExcludedSlice


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
    """Names of the classes; empty: those known from elsewhere."""
    ignore: int | None = None
    """Value of pixels that have no class; None: 255 in what matseg-run wrote, else there are none."""
    workers: int | None = None
    """Threads; None: one per core."""
    regions: Literal["2d", "3d"] = "2d"
    """Connected within each slice, or in three dimensions too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantified:
    """The result of matseg-quantify."""

    summary: RegionSummary
    folder: Path
    excluded: tuple[ExcludedSlice, ...]
    volume: VolumeSummary | None = None
    """Figures of `regions="3d"`."""
    warnings: tuple[str, ...] = ()


def quantify(options: QuantifyOptions, progress: Progress = SILENT) -> Quantified:
    """Measure all slices and write the tables.

    Raises:
        UsageError: the labels cannot be opened, are no labels, or an option does not fit them.
        MissingExtraError: scikit-image, or what their format needs, is not installed.
        OutputError: the tables cannot be written.
    """
    require_scikit_image("matseg-quantify")
    facts = facts_of(options.labels)
    options = _completed(options, facts)
    found: list[Measured] = []
    with closing(open_labels(options.labels, options.source)) as source:
        voxel = _voxel_size(options, facts, source)
        if options.regions == "3d":
            _require_volume(source, voxel)
        beside = source.beside.with_name(f"{source.beside.name}_quantities")
        folder = options.output or facts.report_folder or beside
        progress.stage("measuring", len(source.slices), unit="slices")
        for item in _measured(options, source, range(len(source.slices))):
            found.append(item)
            progress.advance(1)
        return _write(options, facts, source, voxel, found, folder, progress)


def _write(
    options: QuantifyOptions,
    facts: LabelFacts,
    source: Source,
    voxel: VoxelSize | None,
    found: Sequence[Measured],
    folder: Path,
    progress: Progress,
) -> Quantified:
    """The tables of measured slices, and of the volume where it is asked for."""
    location = source.location
    rows = [item for item in found if isinstance(item, SliceRow)]
    excluded = tuple(item for item in found if isinstance(item, ExcludedSlice))
    if not rows:
        reasons = "\n".join(f"  - {item.reason}" for item in excluded[:5])
        raise UsageError(f"{location}: none of its {len(found)} slices can be measured:\n{reasons}")
    values = sorted({item.value for row in rows for item in row.regions.classes})
    if len(values) > MOST_CLASSES:
        raise UsageError(_too_many(location, f"{len(values)} values"))
    labelled = [row for row in rows if row.regions.classes]
    classes = class_names(values, options.names or facts.names, bool(options.names), location)
    volume = None
    if options.regions == "3d" and values:  # first: what it refuses leaves no tables
        pixels = Counter(dict.fromkeys(values, 0))
        for row in rows:
            pixels.update({item.value: item.pixels for item in row.regions.classes})
        volume = write_volume_tables(
            folder,
            source,
            classes,
            pixels,
            voxel=voxel,
            connectivity=options.connectivity,
            excluded=frozenset(item.index for item in excluded),
            workers=options.workers or available_cpus(),
            progress=progress,
        )
    summary = write_tables(
        folder,
        labelled,
        classes,
        labels=location,
        voxel=voxel,
        connectivity=options.connectivity,
        unlabelled=len(rows) - len(labelled),
    )
    return Quantified(
        summary=summary,
        folder=folder,
        excluded=excluded,
        volume=volume,
        warnings=source.warnings() if volume is not None else (),
    )


def _require_volume(source: Source, voxel: VoxelSize | None) -> None:
    """Refuse, before any work, what cannot be measured in three dimensions."""
    if len(source.slices) < 2:
        raise UsageError(
            f"{source.location}: expected a volume of several slices for --regions 3d, found one slice; name the "
            "volume, or leave the option out"
        )
    if voxel is not None and voxel.step is None:
        raise UsageError(
            f"{source.location}: --regions 3d needs the step between slices, and known is the pixel alone "
            f"({voxel.row:g} x {voxel.column:g} {voxel.unit}, {voxel.origin} says so); give both, as in --voxel-size "
            "1.3,0.65um"
        )


def _completed(options: QuantifyOptions, facts: LabelFacts) -> QuantifyOptions:
    """The options with what matseg-run has noted for those that the user has not given."""
    source, ignore = options.source, options.ignore
    source = replace(
        source,
        as_labels=True,
        axis=facts.axis if source.axis is None else source.axis,
        fill_missing_chunks=source.fill_missing_chunks or facts.ours,
    )
    return replace(options, source=source, ignore=UNLABELLED if ignore is None and facts.ours else ignore)


def _voxel_size(options: QuantifyOptions, facts: LabelFacts, source: Source) -> VoxelSize | None:
    """The user's word, else the run's own figure, else what the labels say."""
    if options.voxel_size is not None:  # three numbers are the volume's, however the run has cut it
        return parse_voxel_size(options.voxel_size, 0 if source.volume is None else source.volume.axis)
    known = None
    if facts.voxel is not None and not options.source.level:  # of slices as the run cut them, at their finest
        known = facts.voxel.cut_along(options.source.axis or 0, facts.axis or 0)
    return known or source.voxel_size()


def _measured(options: QuantifyOptions, source: Source, positions: Sequence[int]) -> Iterator[Measured]:
    """Slices in order, several chunks at a time; those of one chunk by one thread, so that none is decoded twice."""
    chunk = 1 if source.volume is None else source.volume.slices_per_chunk
    chunks = [list(group) for _, group in itertools.groupby(positions, lambda position: position // chunk)]
    with ThreadPoolExecutor(options.workers or available_cpus()) as pool:
        try:
            yield from itertools.chain.from_iterable(
                pool.map(partial(_measure_together, options, source), chunks)
            )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _measure_together(options: QuantifyOptions, source: Source, positions: Sequence[int]) -> list[Measured]:
    """Slices of one chunk, read at once; one at a time when that fails, to find those that are broken."""
    items = [source.slices[position] for position in positions]
    found: list[Measured] = []
    try:
        block = source.read(positions[0], positions[-1] + 1)
        for item in items:
            labels = as_labels(block[item.index - positions[0]], item.where)
            regions = measure_regions(labels, connectivity=options.connectivity, unlabelled=options.ignore)
            no_data = labels.size - sum(of.pixels for of in regions.classes)
            position = source.first + item.index
            found.append(SliceRow(name=item.name, position=position, regions=regions, no_data=no_data))
    except TooManyClassesError as error:
        raise UsageError(_too_many(item.where, str(error))) from error
    except ImageError as error:
        if len(positions) > 1:
            return [item for one in positions for item in _measure_together(options, source, [one])]
        broken, reason = items[0], str(error)
        return [ExcludedSlice(name=broken.name, index=broken.index, where=broken.where, reason=reason)]
    return found


def _too_many(where: str, found: str) -> str:
    return (
        f"{where}: expected labels of at most {MOST_CLASSES} classes, found {found}; this looks like an image, or like "
        "numbered objects: give class labels"
    )


def measure_output(
    location: str, records: Sequence[SliceRecord], *, axis: int, connectivity: Connectivity
) -> dict[str, SliceRegions]:
    """Measure slices of a complete volume of matseg-run, cut along a spatial axis; by the records' names.

    Raises:
        UsageError: the output cannot be read.
    """
    names = {record.index: record.name for record in records}
    options = QuantifyOptions(
        labels=location, source=SourceOptions(axis=axis or None), connectivity=connectivity, workers=1
    )
    options = _completed(options, LabelFacts(ours=True))
    found = {}
    with closing(open_labels(location, options.source)) as source:
        for item in _measured(options, source, sorted(names)):
            if isinstance(item, ExcludedSlice):
                raise UsageError(f"its labels cannot be measured: {item.reason}")
            found[names[item.position]] = item.regions
    return found


def measure_images(files: Mapping[str, Path], *, connectivity: Connectivity) -> dict[str, SliceRegions]:
    """Measure label images of matseg-run, whatever else lies in their folder; by the names of their slices.

    Raises:
        UsageError: one cannot be read.
    """
    found = {}
    for name, file in files.items():
        try:
            labels = as_labels(read_stored(file).pixels, str(file))
        except ImageError as error:
            raise UsageError(f"its labels cannot be measured: {error}") from error
        found[name] = measure_regions(labels, connectivity=connectivity, unlabelled=UNLABELLED)
    return found
