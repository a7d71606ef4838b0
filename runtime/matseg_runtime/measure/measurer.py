"""Measurements on the labels of a run on the way, beside the phase fractions, and the time they take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.records import Connectivity, SliceRecord, SliceRegions, SliceUncertainty
from matseg_runtime.suggest.uncertainty import measure_uncertainty


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """The measurements that were asked for."""

    regions: Connectivity | None = None
    """None: no regions."""
    uncertain: int | None = None
    """Number of slices or crops to propose for labelling; None: none."""
    crop: int | None = None
    """Edge of those crops in pixels; None: whole slices."""

    def is_scored(self, record: SliceRecord) -> bool:
        """True where an earlier run has found out how uncertain a slice is, as it is asked for now."""
        if self.uncertain is None:
            return True
        found = record.uncertainty
        if found is None or self.crop is None:
            return found is not None
        return found.edge == self.crop and found.most >= self.uncertain


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The measurements of one slice; None: not asked for."""

    regions: SliceRegions | None = None
    uncertainty: SliceUncertainty | None = None


class Measurer:
    """Measures slices as they are written; several threads may use it at a time."""

    def __init__(self, options: MeasureOptions) -> None:
        self.options = options
        self.seconds = {"regions": 0.0, "uncertainty": 0.0}
        """Spent on each, summed over threads."""
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to `seconds`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - started

    def measure(self, segmentation: Segmentation) -> Measurement:
        """Measure one slice."""
        options, regions, uncertainty = self.options, None, None
        if options.regions is not None:
            from matseg_runtime.measure.regions import measure_regions

            with self.timed("regions"):
                regions = measure_regions(segmentation.labels, connectivity=options.regions)
        if options.uncertain is not None:
            assert segmentation.probabilities is not None, "the session was not asked for them"
            with self.timed("uncertainty"):
                uncertainty = measure_uncertainty(
                    segmentation.probabilities, edge=options.crop, most=options.uncertain
                )
        return Measurement(regions=regions, uncertainty=uncertainty)
