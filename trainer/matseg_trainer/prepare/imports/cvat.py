"""CVAT's segmentation masks: pictures of colours, whose classes a `labelmap.txt` names (the layout of PASCAL VOC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matseg_shared.errors import DatasetError
from matseg_shared.images.palette import Colour
from matseg_shared.images.read import IMAGE_SUFFIXES
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.labels import pack, read_values, unpack
from matseg_trainer.prepare.imports.base import OUTSIDE, Export, Indices, LabelledImage, Painted, Size
from matseg_trainer.prepare.imports.files import MASK_FOLDERS, ImageFinder, files_in

LABELMAP = "labelmap.txt"
_BACKGROUND = "background"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Masked(LabelledImage):
    """A picture and its mask of colours."""

    mask: Path
    colours: Mapping[str, Colour]

    def paint(self, size: Size, indices: Indices) -> Painted:
        found = read_values(self.mask, "colour")
        table = {int(pack(np.array(colour))): indices[name] for name, colour in self.colours.items()}
        table.setdefault(0, indices[OUTSIDE])  # black is what CVAT fills the rest with
        counts = zip(*np.unique(found, return_counts=True), strict=True)
        if strange := [f"{unpack(int(value))} ({pixels})" for value, pixels in counts if value not in table]:
            raise DatasetError(
                f"{self.mask}: expected the colours of {LABELMAP}, found others as well, colour (pixels): "
                f"{shorten(strange)}; export it again, and keep masks as PNG"
            )
        return Painted.of_values(found, table, size, str(self.mask))


def read_cvat(labelmap: Path, finder: ImageFinder) -> Export:
    """The pictures of an export of CVAT, masks in the folder `SegmentationClass` beside `labelmap.txt`.

    Raises:
        DatasetError: the layout is another, or `labelmap.txt` is damaged.
    """
    colours = _colours(labelmap)
    folder = labelmap.parent / MASK_FOLDERS[0]
    masks = [path for path in files_in(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not masks:
        raise DatasetError(
            f"{folder}: expected the masks of {LABELMAP}, found none; export the task as Segmentation mask from CVAT"
        )
    names = [mask.relative_to(folder).with_suffix("").as_posix() for mask in masks]
    return Export(
        tool="CVAT segmentation masks",
        images=[
            _Masked(name=name, image=finder.find(name, labelmap), mask=mask, colours=colours)
            for name, mask in zip(names, masks, strict=True)
        ],
        classes=tuple(name for name in colours if name != OUTSIDE),
        colours=colours,
        kind="masks",
    )


def _colours(labelmap: Path) -> dict[str, Colour]:
    """Colour by name, that of `background` under the name of what nobody drew."""
    colours: dict[str, Colour] = {}
    try:
        lines = labelmap.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{labelmap}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(np.uint8(int(part))) for part in rest.partition(":")[0].split(","))
        except (ValueError, OverflowError) as error:
            raise DatasetError(
                f"{labelmap}: expected name:red,green,blue:: in line {number}, found {line!r}; export it again"
            ) from error
        name = OUTSIDE if name.strip().casefold() == _BACKGROUND else name.strip()
        if name in colours or (red, green, blue) in colours.values():
            raise DatasetError(
                f"{labelmap}: expected each name and colour once, found {line!r} in line {number}"
            )
        colours[name] = red, green, blue
    if not colours:
        raise DatasetError(f"{labelmap}: expected names and colours of classes, found none; export it again")
    return colours
