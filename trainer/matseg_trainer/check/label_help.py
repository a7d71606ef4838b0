"""Likely slips in a data set: for a person to look at, since they may be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.check.alignment import find_misalignment, find_turn
from matseg_trainer.check.similarity import (
    COPY,
    NEAR_COPY,
    Neighbour,
    Thumbnail,
    nearest_neighbours,
    thumbnail,
    to_grey,
)
from matseg_trainer.data.folder import shorten

FindingKind = Literal["tiny_regions", "misaligned", "turned", "scale", "copy", "near_copy", "shared_source"]
_CROP = re.compile(r"(?P<source>.+)_x(?P<x>\d+)_y(?P<y>\d+)")
"""The names that `matseg-prep crop` gives."""
_NARROW = 0.1
"""Share of the usual span of intensities; as narrow as this, `matseg-run` takes them for another scale, too."""
_TINY = 4
"""Regions of at most this many pixels are slips of the brush more often than material."""
_PLACES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One file that deserves a look."""

    path: Path
    kind: FindingKind
    message: str
    """Observation and remedy."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyRegions:
    """The tiny regions of one class in one label image."""

    index: int
    """The class."""
    count: int
    places: tuple[tuple[int, int], ...]
    """(x, y) of a pixel of each of the first few, from the top."""


@dataclass(slots=True)
class LabelHelp:
    """Findings of a data set, image by image; `finish` compares the images with each other."""

    classes: tuple[ClassInfo, ...] | None
    findings: list[Finding] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    spans: list[tuple[Path, float, float]] = field(default_factory=list)
    """First and 99th percentile of each image's intensities."""

    def examine(
        self, split: str, image: Path, pixels: NDArray[np.generic], labels: NDArray[np.uint8] | None
    ) -> None:
        """Examine one image of (H, W) or (H, W, 3) pixels, and its (H, W) class indices if there are good ones."""
        grey = to_grey(pixels)
        low, high = np.percentile(grey[:: 1 + grey.shape[0] // 512, :: 1 + grey.shape[1] // 512], [1, 99])
        self.spans.append((image, float(low), float(high)))
        if (reduced := thumbnail(split, image, grey)) is not None:
            self.thumbnails.append(reduced)
        if labels is None:
            return
        if tiny := find_tiny_regions(labels):
            found = f"region(s) of at most {_TINY} pixels: {'; '.join(map(self._tiny, tiny))}"
            self._report(image, "tiny_regions", f"{found}; repaint what is a slip of the brush")
        if (turn := find_turn(grey, labels)) is not None:
            remedy = "see whether image and label image were turned alike"
            self._report(image, "turned", f"its labels would fit better {turn}; {remedy}")
        elif (shift := find_misalignment(grey, labels)) is not None:
            down = f"{abs(shift.dy)} pixel(s) {'down' if shift.dy > 0 else 'up'}"
            right = f"{abs(shift.dx)} to the {'right' if shift.dx > 0 else 'left'}"
            found = f"its labels would fit better moved {down} and {right}"
            gain = f"(edges under the boundaries {shift.gain:.2f} times as strong)"
            remedy = "see whether image and label image were cropped alike"
            self._report(image, "misaligned", f"{found} {gain}; {remedy}")

    def finish(self) -> tuple[Neighbour, ...]:
        """Compare all images; the nearest neighbour in other splits of each image.

        Raises:
            ImageError: an image is gone or damaged by now.
        """
        self._report_scales()
        neighbours = nearest_neighbours(self.thumbnails)
        pairs = {frozenset((item.path, item.other)): item for item in neighbours}
        for item in pairs.values():
            self._report_copy(item, item.detail or 0.0)
        for path, message in _shared_sources([(item.split, item.path) for item in self.thumbnails]):
            self._report(path, "shared_source", message)
        return tuple(item for item in neighbours if item.split != item.other_split)

    def _report_scales(self) -> None:
        """Images that span a small part of what the others do; empty ones are left out."""
        usual = np.median([high - low for _, low, high in self.spans]) if self.spans else 0.0
        remedy = "see whether it is of another bit depth or unit"
        for path, low, high in self.spans:
            if 0 < high - low < _NARROW * usual:
                found = f"98% of its intensities lie between {low:g} and {high:g}"
                middle = f"those of the images in the middle span {usual:g}"
                self._report(path, "scale", f"{found}, {middle}; {remedy}")

    def _tiny(self, found: TinyRegions) -> str:
        name = self.classes[found.index].name if self.classes else f"class {found.index}"
        places = ", ".join(f"x {x} y {y}" for x, y in found.places)
        more = ", ..." if found.count > len(found.places) else ""
        return f"{found.count} of {name} ({places}{more})"

    def _report_copy(self, item: Neighbour, detail: float) -> None:
        if detail < NEAR_COPY:
            return
        kind: FindingKind = "copy" if detail >= COPY else "near_copy"
        what = "is the same picture as" if kind == "copy" else "is nearly the same picture as"
        other = f"{item.other_split}/images/{item.other.name}"
        way = "" if item.how == "as it is" else f" ({item.how})"
        remedy = "figures on one split would tell of the other, so remove it from one"
        if item.split == item.other_split:
            remedy = "remove one, unless that is meant"
        self._report(item.path, kind, f"{what} {other}{way}, correlation of details {detail:.3f}; {remedy}")

    def _report(self, path: Path, kind: FindingKind, message: str) -> None:
        self.findings.append(Finding(path=path, kind=kind, message=message))


def find_tiny_regions(labels: NDArray[np.uint8]) -> tuple[TinyRegions, ...]:
    """Regions of at most 4 pixels in (H, W) class indices; 8 neighbours, so a thin diagonal line is one.

    What lies beside unlabelled pixels is what somebody drew, however small.
    """
    from scipy import ndimage

    blank = labels == UNLABELLED
    drawn_alone = ndimage.binary_dilation(blank, np.ones((3, 3), dtype=bool)) & ~blank
    found = []
    for index in np.unique(labels[labels != UNLABELLED]).tolist():
        regions, _ = ndimage.label(labels == index, structure=np.ones((3, 3), dtype=bool))
        sizes = np.bincount(regions.ravel())
        sizes[regions[drawn_alone]] = _TINY + 1
        tiny = np.flatnonzero(sizes[1:] <= _TINY) + 1
        if tiny.size:
            rows = [np.argwhere(regions == number)[0].tolist() for number in tiny[:_PLACES]]
            places = tuple((x, y) for y, x in rows)
            found.append(TinyRegions(index=index, count=int(tiny.size), places=places))
    return tuple(found)


def _shared_sources(images: Sequence[tuple[str, Path]]) -> Iterator[tuple[Path, str]]:
    """Images of different splits that have one name, or are crops of one image by their names."""
    groups: dict[str, dict[str, list[Path]]] = {}
    for split, path in images:
        match = _CROP.fullmatch(path.stem)
        source = match["source"] if match else path.stem
        groups.setdefault(source, {}).setdefault(split, []).append(path)
    for source, splits in groups.items():
        if len(splits) < 2:
            continue
        (first, *_), *others = splits.values()
        names = {split: shorten([path.name for path in paths]) for split, paths in splits.items()}
        listing = "; ".join(f"{split}: {listed}" for split, listed in names.items())
        same = f"by its name it shows the same as {sum(map(len, others))} image(s) of other splits"
        yield first, f"{same}, all of {source} ({listing}); keep what comes from one image in one split"
