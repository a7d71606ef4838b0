"""Findings on a data set that a plan is made of: one pass over labels and images."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.transform import NoDataOptions
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import DatasetError
from matseg_shared.images.read import PixelArray
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.class_positions import ClassPositions
from matseg_trainer.data.examples import Example, Examples, context_of_set
from matseg_trainer.data.folder import Dataset, images_in, shorten
from matseg_trainer.prepare.structures import Structure, measure_structures

LOOKED_AT = 8
"""Images, spread evenly, in which structures and directions are measured."""
WHOLE = 0.5
"""Labelled share of an image, or of all, below which labels are strokes, whose size says nothing of the structures."""
_MIDDLE = 2048
"""Edge in pixels of the middle of an image whose gradients are looked at."""
_SMOOTHING = 2.0
"""Standard deviation in pixels of the smoothing before gradients, so that noise has no say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataFacts:
    """Findings on the training images and their labels."""

    stems: tuple[str, ...]
    """Names of the images of train/ without suffix, in natural order."""
    shapes: tuple[tuple[int, int], ...]
    """(H, W) of each image in pixels."""
    channels: int
    names: tuple[str, ...]
    """Names of the classes."""
    counts: NDArray[np.int64]
    """(N, K) labelled pixels of each image and class."""
    structures: tuple[Structure, ...]
    """Structures of each class."""
    direction: float
    """Strength of a direction that all images share, from 0 to 1."""
    validation: int
    """Images in validate/."""
    context: int = 0
    """Neighbours on either side that each image has among its channels."""

    @property
    def labelled(self) -> int:
        """Labelled pixels."""
        return int(self.counts.sum())

    @property
    def labelled_share(self) -> float:
        """Those, of all pixels."""
        return self.labelled / sum(height * width for height, width in self.shapes)

    @property
    def has_strokes(self) -> bool:
        """True where so little is labelled that nothing tells how large the structures are."""
        return self.labelled_share < WHOLE

    @property
    def words(self) -> str:
        """Images, classes and structures, for a person."""
        sizes = [f"{height} x {width}" for height, width in sorted({*self.shapes})]
        number = "one image" if len(self.stems) == 1 else f"{len(self.stems)} images"
        channels = "one channel" if self.channels == 1 else f"{self.channels} channels"
        if self.context:
            channels += f" ({self.context} slices on either side among them)"
        told = [f"{number} of {shorten(sizes)} pixels, {channels}"]
        for name, share, item in zip(self.names, self.shares, self.structures, strict=True):
            thin = "" if item.thickness is None else f", {item.thickness} pixels thick where it is thin"
            long = "" if item.extent is None else f", regions {item.extent} long"
            told.append(f"{name} {share:.2%}{thin}{long}")
        return "; ".join(told)

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) share of each class among the labelled pixels."""
        shares: NDArray[np.float64] = self.counts.sum(axis=0) / self.labelled
        return shares


def look_at(dataset: Dataset, config: VersionConfig, progress: Progress = SILENT) -> DataFacts:
    """Go through the images of train/ and their label arrays; of `config`, the keys that say what the data are count.

    Raises:
        DatasetError: see `Dataset.samples` and `load_array`; or there is nothing to learn: labels of one class, images
            of one value.
    """
    samples, names = dataset.samples("train"), tuple(item.name for item in dataset.classes)
    images = Examples(
        samples,
        n_class=len(names),
        channels=config.channel_count,
        choice=config.channel_choice,
        context=context_of_set(samples, config),
        no_data=NoDataOptions(no_data=config.no_data or (), crop_bottom=config.crop_bottom),
    )
    chosen = {*np.linspace(0, len(samples) - 1, min(LOOKED_AT, len(samples))).astype(int).tolist()}
    counts, shapes, looked_at, directions = [], [], [], []
    values: set[float] = set()
    progress.stage("looking at the data", len(samples), unit="images")
    for number in range(len(samples)):
        example: Example = images[number]
        counts.append(ClassPositions(example.labels).counts[: len(names)])
        shapes.append((example.labels.shape[0], example.labels.shape[1]))
        values.update((example.data.min().item(), example.data.max().item()))
        if number in chosen:
            if counts[-1].sum() >= WHOLE * example.labels.size:
                looked_at.append(example.labels)
            directions.append(_direction(example.pixels))
        progress.advance()
    facts = DataFacts(
        stems=tuple(sample.stem for sample in samples),
        shapes=tuple(shapes),
        channels=int(example.pixels.shape[0]),
        context=images.context,
        names=names,
        counts=np.array(counts, np.int64),
        structures=measure_structures(looked_at, len(names)),
        direction=_shared(directions),
        validation=len(images_in(dataset.root / "validate" / "images")),
    )
    _require_contrast(facts, dataset, is_constant=len(values) == 1)
    return facts


def _require_contrast(facts: DataFacts, dataset: Dataset, *, is_constant: bool) -> None:
    there = np.flatnonzero(facts.counts.sum(axis=0)).tolist()
    if len(there) == 1:
        raise DatasetError(
            f"{dataset.folder('train', 'labels')}: expected labels of two classes at least, found "
            f"{facts.names[there[0]]!r} alone; label some of another class, or see `matseg-prep check "
            f"{shlex.quote(dataset.name)}`"
        )
    if is_constant:
        raise DatasetError(
            f"{dataset.folder('train', 'images')}: expected images that show something, found one and the same value "
            "in all their pixels; save them again from where they came from"
        )


def _direction(pixels: PixelArray) -> NDArray[np.float64]:
    """(2,) direction of the gradients of (C, H, W) pixels, as a vector at twice its angle, of length 0 to 1.

    The angle and coherence of the structure tensor (Bigun and Granlund 1987) over the image, or its middle. Turned by a
    quarter the image has the opposite vector.
    """
    from scipy import ndimage  # of the extra `train`

    top, left = ((full - min(full, _MIDDLE)) // 2 for full in pixels.shape[1:])
    middle = pixels[:, top : top + _MIDDLE, left : left + _MIDDLE]
    grey = ndimage.gaussian_filter(middle.mean(axis=0, dtype=np.float32), _SMOOTHING)
    down, right = np.gradient(grey) if min(grey.shape) > 1 else (np.zeros(1), np.zeros(1))
    total = float(np.mean(right**2 + down**2))
    if not math.isfinite(total) or total == 0:
        return np.zeros(2)
    return np.array([np.mean(right**2 - down**2), 2 * np.mean(right * down)], np.float64) / total


def _shared(directions: Sequence[NDArray[np.float64]]) -> float:
    """Length of the vectors along their mean, of the image where that is least; 0 where one goes against it."""
    mean = np.mean(directions, axis=0)
    length = float(np.linalg.norm(mean))
    return 0.0 if length == 0 else max(0.0, min(float(one @ mean) / length for one in directions))
