"""Volumes whose labels are known, made or read, and how wrong other labels of them are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from matseg_runtime.measure.blocks_3d import Crossings
from matseg_runtime.measure.regions_3d import measure_volume
from matseg_runtime.units import PIXEL, VoxelSize
from matseg_shared.errors import UsageError
from matseg_shared.images.palette import default_colours
from matseg_shared.system.files import atomic_write
from matseg_trainer.demo.phantom import make_scan, render_slice
from matseg_trainer.evaluate.overlay import FALSE_NEGATIVE

Labels = NDArray[np.uint8]
"""(D, H, W) class indices."""
_CUBE = VoxelSize(step=1.0, row=1.0, column=1.0, unit=PIXEL)
_CONTRAST, _NOISE, _RING = 28.0, 14.0, 7.0
"""Greys between classes, and standard deviations of noise and of rings, in 8-bit levels."""
_MOST_CLASSES = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One volume to learn from and one to measure on."""

    name: str
    train: tuple[NDArray[np.uint8], Labels]
    """Greys (D, H, W), and what they show."""
    test: tuple[NDArray[np.uint8], Labels]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Measures of the errors of labels."""

    mean_iou: float
    displacement: float
    """Mean distance between the boundaries of labels and truth, from either to the nearest of the other; voxels."""
    flips: float
    """Share of the voxels whose label is another than that of the slice before and of the slice behind."""
    surface: float
    """Area of all boundaries, over the truth's."""


def phantom(shape: tuple[int, int], seed: int) -> Case:
    """The demo's scans through dendrites, one for each part, of (depth, edge) voxels.

    Noise is correlated within slices and not between them; rings run through all slices.
    """
    train, test = (_scan(shape, 2 * seed + part) for part in range(2))
    return Case(name="phantom", train=train, test=test)


def _scan(shape: tuple[int, int], seed: int) -> tuple[NDArray[np.uint8], Labels]:
    depth, edge = shape
    scan = make_scan(seed)
    heights = (np.arange(depth) - depth / 2) / edge  # voxels are cubes
    slices = [render_slice(scan, float(z), edge) for z in heights]
    return np.stack([grey for grey, _ in slices]), np.stack([labels for _, labels in slices])


def simulated(path: Path, shape: tuple[int, int], seed: int) -> Case:
    """A label volume from a TIFF as a scan would show it: its first half to learn from, its second to be measured on.

    Blurred by 0.8 voxels, with a shade from slice to slice, rings that run through all slices, and noise that is
    correlated within slices and not between them.
    """
    values, labels = np.unique(tifffile.imread(path), return_inverse=True)
    if labels.ndim != 3 or not 2 <= len(values) <= _MOST_CLASSES:
        raise UsageError(
            f"{path}: expected a volume of 2 to {_MOST_CLASSES} classes, found {labels.ndim} axes and {len(values)} "
            "values"
        )
    depth, edge = shape
    labels = labels[: 2 * depth, :edge, :edge].astype(np.uint8)
    grey = _as_scanned(labels, np.random.default_rng(seed))
    middle = len(labels) // 2
    return Case(name=path.stem, train=(grey[:middle], labels[:middle]), test=(grey[middle:], labels[middle:]))


def _as_scanned(labels: Labels, rng: np.random.Generator) -> NDArray[np.uint8]:
    depth, height, width = labels.shape
    grey = ndimage.gaussian_filter(100 + _CONTRAST * labels.astype(np.float32), 0.8)
    grey += ndimage.gaussian_filter1d(rng.normal(0, 6, depth), 4)[:, np.newaxis, np.newaxis]
    radius = np.hypot(np.arange(width) - width * 0.52, (np.arange(height) - height * 0.47)[:, np.newaxis])
    rings = ndimage.gaussian_filter1d(rng.normal(0, 1, 2 * (height + width)), 1.5)
    grey += _RING * (rings / rings.std())[radius.astype(int)]
    noise = ndimage.gaussian_filter(rng.normal(0, 1, labels.shape), (0, 0.7, 0.7))
    grey += _NOISE * noise / noise.std()
    found: NDArray[np.uint8] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return found


