"""Regions and boundaries against shapes whose number, size and length of boundary are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from matseg_runtime.measure.regions import TooManyClassesError, measure_regions
from matseg_runtime.measure.stereology import ClassQuantities, Diameters, quantities
from matseg_runtime.records import SliceRegions
from matseg_runtime.units import PIXELS, VoxelSize

Labels = NDArray[np.uint8]
CLASSES = [(0, "ground"), (1, "grain"), (2, "pore")]


def _disc(
    shape: tuple[int, int], centre: tuple[float, float], radius: float, pixel: VoxelSize | None = None
) -> Labels:
    pixel = pixel or PIXELS
    y, x = np.mgrid[: shape[0], : shape[1]]
    away = ((y - centre[0]) * pixel.row) ** 2 + ((x - centre[1]) * pixel.column) ** 2
    return (away < radius**2).astype(np.uint8)


def _of(labels: Labels, pixel: VoxelSize | None = None, **options: Any) -> tuple[ClassQuantities, ...]:
    found = measure_regions(labels, **{"connectivity": 8, **options})
    return quantities([found], CLASSES, pixel or PIXELS)


def _quantiles(found: Diameters) -> list[float]:
    return [found.p10, found.p25, found.p50, found.p75, found.p90]


@pytest.mark.parametrize("radius", [5, 10, 20, 60, 120])
def test_a_disc(radius: float) -> None:
    """The area is right but for the pixels on the edge; the boundary within 2 %, as this estimator is."""
    labels = _disc((300, 310), (150.3, 149.6), radius)
    disc = _of(labels)[1]
    assert (disc.regions, disc.regions_at_edge) == (1, 0)
    assert disc.diameter is not None
    assert disc.diameter.largest == disc.diameter.mean == pytest.approx(2 * radius, rel=0.02)
    assert disc.area == pytest.approx(math.pi * radius**2, rel=0.03)
    assert disc.boundary_per_area * 300 * 310 == pytest.approx(2 * math.pi * radius, rel=0.02)
    assert disc.specific_surface == pytest.approx(4 / math.pi * disc.boundary_per_area)


@pytest.mark.parametrize("angle", range(0, 90, 15))
def test_a_straight_boundary_at_any_angle(angle: int) -> None:
    """Lines of four directions find 5 % too little of a boundary along one of them, 3 % too much half-way between."""
    y, x = np.mgrid[:401, :401] - 200
    direction = math.radians(angle)
    labels = (y * math.cos(direction) > x * math.sin(direction)).astype(np.uint8)
    length = 401 / max(abs(math.cos(direction)), abs(math.sin(direction)))
    found = _of(labels)[1].boundary_per_area * 401 * 401
    assert -0.055 < found / length - 1 < 0.03
    steps = 401 * (1 + min(math.tan(direction), 1 / max(math.tan(direction), 1e-9)))
    if angle in (30, 45, 60):
        assert abs(found / length - 1) < abs(steps / length - 1) / 4, "better than following pixel edges"


def test_discs_of_known_number_and_sizes() -> None:
    labels = np.zeros((200, 400), np.uint8)
    radii = [6, 6, 6, 12, 12, 24]
    for number, radius in enumerate(radii):
        labels |= _disc(labels.shape, (100, 40 + 64 * number), radius)
    disc = _of(labels)[1]
    assert disc.regions == 6
    assert disc.diameter is not None
    smallest, middle, largest = (
        2 * math.sqrt(_disc((99, 99), (50, 50), radius).sum() / math.pi) for radius in (6, 12, 24)
    )
    assert _quantiles(disc.diameter) == pytest.approx((smallest, smallest, smallest, middle, largest))
    assert disc.diameter.mean == pytest.approx((3 * smallest + 2 * middle + largest) / 6)
    assert sum(bar.regions for bar in disc.histogram) == 6
    assert sum(bar.area_share for bar in disc.histogram) == pytest.approx(1)
    for radius, expected in ((smallest, 3), (middle, 2), (largest, 1)):
        assert [bar.regions for bar in disc.histogram if bar.low <= radius < bar.high] == [expected]


def test_a_pixel_that_is_not_square() -> None:
    """Twice as high as wide: a circle in space is an ellipse of pixels, and comes out as a circle."""
    pixel = VoxelSize(step=None, row=1.3, column=0.65, unit="um")
    labels = _disc((200, 400), (100.3, 199.6), 50, pixel)
    disc = _of(labels, pixel)[1]
    assert disc.diameter is not None
    assert disc.diameter.largest == pytest.approx(100, rel=0.01)
    assert disc.boundary_per_area * (200 * 1.3 * 400 * 0.65) == pytest.approx(2 * math.pi * 50, rel=0.02)


def test_a_voxel_size_scales_every_length() -> None:
    labels = _disc((120, 120), (60, 60), 30)
    pixels, micrometres = _of(labels)[1], _of(labels, VoxelSize(step=None, row=0.5, column=0.5, unit="um"))[1]
    assert micrometres.area == pytest.approx(pixels.area / 4)
    assert micrometres.specific_surface == pytest.approx(pixels.specific_surface * 2)
    assert pixels.diameter is not None
    assert micrometres.diameter is not None
    assert _quantiles(micrometres.diameter) == pytest.approx([v / 2 for v in _quantiles(pixels.diameter)])
    assert [bar.regions for bar in micrometres.histogram] == [bar.regions for bar in pixels.histogram]


def test_a_sphere_cut_by_parallel_planes() -> None:
    """The specific surface of a body from its sections alone: what the stereological relation is for."""
    edge, radius = 90, 35
    volume = [
        _disc((edge, edge), (45.2, 44.7), math.sqrt(max(0.0, radius**2 - (z - 44.6) ** 2)))
        for z in range(edge)
    ]
    found = quantities([measure_regions(labels, connectivity=8) for labels in volume], CLASSES[:2], PIXELS)[1]
    surface = 4 * math.pi * radius**2
    assert found.specific_surface * edge**3 == pytest.approx(surface, rel=0.02)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sphere_of_oblong_voxels_along_every_axis(axis: int) -> None:
    """The same surface, volume and largest section, whichever way the voxels are cut."""
    edges, length, radius = [2.0, 1.0, 0.5], 160.0, 60.0
    z, y, x = np.meshgrid(*(np.arange(edge / 2, length, edge) for edge in edges), indexing="ij")
    away = (z - 80.2) ** 2 + (y - 79.7) ** 2 + (x - 80.1) ** 2
    volume = np.moveaxis((away < radius**2).astype(np.uint8), axis, 0)
    step = edges.pop(axis)
    pixel = VoxelSize(row=edges[0], column=edges[1], step=step, unit="um")
    slices = [measure_regions(labels, connectivity=8) for labels in volume]
    found = quantities(slices, CLASSES[:2], pixel)[1]
    assert found.specific_surface * length**3 == pytest.approx(4 * math.pi * radius**2, rel=0.02)
    assert found.area * step == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.01)
    assert found.diameter is not None
    assert found.diameter.largest == pytest.approx(2 * radius, rel=0.01)
    assert found.diameter.mean == pytest.approx(math.pi / 2 * radius, rel=0.02)


@pytest.mark.parametrize(("connectivity", "regions"), [(4, 32), (8, 1)])
def test_a_checkerboard_touches_by_corners_only(connectivity: int, regions: int) -> None:
    labels = (np.indices((8, 8)).sum(axis=0) % 2).astype(np.uint8)
    found = _of(labels, connectivity=connectivity)
    assert [found[value].regions for value in (0, 1)] == [regions, regions]
    assert found[0].pixels == found[1].pixels == 32


def test_a_checkerboard_of_squares_has_the_boundary_of_its_grid() -> None:
    """Rows and columns meet every border between squares; diagonals miss it at corners."""
    labels = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((20, 20))).astype(np.uint8)
    crossings = measure_regions(labels, connectivity=4).classes[1].crossings
    assert crossings[:2] == (7 * 160, 7 * 160)
    along_the_grid = math.pi / 8 * (1 + math.sqrt(2))  # what lines of four directions find of it
    found = _of(labels)[1].boundary_per_area * 160 * 160
    assert found == pytest.approx(along_the_grid * 2 * 7 * 160, rel=0.03)


@pytest.mark.parametrize(("connectivity", "regions"), [(4, 2), (8, 1)])
def test_squares_that_share_a_corner(connectivity: int, regions: int) -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[4:8, 4:8] = labels[8:12, 8:12] = 1
    assert _of(labels, connectivity=connectivity)[1].regions == regions


def test_regions_at_the_edge_are_counted_and_have_no_size() -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[:3, 5:8] = labels[10:12, -1:] = labels[20:25, 10:15] = 1
    found = _of(labels)[1]
    assert (found.regions, found.regions_at_edge) == (3, 2)
    assert found.diameter is not None
    assert found.diameter.largest == pytest.approx(2 * math.sqrt(25 / math.pi))
    assert [bar.regions for bar in found.histogram] == [1]


def test_the_edge_of_the_image_is_no_boundary() -> None:
    found = _of(np.ones((40, 50), np.uint8))
    assert found[1].specific_surface == 0
    assert (found[1].regions, found[1].regions_at_edge, found[1].diameter) == (1, 1, None)


def test_unlabelled_pixels_are_neither_area_nor_boundary() -> None:
    labels = _disc((60, 60), (30, 30), 12)
    labels[:, 30:] = 255
    found = measure_regions(labels, connectivity=8, unlabelled=255)
    assert found.pairs == measure_regions(labels[:, :30], connectivity=8).pairs
    half = quantities([measure_regions(labels[:, :30], connectivity=8)], CLASSES[:2], PIXELS)
    assert quantities([found], CLASSES[:2], PIXELS) == half
    assert half[1].regions_at_edge == 1, "it goes on where nobody has looked"


def test_a_class_that_does_not_occur_and_a_slice_without_labels() -> None:
    nothing = measure_regions(np.full((9, 9), 255, np.uint8), connectivity=8, unlabelled=255)
    assert nothing.classes == ()
    found = quantities([nothing], CLASSES[:2], PIXELS)
    assert [(item.pixels, item.fraction, item.specific_surface, item.diameter) for item in found] == [
        (0, 0, 0, None)
    ] * 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (12, 1)])
def test_images_of_one_row_or_column(shape: tuple[int, int]) -> None:
    labels = (np.arange(math.prod(shape)) % 2).astype(np.uint8).reshape(shape)
    found = _of(labels)[0]
    assert found.regions == (math.prod(shape) + 1) // 2
    assert found.specific_surface == (0 if shape == (1, 1) else pytest.approx(2))


def test_values_of_any_integer_dtype() -> None:
    labels = _disc((40, 40), (20, 20), 8)
    expected = measure_regions(labels, connectivity=8)
    for dtype, value in ((np.uint16, 40_000), (np.int32, 70_000), (np.int64, 3_000_000_000), (np.uint8, 255)):
        found = measure_regions(labels.astype(dtype) * dtype(value), connectivity=8)
        assert [item.value for item in found.classes] == [0, value]
        assert found.classes[1].sizes == expected.classes[1].sizes
        assert found.classes[1].crossings == expected.classes[1].crossings
    with pytest.raises(TooManyClassesError):
        measure_regions(np.arange(400, dtype=np.uint16).reshape(20, 20), connectivity=8)


@given(
    st.integers(1, 14).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(0, 2), min_size=width, max_size=width), min_size=1, max_size=14
        )
    ),
    st.sampled_from([4, 8]),
)
def test_as_counted_naively(rows: Sequence[Sequence[int]], connectivity: int) -> None:
    """Region by region with another library's labelling, pair by pair in Python."""
    labels = np.array(rows, np.uint8)
    found = measure_regions(labels, connectivity=connectivity)  # type: ignore[arg-type]
    for item in found.classes:
        mask = labels == item.value
        regions, count = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
        frame = np.zeros_like(mask)
        frame[[0, -1]] = frame[:, [0, -1]] = True
        inside = [number for number in range(1, count + 1) if not (frame & (regions == number)).any()]
        assert (item.regions, item.at_edge, item.pixels) == (count, count - len(inside), mask.sum())
        sizes = sorted(int((regions == number).sum()) for number in inside)
        assert [size for size, times in item.sizes for _ in range(times)] == sizes
        assert item.crossings == _crossings(mask)


def _crossings(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    height, width = mask.shape
    counts = [0, 0, 0, 0]
    for y in range(height):
        for x in range(width):
            for number, (down, right) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))):
                if y + down < height and 0 <= x + right < width:
                    counts[number] += bool(mask[y, x] != mask[y + down, x + right])
    return tuple(counts)


def test_counts_add_up_and_survive_json() -> None:
    slices = [measure_regions(_disc((50, 60), (25, 30), radius), connectivity=8) for radius in (4, 9, 15)]
    again = [SliceRegions.model_validate_json(item.model_dump_json()) for item in slices]
    assert again == slices
    assert quantities(slices, CLASSES[:2], PIXELS) == quantities(reversed(again), CLASSES[:2], PIXELS)
