"""The stages that a block of slices passes: read, infer, write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, zip_longest

import numpy as np

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.inference.tiles import segment_images
from matseg_runtime.inference.votes import TOGETHER, Ballot, decide
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

Piece = Sequence[Sequence[ReadSlice]]
"""Slices that are inferred together, each in the middle of the neighbours that the model sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBlock:
    """Records of a block's slices, for the ledger."""

    done: tuple[SliceRecord, ...]
    excluded: tuple[ExcludedSlice, ...]


def read_block(run: Run, block: Block) -> list[Piece]:
    """Read and convert a block's slices; those that cannot be read are excluded."""
    found: Sequence[Sequence[ReadSlice]]
    if run.neighbours is None:
        found = [[one] for part in consecutive(block.slices) for one in _read(run, part)]
    else:
        found = run.neighbours.around_each(block.slices, partial(_read, run))
    return [
        list(some) for _, some in groupby(found, lambda seen: _result(seen).slice.index // run.plan.piece)
    ]


def infer_piece(run: Run, piece: Piece) -> tuple[Result, ...]:
    """Label those slices of a piece that could be read."""
    readable = [seen for seen in piece if not _result(seen).reason]
    segmentations = iter((_segmented if run.options.consensus is None else _voted)(run, readable))
    results = map(_result, piece)
    return tuple(item if item.reason else _labelled(run, item, next(segmentations)) for item in results)


def write_block(run: Run, block: Block, labelled: Iterable[Sequence[Result]]) -> WrittenBlock:
    """Make a block's labels durable, and measure them."""
    results = tuple(chain.from_iterable(labelled))
    sizes = run.sink.write(block, results)
    if run.thumbnails is not None:
        run.thumbnails.add_labels(results)
    return WrittenBlock(
        done=tuple(
            _record(run, result, result.segmentation, size)
            for result, size in zip(results, sizes, strict=True)
            if result.segmentation is not None
        ),
        excluded=tuple(
            excluded(result.slice, result.reason) for result in results if result.segmentation is None
        ),
    )


def _result(seen: Sequence[ReadSlice]) -> Result:
    """The result of the slice in the middle; before inference without labels."""
    return seen[len(seen) // 2].result


def _segmented(run: Run, piece: Piece) -> Sequence[Segmentation]:
    return segment_images(
        run.session,
        [
            join_converted(
                [one.image for one in seen if one.image is not None],
                [one.result.absent for one in seen],
                run.metadata.input.mean,
            )
            for seen in piece
        ],
        tile=run.plan.largest_tile,
        batch=run.plan.batch,
        probabilities=run.probabilities and run.options.consensus is None,
        votes=run.probabilities and run.options.consensus is not None,
        constant_tiles=run.constant_tiles,
    )


def _voted(run: Run, piece: Piece) -> Iterator[Segmentation]:
    """Votes of a pass, or the decision on all passes; a batch at a time, for its probabilities are large."""
    first = _result(piece[0]).slice.index // TOGETHER * TOGETHER
    stored = [(each, each.read(first, first + TOGETHER)) for each in run.votes]
    for start in range(0, len(piece), run.plan.batch):
        some = piece[start : start + run.plan.batch]
        own = _segmented(run, some) if run.probabilities else ()
        if not run.votes:
            yield from own
            continue
        for seen, found in zip_longest(some, own):
            index = _result(seen).slice.index
            ballots = [each.ballot(votes[:, index - first], index) for each, votes in stored]
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
        if run.thumbnails is not None:
            run.thumbnails.take(result, pixels, image)
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


def _record(run: Run, result: Result, segmentation: Segmentation, size: int) -> SliceRecord:
    height, width = segmentation.labels.shape
    no_data, absent = run.transform.no_data, result.absent
    regions, uncertainty = (None, None) if run.measure is None else run.measure.measure(segmentation, absent)
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
        regions=regions,
        uncertainty=uncertainty,
        disagreement=result.disagreement,
    )
