"""What OME-Zarr says of a label image: its axes, and the place and scale of each resolution level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from matseg_runtime.sink.base import LabelVolume
from matseg_runtime.source.base import Spacing
from matseg_runtime.voxel import ome_unit, unit_of
from matseg_shared.metadata import ModelMetadata

OmeVersion = Literal["0.4", "0.5"]
"""0.4 is stored as zarr version 2, 0.5 as zarr version 3; nothing else differs for label images."""
_SMALLEST_LEVEL = 64
"""A pyramid ends when no edge within a slice is longer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One resolution of a label image; all per axis."""

    shape: tuple[int, ...]
    scale: tuple[float, ...]
    """Edge lengths of a voxel."""
    translation: tuple[float, ...]
    """Of the first voxel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiscale:
    """How the levels of one label image are described and stored."""

    version: OmeVersion
    axes: tuple[str, ...]
    """Names of the spatial axes in stored order: three of `z`, `y`, `x`, or `y` and `x` of a single image."""
    units: tuple[str | None, ...]
    """Per axis, as OME-Zarr spells them: `micrometer`."""
    levels: tuple[Level, ...]
    """The finest first."""

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """The version of zarr that it is stored in."""
        return 2 if self.version == "0.4" else 3

    def attributes(self, name: str, metadata: ModelMetadata) -> dict[str, Any]:
        """The attributes of the label image's group.

        Args:
            name: shown by viewers.
            metadata: for class names and colours.
        """
        version = {"version": self.version}
        image = {
            "name": name,
            "axes": [
                {"name": axis, "type": "space"} | ({} if unit is None else {"unit": unit})
                for axis, unit in zip(self.axes, self.units, strict=True)
            ],
            "datasets": [
                {"path": str(number), "coordinateTransformations": _transformations(level)}
                for number, level in enumerate(self.levels)
            ],
        }
        label = {
            "colors": [{"label-value": item.index, "rgba": [*item.colour, 255]} for item in metadata.classes],
            "properties": [{"label-value": item.index, "name": item.name} for item in metadata.classes],
        }
        if self.version == "0.4":
            return {"multiscales": [version | image], "image-label": version | label}
        return {"ome": {**version, "multiscales": [image], "image-label": version | label}}


def alone(volume: LabelVolume, metadata: ModelMetadata, *, pyramid: bool) -> Multiscale:
    """Of labels that are an OME-Zarr of their own.

    Args:
        volume: shape, and spacing where the input tells it.
        metadata: for the pixel size otherwise.
        pyramid: add levels of half the resolution along every axis.
    """
    spacing = volume.spacing or _of_model(metadata)
    shapes = tuple(_halved(volume.shape)) if pyramid else (volume.shape,)
    return Multiscale(
        version="0.5",
        axes=("z", "y", "x"),
        units=(spacing.unit,) * 3,
        levels=tuple(
            Level(
                shape=shape,
                # level n keeps every 2**n-th voxel, so its first voxel stays where it was
                scale=tuple(edge * 2**number for edge in spacing.scale),
                translation=spacing.translation,
            )
            for number, shape in enumerate(shapes)
        ),
    )


def _of_model(metadata: ModelMetadata) -> Spacing:
    size = metadata.pixel_size
    if size is None:
        return Spacing(scale=(1.0,) * 3, translation=(0.0,) * 3)
    unit = unit_of(size.unit)
    return Spacing(
        scale=(size.value,) * 3, translation=(0.0,) * 3, unit=size.unit if unit is None else ome_unit(unit)
    )


def _halved(shape: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    yield shape
    while max(shape[1:]) > _SMALLEST_LEVEL:
        shape = (-(-shape[0] // 2), -(-shape[1] // 2), -(-shape[2] // 2))
        yield shape


def _transformations(level: Level) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(level.scale)}]
    if any(level.translation):
        steps.append({"type": "translation", "translation": list(level.translation)})
    return steps
