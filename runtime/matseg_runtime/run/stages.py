"""What each stage of the pipeline does with one unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from matseg_runtime.inference.background import ConstantTileCache
from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import Segmentation, segment_images
from matseg_runtime.measure.measurer import Measurement, Measurer
from matseg_runtime.measure.phase_fractions import class_counts, drift
from matseg_runtime.records import ExcludedSlice, SliceRecord
from matseg_runtime.run.plan import Plan
from matseg_runtime.sink.base import Block, Result, Sink
from matseg_runtime.source.base import Slice, Source
from matseg_runtime.source.transform import Transform
from matseg_shared.errors import ImageError

Record = Callable[[Sequence[SliceRecord], Sequence[ExcludedSlice]], None]
"""Remember durably which slices of a unit are labelled, and which were excluded."""


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
    """A unit after reading."""

    unit: Block
    slices: tuple[LoadedSlice, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledBlock:
    """A unit after inference."""

    unit: Block
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The three stages of one job, bound to its parts."""

    source: Source
    transform: Transform
    session: Session
    plan: Plan
    sink: Sink
    record: Record
    probabilities: bool
    answers: ConstantTileCache | None
    """For constant regions; None: the network reads them like all others."""
    slice_shape: tuple[int, int] | None
    """(H, W) that every slice of an output volume must have; None: any."""
    measurer: Measurer
    advance: Callable[[int], None]

    def read(self, unit: Block) -> LoadedBlock:
        """Read and convert a unit's slices; those that cannot be read are excluded."""
        loaded: list[LoadedSlice] = []
        for run in consecutive(unit.slices):
            loaded += self._read_run(run)
        return LoadedBlock(unit=unit, slices=tuple(loaded))

    def infer(self, loaded: LoadedBlock) -> LabelledBlock:
        """Label the slices of a unit that could be read."""
        images = [item.image for item in loaded.slices if item.image is not None]
        segmentations = iter(
            segment_images(
                self.session,
                images,
                tile=self.plan.largest_tile,
                batch=self.plan.batch,
                probabilities=self.probabilities,
                answers=self.answers,
            )
        )
        results = tuple(
            self._result(item, None if item.image is None else next(segmentations)) for item in loaded.slices
        )
        return LabelledBlock(unit=loaded.unit, results=results)

    def write(self, labelled: LabelledBlock) -> None:
        """Measure a unit's labels and make them durable, then record that they are."""
        measured = [
            Measurement() if result.segmentation is None else self.measurer.measure(result.segmentation)
            for result in labelled.results
        ]
        sizes = self.sink.write(labelled.unit, labelled.results)
        self.record(
            [
                _record(result, size, found)
                for result, size, found in zip(labelled.results, sizes, measured, strict=True)
                if result.segmentation is not None
            ],
            [_excluded(result) for result in labelled.results if result.segmentation is None],
        )
        self.advance(len(labelled.results))

    def _read_run(self, run: Sequence[Slice]) -> list[LoadedSlice]:
        """Consecutive slices at once; one at a time when that fails, to find those that are broken."""
        try:
            return self._read_together(run)
        except ImageError as error:
            if len(run) == 1:
                reason = str(error)
                return [LoadedSlice(slice=run[0], identity=run[0].identity, image=None, reason=reason)]
        return [loaded for item in run for loaded in self._read_run([item])]

    def _read_together(self, run: Sequence[Slice]) -> list[LoadedSlice]:
        before = [self.source.current_identity(item.index) for item in run]
        arrays = self.source.read(run[0].index, run[-1].index + 1)
        loaded = []
        for item, identity, pixels in zip(run, before, arrays, strict=True):
            if self.source.current_identity(item.index) != identity:
                raise ImageError(item.where, "changed while it was read; run again when it is complete")
            image = self.transform.convert(pixels, item.where)
            self._check_shape(image, item.where)
            clipped = self.transform.clipped(pixels)
            loaded.append(LoadedSlice(slice=item, identity=identity, image=image, clipped=clipped))
        return loaded

    def _check_shape(self, image: NDArray[Any], where: str) -> None:
        if self.slice_shape is not None and image.shape[1:] != self.slice_shape:
            expected, found = (" x ".join(map(str, shape)) for shape in (self.slice_shape, image.shape[1:]))
            raise ImageError(
                where, f"expected {expected} pixels, as this volume's slices have, found {found}"
            )

    def _result(self, item: LoadedSlice, segmentation: Segmentation | None) -> Result:
        if segmentation is None or item.image is None:
            return Result(slice=item.slice, identity=item.identity, segmentation=None, reason=item.reason)
        metadata = self.session.model.metadata
        return Result(
            slice=item.slice,
            identity=item.identity,
            segmentation=segmentation,
            counts=class_counts(segmentation.labels, len(metadata.classes)),
            drift=drift(item.image, metadata.input.histogram),
            clipped=item.clipped,
        )


def consecutive(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """Split into runs without gaps."""
    run: list[Slice] = []
    for item in slices:
        if run and item.index != run[-1].index + 1:
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _record(result: Result, size: int, found: Measurement) -> SliceRecord:
    assert result.segmentation is not None
    height, width = result.segmentation.labels.shape
    return SliceRecord(
        name=result.slice.name,
        index=result.slice.index,
        where=result.slice.where,
        identity=result.identity,
        shape=(height, width),
        counts=result.counts,
        bytes=size,
        drift=result.drift,
        constant=result.segmentation.constant,
        clipped=result.clipped,
        regions=found.regions,
        uncertainty=found.uncertainty,
    )


def _excluded(result: Result) -> ExcludedSlice:
    return ExcludedSlice(
        name=result.slice.name, index=result.slice.index, where=result.slice.where, reason=result.reason
    )
