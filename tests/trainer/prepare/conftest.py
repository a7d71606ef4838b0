"""The small and real data sets of `matseg-prep`'s tests, and what labels of other tools are of."""

from label_exports import pictures, volume
from labelled_sets import prep, real, small, workspace

__all__ = ["pictures", "prep", "real", "small", "volume", "workspace"]
