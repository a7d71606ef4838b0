"""Dendrites as they solidify: a trunk, secondary arms on it, tertiary arms on those, in one crystal orientation.

Lengths are in units of the field of view; a dendrite is a union of tapered capsules whose arms are thinner at the
root than at the tip, as coarsening makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
"""(3,) in (x, y, z) order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arm:
    """A tapered capsule."""

    start: Vector
    end: Vector
    root: float
    """Radius at `start`."""
    tip: float
    """Radius at `end`."""


def grow_dendrite(rng: np.random.Generator, centre: Vector, scale: float) -> tuple[Arm, ...]:
    """One dendrite around the middle of its trunk.

    At scale 1 secondary arms are about 0.03 thick and up to 0.2 long; `rng` decides orientation, lengths and spacings.
    """
    across, along, trunk = _crystal_axes(rng)
    half = 0.55
    radius = 0.024 * scale
    arms = [Arm(start=centre - half * trunk, end=centre + half * trunk, root=radius, tip=radius)]
    for height in np.arange(-half, half, scale * rng.uniform(0.12, 0.15)):
        node = centre + (height + rng.uniform(-0.01, 0.01)) * trunk
        for direction, side in ((across, along), (-across, along), (along, across), (-along, across)):
            length = scale * rng.uniform(0.1, 0.2)
            tip = scale * rng.uniform(0.024, 0.035)
            end = node + length * (direction + rng.uniform(0.0, 0.25) * trunk)
            arms.append(Arm(start=node, end=end, root=0.7 * tip, tip=tip))
            arms += _tertiary(rng, node, end, (side, -side, trunk), scale)
    return tuple(arms)


def _tertiary(
    rng: np.random.Generator, node: Vector, end: Vector, directions: tuple[Vector, ...], scale: float
) -> list[Arm]:
    arms = []
    for part in np.arange(0.4, 0.95, rng.uniform(0.24, 0.3)):
        start = node + part * (end - node)
        for direction in directions:
            length = scale * rng.uniform(0.05, 0.09) * (1.3 - part)
            tip = scale * rng.uniform(0.016, 0.023)
            arms.append(Arm(start=start, end=start + length * direction, root=0.7 * tip, tip=tip))
    return arms


def _crystal_axes(rng: np.random.Generator) -> tuple[Vector, Vector, Vector]:
    """Three orthogonal directions; the last, the trunk's, is within 35 degrees of z."""
    tilt, turn, spin = rng.uniform(0, np.radians(35)), *rng.uniform(0, 2 * np.pi, 2)
    trunk = np.array([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)])
    helper = np.array([np.cos(spin), np.sin(spin), 0.0])
    across = helper - (helper @ trunk) * trunk
    across /= np.linalg.norm(across)
    return across, np.cross(trunk, across), trunk


def window(axis: Vector, low: Vector, high: Vector) -> tuple[slice, slice]:
    """Rows and columns of the pixels between two corners; `axis` has the coordinates of rows and of columns alike."""
    columns, rows = (slice(*np.searchsorted(axis, [low[i], high[i]])) for i in (0, 1))
    return rows, columns


def depth_in_arms(
    arms: tuple[Arm, ...], axis: NDArray[np.float64], z: float, margin: float
) -> NDArray[np.float64]:
    """Depth of each pixel of the slice at `z` within the nearest arm; exact down to `margin` outside.

    (N, N) float64, positive inside, `-margin` or less outside, for (N,) coordinates of columns and of rows.
    """
    depth = np.full((axis.size, axis.size), -margin)
    for arm in arms:
        ends = np.stack([arm.start, arm.end])
        around = max(arm.root, arm.tip) + margin
        low, high = ends.min(axis=0) - around, ends.max(axis=0) + around
        if low[2] <= z <= high[2]:
            rows, columns = window(axis, low, high)
            way = arm.end - arm.start
            dx, dy, dz = axis[columns] - arm.start[0], axis[rows, np.newaxis] - arm.start[1], z - arm.start[2]
            part = np.clip((dx * way[0] + dy * way[1] + dz * way[2]) / (way @ way), 0.0, 1.0)
            distance = np.sqrt(
                (dx - part * way[0]) ** 2 + (dy - part * way[1]) ** 2 + (dz - part * way[2]) ** 2
            )
            inside = arm.root + part * (arm.tip - arm.root) - distance
            depth[rows, columns] = np.maximum(depth[rows, columns], inside)
    return depth
