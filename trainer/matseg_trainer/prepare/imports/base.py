"""An export of another tool in terms of pictures and named areas, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.transform import Window
from matseg_runtime.units import VoxelSize
from matseg_shared.contract.classes import LabelValue
from matseg_shared.errors import DatasetError
from matseg_shared.images.channels import ChannelChoice
from matseg_shared.images.palette import Colour
from matseg_shared.images.read import PixelArray
from matseg_trainer.data.class_table import MAX_MOVED

OUTSIDE = "\0"
"""Stands for what lies outside of everything drawn, among the names of classes."""
Picture = Path | bytes | Callable[[], PixelArray] | None
"""File, content of a file, or a function that reads (H, W) or (H, W, C) pixels; None: not found."""
Size = tuple[int, int]
"""(H, W) in pixels."""
Indices = Mapping[str, int]
"""Class name -> the value in label images; `UNLABELLED` for what is no class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """Request of an import, and how its labels are meant."""

    source: str
    """An export (file, folder or zip), or with `labels` the images or the volume themselves."""
    images: str | None = None
    """Place of the pictures, when not beside the export: a folder, an image, a stack."""
    labels: str | None = None
    """A label volume, or a folder of label images."""
    split: str = "train"
    axis: int | None = None
    """Axis of a volume to slice along."""
    axes: str | None = None
    """A letter per axis of a volume, see `SourceOptions`."""
    channels: ChannelChoice = ()
    """Channels of the pictures that are taken."""
    context: int = 0
    """Slices of a volume on either side of a labelled one that are stored with it, as channels."""
    classes: int | None = None
    """Number of classes among label values; None: as many as stand for something."""
    named: tuple[tuple[str, LabelValue | None], ...] = ()
    """Classes and label values, see `LabelRequest.classes`."""
    nearest: bool = False
    """Take a stray label value for the nearest class."""
    max_moved: float = MAX_MOVED
    """The largest share of an image's pixels that `nearest` may move, in percent."""
    unlabelled: tuple[str, ...] = ()
    """Label values, or names of classes, whose pixels nobody labelled."""
    outside: str | None = None
    """Class of what lies outside of all shapes; `unlabelled`: nobody said. None: `background`."""
    window: Window | None = None
    """Intensities that become black and white of 16-bit pictures; None: pictures stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Painted:
    """The labels of one picture, and what happened to its shapes."""

    labels: NDArray[np.uint8]
    """(H, W) values of `Indices`."""
    happened: Counter[Literal["covered", "clipped", "too small"]] = field(default_factory=Counter)
    """Pixels that a later shape of another class took over; shapes of which a part lies outside of the picture; and
    such as hold no pixel's centre."""

    @classmethod
    def of_values(
        cls, found: NDArray[np.integer[Any]], table: Mapping[int, int], size: Size, where: str
    ) -> Painted:
        """Labels from (H, W) values, each of which the table has; raises a DatasetError for another size."""
        if found.shape != size:
            raise DatasetError(
                f"{where}: expected {size[0]} x {size[1]} pixels (rows x columns) as its picture has, found "
                f"{found.shape[0]} x {found.shape[1]}; was the picture scaled after it was labelled?"
            )
        values, inverse = np.unique(found, return_inverse=True)
        return cls(
            labels=np.array([table[value] for value in values.tolist()], np.uint8)[inverse].reshape(size)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImage(ABC):
    """One picture of an export."""

    name: str
    """As the export has it, perhaps with folders."""
    image: Picture
    size: Size | None = None
    """As the export states it."""
    voxel: VoxelSize | None = None

    @abstractmethod
    def paint(self, size: Size, indices: Indices) -> Painted:
        """Its labels, for a picture of that size; raises a UsageError where they do not fit it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Export:
    """All pictures of an export."""

    tool: str
    images: Sequence[LabelledImage]
    classes: tuple[str, ...]
    """In the export's order."""
    colours: Mapping[str, Colour] = field(default_factory=dict)
    """Colours of those classes that have one."""
    unlabelled: frozenset[str] = frozenset()
    """Names that mean: nobody said."""
    kind: Literal["shapes", "masks", "values"] = "shapes"
    """Areas one over the other; pictures in which something may be left out; or values of which each is a class."""
    notes: tuple[str, ...] = ()
