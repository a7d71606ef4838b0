"""A synthetic tomography scan: dendrites in a lighter liquid, with what makes real scans hard to threshold.

Pores share the dendrites' grey and differ from them by shape and a bright fringe; the crucible around the sample is
as dark in places but coarse noise; the liquid's grey drifts. So a threshold fails where shape and context tell.
Lengths are in units of the field of view, greys in 8-bit levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from matseg_trainer.demo.dendrite import Arm, Vector, depth_in_arms, grow_dendrite, window

LIQUID = 130.0
DENDRITE = 96.0
OUTSIDE = 128.0
"""Beyond the circular field of view, where nothing was reconstructed."""
_SAMPLE_RADIUS = 0.42
_VIEW_RADIUS = 0.495
PORE_FRINGE = 70.0
"""Grey of the fringe around pores, by which they are known."""
_SMALLEST = 1.3e-3
"""Sections of arms below this share of the picture are left out: nobody could label them."""
_WAVES = 12
_MARGIN = 0.03
"""Depths below minus this are not told apart."""

Plane = NDArray[np.float64]
"""(N, N), one value per pixel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inclusion:
    """A lumpy ellipsoid that is no dendrite."""

    centre: Vector
    radii: Vector
    grey: float
    fringe: float
    """Grey added in a thin shell around it (phase contrast)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waves:
    """A sum of sines with random directions: a smooth field with values around 0."""

    vectors: NDArray[np.float64]
    """(W, 3) radians per unit of length."""
    phases: NDArray[np.float64]
    """(W,) radians."""

    @classmethod
    def random(cls, rng: np.random.Generator, length: float) -> Waves:
        """Waves of about this wavelength."""
        vectors = rng.normal(size=(_WAVES, 3)) * 2 * np.pi / length / np.sqrt(3)
        return cls(vectors=vectors, phases=rng.uniform(0, 2 * np.pi, _WAVES))

    def at(self, axis: Vector, z: float) -> Plane:
        """The field in a slice; standard deviation 1."""
        columns = np.exp(1j * axis[:, np.newaxis] * self.vectors[:, 0])
        rows = np.exp(1j * (axis[:, np.newaxis] * self.vectors[:, 1] + z * self.vectors[:, 2] + self.phases))
        field: Plane = (rows @ columns.T).real * np.sqrt(2 / _WAVES)
        return field


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scan:
    """One sample as it was scanned; slices at neighbouring z resemble each other."""

    seed: int
    arms: tuple[Arm, ...]
    inclusions: tuple[Inclusion, ...]
    bumps: Waves
    """Shape of the arms' surfaces."""
    wall: Waves
    """Shape of the sample's outline."""
    drift: Waves
    cupping: float
    """Grey by which the sample's middle differs from its rim."""
    rings: NDArray[np.float64]
    """(R,) grey of the ring artefact at each radius, from the rotation axis to the corner."""
    rotation: Vector
    """A point on the rotation axis."""


def make_scan(seed: int) -> Scan:
    """A new sample with one large dendrite or two smaller ones."""
    rng = np.random.default_rng([seed, 0])
    arms: list[Arm] = []
    turn = rng.uniform(0, 2 * np.pi)
    number = int(rng.integers(1, 3))
    away, scale = (0.05, 1.95) if number == 1 else (0.19, 1.5)
    for index in range(number):
        angle = turn + 2 * np.pi * index / number
        centre = np.array([away * np.cos(angle), away * np.sin(angle), rng.uniform(-0.1, 0.1)])
        arms += grow_dendrite(rng, centre, scale * rng.uniform(0.85, 1.1))
    rings = np.where(rng.random(2000) < 0.06, rng.normal(0, 12, 2000), 0.0)
    return Scan(
        seed=seed,
        arms=tuple(arms),
        inclusions=_scatter_inclusions(rng),
        bumps=Waves.random(rng, 0.09),
        wall=Waves.random(rng, 0.25),
        drift=Waves.random(rng, 1.2),
        cupping=float(rng.uniform(6, 14)),
        rings=ndimage.gaussian_filter1d(rings, 2.0) * 2.5,
        rotation=np.array([*rng.uniform(-0.01, 0.01, 2), 0.0]),
    )


def _scatter_inclusions(rng: np.random.Generator) -> tuple[Inclusion, ...]:
    """Pores, oxides and bright particles throughout the sample's height."""
    inclusions = []
    for number, radii, greys, fringe in (
        (80, (0.014, 0.036), (88.0, 100.0), PORE_FRINGE),
        (90, (0.006, 0.016), (10.0, 50.0), 60.0),
        (90, (0.005, 0.016), (200.0, 255.0), -60.0),
    ):
        for _ in range(number):
            distance, angle = 0.38 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            centre = np.array([distance * np.cos(angle), distance * np.sin(angle), rng.uniform(-0.6, 0.6)])
            shape = rng.uniform(0.9, 1.1, 3) if fringe == PORE_FRINGE else rng.uniform(0.6, 2.0, 3)
            size, grey = rng.uniform(*radii), rng.uniform(*greys)
            inclusions.append(Inclusion(centre=centre, radii=size * shape, grey=grey, fringe=fringe))
    return tuple(inclusions)


