"""Measurements on the labels of a run on the way, beside the phase fractions."""

from __future__ import annotations

from dataclasses import dataclass

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.records import Connectivity, SliceRecord, SliceRegions, SliceUncertainty
from matseg_runtime.source.transform import Absent
from matseg_runtime.suggest.uncertainty import measure_uncertainty
from matseg_shared.contract.classes import UNLABELLED


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

    def measure(
        self, segmentation: Segmentation, absent: Absent | None
    ) -> tuple[SliceRegions | None, SliceUncertainty | None]:
        """Regions and uncertainty of one slice, None where not asked for; `absent` is (H, W) where it has no label."""
        regions = uncertainty = None
        if self.regions is not None:
            from matseg_runtime.measure.regions import measure_regions

            regions = measure_regions(segmentation.labels, connectivity=self.regions, unlabelled=UNLABELLED)
        if self.uncertain is not None:
            assert segmentation.probabilities is not None, "the session was not asked for them"
            uncertainty = measure_uncertainty(
                segmentation.probabilities, absent, edge=self.crop, most=self.uncertain
            )
        return regions, uncertainty