def figures(truth: Labels, labels: Labels) -> Figures:
    """Compare labels with the truth."""
    classes = int(truth.max()) + 1
    overlaps = [
        np.count_nonzero((truth == k) & (labels == k)) / np.count_nonzero((truth == k) | (labels == k))
        for k in range(classes)
        if (truth == k).any()
    ]
    true, found = _boundary(truth), _boundary(labels)
    return Figures(
        mean_iou=float(np.mean(overlaps)),
        displacement=(_distance(true, found) + _distance(found, true)) / 2,
        flips=flips(labels),
        surface=_surface(labels, classes) / _surface(truth, classes),
    )


def flips(labels: Labels) -> float:
    """See `Figures`."""
    before, here, behind = labels[:-2], labels[1:-1], labels[2:]
    return float(np.mean((here != before) & (here != behind)))


def _boundary(labels: Labels) -> NDArray[np.bool_]:
    """Voxels with another class over one of their faces."""
    found = np.zeros(labels.shape, np.bool_)
    for axis in range(3):
        differs = np.diff(labels.astype(np.int16), axis=axis) != 0
        first, second = (
            tuple(part if each == axis else slice(None) for each in range(3))
            for part in (slice(None, -1), slice(1, None))
        )
        found[first] |= differs
        found[second] |= differs
    return found


def _distance(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Mean distance of voxels of one from the nearest of the other, voxels; NaN without any."""
    if not one.any() or not other.any():
        return float("nan")
    return float(ndimage.distance_transform_edt(~other)[one].mean())


def _surface(labels: Labels, classes: int) -> float:
    """Surface per volume of all classes, each boundary twice."""
    crossings = Crossings.of(_CUBE)
    totals = measure_volume(
        np.minimum(labels, classes - 1),
        classes,
        depth=16,
        connectivity=8,
        crossings=crossings,
        workers=1,
        finished=lambda _: None,
    )
    return sum(crossings.per_volume(met, totals.pairs) for met in totals.crossings)


def draw_gain(out: Path, grey: NDArray[np.uint8], truth: Labels, found: Mapping[str, Labels]) -> None:
    """A picture across the slices, where the last of several labels are right and the first wrong most.

    Args:
        out: the PNG.
        grey: (D, H, W) the scan.
        truth: what it shows.
        found: title -> labels; wrong voxels are drawn in pink.
    """
    from matplotlib.figure import Figure

    first, *_, last = found.values()
    gain = (first != truth).astype(np.float32) - (last != truth)
    size = [min(length, most) for length, most in zip(truth.shape, (48, 1, 64), strict=True)]
    middle = np.unravel_index(ndimage.uniform_filter(gain, size, mode="constant").argmax(), truth.shape)
    corner = [
        min(max(int(place) - edge // 2, 0), length - edge)
        for place, edge, length in zip(middle, size, truth.shape, strict=True)
    ]
    cut = (slice(corner[0], corner[0] + size[0]), corner[1], slice(corner[2], corner[2] + size[2]))
    colours = np.array(default_colours(_MOST_CLASSES), np.uint8)
    figure = Figure(figsize=(2.6 * (len(found) + 2), 2.4), layout="constrained")
    places = figure.subplots(1, len(found) + 2)
    places[0].imshow(grey[cut], cmap="gray", interpolation="nearest")
    places[0].set_title("scan, across its slices", fontsize="small")
    for place, (title, labels) in zip(places[1:], [("truth", truth), *found.items()], strict=True):
        picture = colours[labels[cut]]
        picture[labels[cut] != truth[cut]] = FALSE_NEGATIVE
        place.imshow(picture, interpolation="nearest")
        place.set_title(title, fontsize="small")
    for place in places:
        place.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as stream:
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": ""})
