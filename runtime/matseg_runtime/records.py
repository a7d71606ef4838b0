"""What is measured on one slice, as whole numbers: they add up exactly, whoever measured which slice, in any order."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Connectivity = Literal[4, 8]
"""Which pixels of one class belong together: those that share an edge (4), or also those that share a corner (8)."""


class Record(BaseModel):
    """Base of what a ledger holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ClassRegions(Record):
    """One class in one slice."""

    value: int
    """Of the class in the labels."""
    pixels: int
    regions: int
    """Connected regions, those at the edge included."""
    at_edge: int = 0
    """Regions that the edge of the slice (or of its labelled part) cuts off, whose size is therefore not known."""
    crossings: tuple[int, int, int, int]
    """Neighbouring pixels of which one is of the class and the other of another: along rows, along columns, along
    the falling and along the rising diagonals."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(area in pixels, number of regions that have it) of the regions that are not at the edge; ascending."""


class SliceRegions(Record):
    """All classes of one slice."""

    connectivity: Connectivity
    pairs: tuple[int, int, int, int]
    """Pairs of labelled neighbouring pixels, in the directions of `ClassRegions.crossings`."""
    classes: tuple[ClassRegions, ...]
    """Those that occur, by ascending value."""


class CropScore(Record):
    """One square of a slice, and how unsure the model is in it."""

    y: int
    x: int
    """Upper-left corner in pixels."""
    doubtful: int
    """Pixels in doubtful places."""
    unsureness: int
    """Sum over its pixels, in 255ths."""


class SliceUncertainty(Record):
    """How unsure a model is of one slice; `uncertainty` says what that means."""

    doubtful: int
    """Pixels in doubtful places."""
    unsureness: int
    """Sum over all pixels, in 255ths."""
    edge: int | None = None
    """Of the crops in pixels; None: crops were not asked for."""
    most: int = 0
    """So many crops were asked for; there may be fewer."""
    crops: tuple[CropScore, ...] = ()
    """That do not overlap, the most uncertain first."""
