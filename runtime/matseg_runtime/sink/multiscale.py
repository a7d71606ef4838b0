"""The OME-Zarr metadata of a label image: its axes, and the place and scale of each resolution level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from matseg_runtime.sink.base import LabelVolume
from matseg_runtime.source.base import Spacing
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ModelMetadata

OmeVersion = Literal["0.4", "0.5"]
"""0.4 is stored as zarr version 2, 0.5 as zarr version 3; nothing else differs for label images."""
_SMALLEST_LEVEL = 64
"""A pyramid ends when no edge within a slice is longer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One resolution of a label image."""

    shape: tuple[int, ...]
    """Per spatial axis."""
    spacing: Spacing
    """Edge lengths of its voxels, and the place of the first one."""

    def transformations(self) -> list[dict[str, Any]]:
        """As OME-Zarr has them."""
        found: list[dict[str, Any]] = [{"type": "scale", "scale": list(self.spacing.scale)}]
        if any(self.spacing.translation):
            found.append({"type": "translation", "translation": list(self.spacing.translation)})
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiscale:
    """Description of the levels of one label image, and of how they are stored."""

    version: OmeVersion
    axes: tuple[str, ...]
    """Names of the spatial axes in stored order: three of `z`, `y`, `x`, or `y` and `x` of a single image."""
    levels: tuple[Level, ...]
    """The finest first."""

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """The version of zarr that it is stored in."""
        return 2 if self.version == "0.4" else 3

    def attributes(self, name: str, metadata: ModelMetadata) -> dict[str, Any]:
        """The attributes of the label image's group; viewers show its `name`."""
        version = {"version": self.version}
        image = {
            "name": name,
            "axes": [
                {"name": axis, "type": "space"} | ({} if unit is None else {"unit": unit})
                for axis, unit in zip(self.axes, self.levels[0].spacing.units, strict=True)
            ],
            "datasets": [
                {"path": str(number), "coordinateTransformations": level.transformations()}
                for number, level in enumerate(self.levels)
            ],
        }
        label = {
            "colors": [
                *({"label-value": item.index, "rgba": [*item.colour, 255]} for item in metadata.classes),
                {"label-value": UNLABELLED, "rgba": [0, 0, 0, 0]},
            ],
            "properties": [{"label-value": item.index, "name": item.name} for item in metadata.classes],
        }
        if self.version == "0.4":
            return {"multiscales": [version | image], "image-label": version | label}
        return {"ome": {**version, "multiscales": [image], "image-label": version | label}}


def alone(volume: LabelVolume, *, pyramid: bool) -> Multiscale:
    """The level of labels that are an OME-Zarr of their own; a pyramid has more, each of half the resolution."""
    levels = [Level(shape=volume.shape, spacing=volume.spacing)]
    while pyramid and max(levels[-1].shape[1:]) > _SMALLEST_LEVEL:
        finer = levels[-1]
        # a level keeps every second voxel, so its first voxel stays where it was; an edge of one voxel stays as it is
        scale = tuple(
            edge * min(2, length) for edge, length in zip(finer.spacing.scale, finer.shape, strict=True)
        )
        shape = tuple(-(-length // 2) for length in finer.shape)
        levels.append(Level(shape=shape, spacing=replace(finer.spacing, scale=scale)))
    return Multiscale(version="0.5", axes=("z", "y", "x"), levels=tuple(levels))
