"""The small and real data sets of `matseg-prep`'s tests."""

from labelled_sets import prep, real, small, workspace

__all__ = ["prep", "real", "small", "workspace"]
