"""The data set `discs`."""

from discs import workspace

__all__ = ["workspace"]
