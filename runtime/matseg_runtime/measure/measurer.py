"""Measurements on the labels of a run on the way, beside the phase fractions, and the time they take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from matseg_runtime.inference.tiles import Segmentation
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

    @property
    def nothing(self) -> bool:
        """True where a run is as fast as one that knows nothing of measurements."""
        return self.regions is None and self.uncertain is None

    def is_scored(self, record: SliceRecord) -> bool:
        """True where an earlier run has found out how uncertain a slice is, as it is wanted now."""
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


class Costs:
    """Seconds spent, summed over threads."""

    def __init__(self) -> None:
        self.regions = 0.0
        self.uncertainty = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add what the block takes to `regions` or `uncertainty`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                setattr(self, name, getattr(self, name) + time.perf_counter() - started)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"regions": round(self.regions, 3), "uncertainty": round(self.uncertainty, 3)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurer:
    """Measures slices as they are written; several threads may use it at a time."""

    wanted: MeasureOptions
    costs: Costs = field(default_factory=Costs)

    def measure(self, segmentation: Segmentation) -> Measurement:
        """Measure what is wanted of one slice."""
        regions = uncertainty = None
        if self.wanted.regions is not None:
            from matseg_runtime.measure.regions import measure_regions

            with self.costs.of("regions"):
                regions = measure_regions(segmentation.labels, connectivity=self.wanted.regions)
        if self.wanted.uncertain is not None:
            assert segmentation.probabilities is not None, "the session was not asked for them"
            edge, most = self.wanted.crop, self.wanted.uncertain
            with self.costs.of("uncertainty"):
                uncertainty = measure_uncertainty(segmentation.probabilities, edge=edge, most=most)
        return Measurement(regions=regions, uncertainty=uncertainty)