def render_slice(scan: Scan, z: float, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One slice of a scan, `size` pixels wide and high, at a height from -0.5 to 0.5.

    Returns:
        (size, size) uint8 grey image, and (size, size) uint8 labels: 1 dendrite, 0 everything else.
    """
    rng = np.random.default_rng([scan.seed, 1, round((z + 1) * 1e6)])
    axis = (np.arange(size) + 0.5) / size - 0.5
    radius = np.hypot(axis - scan.rotation[0], axis[:, np.newaxis] - scan.rotation[1])
    wall = _SAMPLE_RADIUS + 0.006 * scan.wall.at(axis, z) - radius
    depth = _dendrite_depth(scan, axis, z, wall)
    picture = LIQUID + (DENDRITE - LIQUID) * np.clip(0.5 + depth * size / 2.0, 0, 1)
    labels = (depth > 0).astype(np.uint8)
    _add_inclusions(scan, picture, labels, depth, axis, z)
    picture += 4.0 * scan.drift.at(axis, z) + scan.cupping * ((radius / _SAMPLE_RADIUS) ** 2 - 0.5)
    _add_crucible(scan, picture, wall, axis, z, rng)
    # reconstruction noise: correlated over about a pixel, stronger towards the rim
    noise = ndimage.gaussian_filter(rng.normal(0, 1, picture.shape), 0.55)
    level = 3.4 + 2.0 * np.clip(1 - wall / _SAMPLE_RADIUS, 0, 1.3) ** 2
    picture = ndimage.gaussian_filter(picture, 0.6) + noise / noise.std() * level
    picture += scan.rings[np.minimum((radius * 2 * scan.rings.size).astype(int), scan.rings.size - 1)]
    picture[np.hypot(axis, axis[:, np.newaxis]) > _VIEW_RADIUS] = OUTSIDE
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), labels


def _dendrite_depth(scan: Scan, axis: Vector, z: float, wall: Plane) -> Plane:
    """Positive inside dendrites; sections too small to be told from noise are taken out altogether."""
    depth: Plane = depth_in_arms(scan.arms, axis, z, _MARGIN) + 0.003 * scan.bumps.at(axis, z)
    depth = np.minimum(depth, wall - 0.03)
    depth = ndimage.gaussian_filter(depth, 0.004 * axis.size)  # rounds the corners between arms
    parts, _ = ndimage.label(depth > 0)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    clear = (sizes >= _SMALLEST * depth.size)[parts]
    depth[(depth > 0) & ~clear] = -_MARGIN
    depth[~ndimage.binary_dilation(clear, iterations=3)] = -_MARGIN  # nor a shade of what is left out
    return depth


def _add_inclusions(
    scan: Scan, picture: Plane, labels: NDArray[np.uint8], depth: Plane, axis: Vector, z: float
) -> None:
    """Draw those that the slice cuts, in place; dark ones only in the liquid, bright ones anywhere."""
    pixel = 1 / axis.size
    lumps = scan.bumps.at(axis, z + 1.0)
    for item in scan.inclusions:
        around = item.radii.max() * 1.6 + 4 * pixel
        if abs(z - item.centre[2]) > around:
            continue
        box = rows, columns = window(axis, item.centre - around, item.centre + around)
        steps = (axis[columns], axis[rows, np.newaxis], z)
        scaled = sum(
            ((step - at) / r) ** 2 for step, at, r in zip(steps, item.centre, item.radii, strict=True)
        )
        inside = (1 - np.sqrt(scaled)) * item.radii.min()
        least = 2.5  # a mere graze would be anybody's guess
        if item.fringe != PORE_FRINGE:
            inside, least = inside + 0.3 * item.radii.min() * lumps[box], 1.0
        in_the_way = item.fringe > 0 and (depth[box][inside > -3 * pixel] > -3 * pixel).any()
        if inside.max(initial=-1.0) < least * pixel or in_the_way:
            continue
        share = np.clip(0.5 + inside / pixel / 1.5, 0, 1)
        shell = np.exp(-(((inside / pixel + 1.5) / 0.9) ** 2))
        picture[box] += share * (item.grey - picture[box]) + (1 - share) * shell * item.fringe
        labels[box][share > 0.5] = 0


def _add_crucible(
    scan: Scan, picture: Plane, wall: Plane, axis: Vector, z: float, rng: np.random.Generator
) -> None:
    """The crucible around the sample, and the gap between them, dark with a bright rim, where they lost touch."""
    size = axis.size
    crucible = wall < 0
    coarse = ndimage.gaussian_filter(rng.normal(0, 1, picture.shape), 0.9)
    picture[crucible] = LIQUID - 8 + 16 / coarse.std() * coarse[crucible]
    opening = np.clip(0.8 + 0.9 * scan.wall.at(axis * 2, z + 2.0), 0.15, 2.0)
    gap = np.exp(-((wall * size / opening) ** 2))
    rim = np.exp(-(((wall * size - 2 * opening) / 1.2) ** 2))
    picture += gap * (15 - picture) + 35 * rim * opening / 2
