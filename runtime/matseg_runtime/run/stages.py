"""The stages that a block of slices passes: read, infer, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.inference.tiles import segment_images
from matseg_runtime.measure.measurer import Measurement
from matseg_runtime.measure.phase_fractions import class_counts, drift
from matseg_runtime.records import ExcludedSlice, SliceRecord
from matseg_runtime.run.setup import Run
from matseg_runtime.sink.base import Block, Result
from matseg_runtime.sink.volume import VolumeSink
from matseg_runtime.source.base import Slice
from matseg_shared.errors import ImageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedSlice:
    """One slice after reading."""

    slice: Slice
    identity: str
    image: NDArray[Any] | None
    """(C, H, W) in the model's dtype; None: it was excluded."""
    reason: str = ""
    clipped: int = 0
    """Pixels beyond the window."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedBlock:
    """A block after reading."""

    block: Block
    slices: tuple[LoadedSlice, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledBlock:
    """A block after inference."""

    block: Block
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBlock:
    """Records of a block's slices, for the ledger."""

    done: tuple[SliceRecord, ...]
    excluded: tuple[ExcludedSlice, ...]


def read_block(run: Run, block: Block) -> LoadedBlock:
    """Read and convert a block's slices; those that cannot be read are excluded."""
    slices = [loaded for part in consecutive(block.slices) for loaded in _read(run, part)]
    return LoadedBlock(block=block, slices=tuple(slices))


def infer_block(run: Run, loaded: LoadedBlock) -> LabelledBlock:
    """Label the slices of a block that could be read."""
    segmentations = iter(
        segment_images(
            run.session,
            [item.image for item in loaded.slices if item.image is not None],
            tile=run.plan.largest_tile,
            batch=run.plan.batch,
            probabilities=run.probabilities,
            constant_tiles=run.constant_tiles,
        )
    )
    results = tuple(
        _result(run, item, None if item.image is None else next(segmentations)) for item in loaded.slices
    )
    return LabelledBlock(block=loaded.block, results=results)


def write_block(run: Run, labelled: LabelledBlock) -> WrittenBlock:
    """Measure a block's labels and make them durable."""
    measured = [
        run.measure.measure(result.segmentation) if run.measure and result.segmentation else Measurement()
        for result in labelled.results
    ]
    sizes = run.sink.write(labelled.block, labelled.results)
    return WrittenBlock(
        done=tuple(
            _record(result, result.segmentation, size, found)
            for result, size, found in zip(labelled.results, sizes, measured, strict=True)
            if result.segmentation is not None
        ),
        excluded=tuple(
            excluded(result.slice, result.reason)
            for result in labelled.results
            if result.segmentation is None
        ),
    )


def consecutive(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """Split into parts without gaps."""
    part: list[Slice] = []
    for item in slices:
        if part and item.index != part[-1].index + 1:
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def excluded(item: Slice, reason: str) -> ExcludedSlice:
    """The record of a slice without labels."""
    return ExcludedSlice(name=item.name, index=item.index, where=item.where, reason=reason)


def _read(run: Run, part: Sequence[Slice]) -> list[LoadedSlice]:
    """Consecutive slices at once; one at a time when that fails, to find those that are broken."""
    try:
        return _read_together(run, part)
    except ImageError as error:
        if len(part) == 1:
            return [LoadedSlice(slice=part[0], identity=part[0].identity, image=None, reason=str(error))]
    return [loaded for item in part for loaded in _read(run, [item])]


def _read_together(run: Run, part: Sequence[Slice]) -> list[LoadedSlice]:
    loaded = []
    for item, (pixels, identity) in zip(part, run.source.read_unchanged(part), strict=True):
        image = run.transform.convert(pixels, item.where)
        if isinstance(run.sink, VolumeSink) and image.shape[1:] != run.sink.volume.slice_shape:
            expected, found = (
                " x ".join(map(str, shape)) for shape in (run.sink.volume.slice_shape, image.shape[1:])
            )
            raise ImageError(
                item.where, f"expected {expected} pixels, as this volume's slices have, found {found}"
            )
        clipped = run.transform.clipped(pixels)
        loaded.append(LoadedSlice(slice=item, identity=identity, image=image, clipped=clipped))
    return loaded


def _result(run: Run, item: LoadedSlice, segmentation: Segmentation | None) -> Result:
    if segmentation is None or item.image is None:
        return Result(slice=item.slice, identity=item.identity, segmentation=None, reason=item.reason)
    return Result(
        slice=item.slice,
        identity=item.identity,
        segmentation=segmentation,
        counts=class_counts(segmentation.labels, len(run.metadata.classes)),
        drift=drift(item.image, run.metadata.input.histogram),
        clipped=item.clipped,
    )


def _record(result: Result, segmentation: Segmentation, size: int, found: Measurement) -> SliceRecord:
    height, width = segmentation.labels.shape
    return SliceRecord(
        name=result.slice.name,
        index=result.slice.index,
        where=result.slice.where,
        identity=result.identity,
        shape=(height, width),
        counts=result.counts,
        bytes=size,
        drift=result.drift,
        constant=segmentation.constant,
        clipped=result.clipped,
        regions=found.regions,
        uncertainty=found.uncertainty,
    )
