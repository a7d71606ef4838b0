"""The stages that a block of slices passes: read, infer, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.inference.tiles import segment_images
from matseg_runtime.inference.votes import TOGETHER, Ballot, decide
from matseg_runtime.measure.measurer import Measurement
from matseg_runtime.measure.phase_fractions import class_counts, drift
from matseg_runtime.records import ExcludedSlice, SliceRecord
from matseg_runtime.run.neighbours import ReadSlice
from matseg_runtime.run.setup import Run
from matseg_runtime.sink.base import Block, Result
from matseg_runtime.sink.volume import VolumeSink
from matseg_runtime.source.base import Slice
from matseg_runtime.source.transform import join_converted
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import ImageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockInWork:
    """A block between two stages."""

    block: Block
    results: tuple[Result, ...]
    """Results of all its slices; before inference without labels."""
    images: tuple[Sequence[ReadSlice], ...] = ()
    """The slices that could be read, each in the middle of the neighbours that the model sees; none after inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBlock:
    """Records of a block's slices, for the ledger."""

    done: tuple[SliceRecord, ...]
    excluded: tuple[ExcludedSlice, ...]


def read_block(run: Run, block: Block) -> BlockInWork:
    """Read and convert a block's slices; those that cannot be read are excluded."""
    found: Sequence[Sequence[ReadSlice]]
    if run.neighbours is None:
        found = [[one] for part in consecutive(block.slices) for one in _read(run, part)]
    else:
        found = run.neighbours.around_each(block.slices, partial(_read, run))
    results = tuple(seen[len(seen) // 2].result for seen in found)
    images = tuple(seen for seen, result in zip(found, results, strict=True) if not result.reason)
    return BlockInWork(block=block, results=results, images=images)


def infer_block(run: Run, read: BlockInWork) -> BlockInWork:
    """Label the slices of a block that could be read."""
    segmentations = iter(_segmented(run, read) if run.options.consensus is None else _voted(run, read))
    results = tuple(
        item if item.reason else _labelled(run, item, next(segmentations)) for item in read.results
    )
    return BlockInWork(block=read.block, results=results)


def write_block(run: Run, labelled: BlockInWork) -> WrittenBlock:
    """Measure a block's labels and make them durable."""
    measured = [
        run.measure.measure(result.segmentation, result.absent)
        if run.measure and result.segmentation
        else Measurement()
        for result in labelled.results
    ]
    sizes = run.sink.write(labelled.block, labelled.results)
    return WrittenBlock(
        done=tuple(
            _record(run, result, result.segmentation, size, found)
            for result, size, found in zip(labelled.results, sizes, measured, strict=True)
            if result.segmentation is not None
        ),
        excluded=tuple(
            excluded(result.slice, result.reason)
            for result in labelled.results
            if result.segmentation is None
        ),
    )


def _segmented(run: Run, read: BlockInWork) -> Sequence[Segmentation]:
    return segment_images(
        run.session,
        [_joined(run, seen) for seen in read.images],
        tile=run.plan.largest_tile,
        batch=run.plan.batch,
        probabilities=run.probabilities and run.options.consensus is None,
        votes=run.probabilities and run.options.consensus is not None,
        constant_tiles=run.constant_tiles,
    )


def _voted(run: Run, read: BlockInWork) -> Iterator[Segmentation]:
    """Votes of a pass, or the decision on all passes; a few slices at a time, for their probabilities are large."""
    slices, images = [item.slice for item in read.results if not item.reason], iter(read.images)
    for place, group in groupby(slices, key=lambda item: item.index // TOGETHER):
        items, first = list(group), place * TOGETHER
        stored = [(each, each.read(first, first + TOGETHER)) for each in run.votes]
        for start in range(0, len(items), run.plan.batch):
            some = items[start : start + run.plan.batch]
            pixels = tuple(islice(images, len(some)))
            own = _segmented(run, replace(read, images=pixels)) if run.probabilities else ()
            if not run.votes:
                yield from own
                continue
            for item, found in zip_longest(some, own):
                ballots = [each.ballot(votes[:, item.index - first], item.index) for each, votes in stored]
                if found is not None and found.votes is not None:
                    ballots.append(Ballot(votes=found.votes))
                decided = decide(ballots, probabilities=run.options.output.probabilities)
                yield replace(decided, constant=0 if found is None else found.constant)


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


def _joined(run: Run, seen: Sequence[ReadSlice]) -> NDArray[Any]:
    """(C, H, W) input of the model for a slice amid its neighbours."""
    images = [one.image for one in seen if one.image is not None]
    return join_converted(images, [one.result.absent for one in seen], run.metadata.input.mean)


def _read(run: Run, part: Sequence[Slice]) -> list[ReadSlice]:
    """Consecutive slices at once; one at a time when that fails, to find those that are broken."""
    try:
        return _read_together(run, part)
    except ImageError as error:
        if len(part) == 1:
            (item,) = part
            result = Result(slice=item, identity=item.identity, segmentation=None, reason=str(error))
            return [ReadSlice(result, None)]
    return [one for item in part for one in _read(run, [item])]


def _read_together(run: Run, part: Sequence[Slice]) -> list[ReadSlice]:
    found: list[ReadSlice] = []
    for item, (pixels, identity) in zip(part, run.source.read_unchanged(part), strict=True):
        absent = run.transform.absent(pixels, item)
        image = run.transform.convert(pixels, item.where, absent)
        if isinstance(run.sink, VolumeSink) and image.shape[1:] != run.sink.volume.slice_shape:
            expected, shape = (
                " x ".join(map(str, shape)) for shape in (run.sink.volume.slice_shape, image.shape[1:])
            )
            raise ImageError(
                item.where, f"expected {expected} pixels, as this volume's slices have, found {shape}"
            )
        result = Result(
            slice=item,
            identity=identity,
            segmentation=None,
            drift=drift(image if absent is None else image[:, ~absent], run.metadata.input.histogram),
            clipped=run.transform.clipped(pixels, absent),
            absent=absent,
        )
        found.append(ReadSlice(result, image))
    return found


def _labelled(run: Run, result: Result, segmentation: Segmentation) -> Result:
    if result.absent is not None:
        np.copyto(segmentation.labels, UNLABELLED, where=result.absent)
        if segmentation.probabilities is not None:
            np.copyto(segmentation.probabilities, 0, where=result.absent)
        if segmentation.votes is not None:
            np.copyto(segmentation.votes, 0, where=result.absent)
        if segmentation.disagreement is not None:
            np.copyto(segmentation.disagreement, UNLABELLED, where=result.absent)
    counts, differ = class_counts(segmentation.labels, len(run.metadata.classes)), segmentation.disagreement
    result = replace(result, segmentation=segmentation, counts=counts)
    if differ is None:
        return result
    if run.options.output.disagreement is None:  # it is kept for nobody
        result = replace(result, segmentation=replace(segmentation, disagreement=None))
    return replace(result, disagreement=int(np.count_nonzero((differ > 0) & (differ < UNLABELLED))))


def _record(
    run: Run, result: Result, segmentation: Segmentation, size: int, found: Measurement
) -> SliceRecord:
    height, width = segmentation.labels.shape
    no_data, absent = run.transform.no_data, result.absent
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
        no_data=0 if absent is None else int(np.count_nonzero(absent)),
        neighbours=result.neighbours,
        rows_cut=0 if absent is None or no_data is None else no_data.rows_cut(result.slice),
        regions=found.regions,
        uncertainty=found.uncertainty,
        disagreement=result.disagreement,
    )
