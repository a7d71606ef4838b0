"""Tiles cover an image exactly once, and a tiled network equals the whole one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from matseg_shared.contract.tiling import Box, Tile, pad_to_stride, padded_length, plan_tiles, smallest_tile
from matseg_shared.errors import UsageError

shapes = st.tuples(st.integers(1, 90), st.integers(1, 90))
strides = st.sampled_from([1, 2, 3, 4, 8, 16])
halos = st.integers(0, 20)


@st.composite
def plans(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int], int, int]:
    """(shape, tile, halo, stride) with tiles that are just large enough, or larger, and not always on the grid."""
    shape, halo, stride = draw(shapes), draw(halos), draw(strides)
    smallest = smallest_tile(halo, stride)
    rows, columns = draw(st.integers(0, 60)), draw(st.integers(0, 60))
    return shape, (smallest + rows, smallest + columns), halo, stride


@given(plans())
@example(((1, 1), (1, 1), 0, 1))
@example(((1, 90), (24, 24), 8, 8))
@example(((64, 64), (64, 64), 8, 8))
def test_write_boxes_partition_the_image(
    plan: tuple[tuple[int, int], tuple[int, int], int, int],
) -> None:
    shape, tile, halo, stride = plan
    written = np.zeros(shape, dtype=int)
    for item in plan_tiles(shape, tile, halo=halo, stride=stride):
        assert min(item.write.shape) > 0
        written[item.write.slices()] += 1
        assert item.write.y1 <= shape[0]
        assert item.write.x1 <= shape[1]
    assert (written == 1).all()


@given(plans())
def test_read_boxes_stand_on_the_grid_inside_the_padded_image(
    plan: tuple[tuple[int, int], tuple[int, int], int, int],
) -> None:
    shape, tile, halo, stride = plan
    padded = tuple(padded_length(length, stride) for length in shape)
    tiles = plan_tiles(shape, tile, halo=halo, stride=stride)
    for item in tiles:
        read = item.read
        assert 0 <= read.y0 < read.y1 <= padded[0]
        assert 0 <= read.x0 < read.x1 <= padded[1]
        assert not any(edge % stride for edge in (read.y0, read.x0, read.y1, read.x1))
        assert read.shape[0] <= tile[0] or len({other.read.y0 for other in tiles}) == 1
    assert len({item.read.shape for item in tiles}) == 1, "one shape, so that a session compiles once"


@given(plans())
def test_what_is_written_lies_a_halo_away_from_every_cut_edge(
    plan: tuple[tuple[int, int], tuple[int, int], int, int],
) -> None:
    shape, tile, halo, stride = plan
    padded = [padded_length(length, stride) for length in shape]
    for item in plan_tiles(shape, tile, halo=halo, stride=stride):
        for read0, write0, write1, read1, end in (
            (item.read.y0, item.write.y0, item.write.y1, item.read.y1, padded[0]),
            (item.read.x0, item.write.x0, item.write.x1, item.read.x1, padded[1]),
        ):
            assert read0 <= write0 < write1 <= read1
            assert read0 == 0 or write0 - read0 >= halo
            assert read1 == end or read1 - write1 >= halo


def test_tiles_come_in_row_order() -> None:
    origins = [(item.write.y0, item.write.x0) for item in plan_tiles((60, 60), (24, 24), halo=4, stride=4)]
    assert origins == sorted(origins)
    assert len(origins) == len(set(origins)) > 9


def test_an_example_by_hand() -> None:
    first, second, third = plan_tiles((4, 30), (16, 16), halo=3, stride=4)
    assert first == Tile(read=Box(0, 0, 4, 16), write=Box(0, 0, 4, 12))
    assert second == Tile(read=Box(0, 8, 4, 24), write=Box(0, 12, 4, 20))
    assert third == Tile(read=Box(0, 16, 4, 32), write=Box(0, 20, 4, 30))


def test_an_image_that_fits_is_one_tile_of_its_own_padded_size() -> None:
    (tile,) = plan_tiles((33, 5), (512, 512), halo=100, stride=16)
    assert tile == Tile(read=Box(0, 0, 48, 16), write=Box(0, 0, 33, 5))


@given(halos, strides)
def test_the_smallest_tile_works_and_a_smaller_one_is_refused(halo: int, stride: int) -> None:
    edge = smallest_tile(halo, stride)
    shape = (edge + 3 * stride, edge + 1)
    assert plan_tiles(shape, (edge, edge), halo=halo, stride=stride)
    for tile in ((edge - 1, edge), (edge, edge - 1)):
        with pytest.raises(UsageError, match=f"use at least {edge}"):
            plan_tiles(shape, tile, halo=halo, stride=stride)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="nothing to segment"):
        plan_tiles(shape, (16, 16), halo=0, stride=1)


@given(shapes, strides, st.sampled_from([(), (3,)]))
def test_padding_reflects_and_keeps_the_image(
    shape: tuple[int, int], stride: int, channels: tuple[int, ...]
) -> None:
    image = np.arange(np.prod((*shape, *channels))).reshape(*shape, *channels).astype(np.uint16)
    padded = pad_to_stride(image, stride)
    assert padded.dtype == image.dtype
    assert padded.shape == (padded_length(shape[0], stride), padded_length(shape[1], stride), *channels)
    np.testing.assert_array_equal(padded[: shape[0], : shape[1]], image)
    for row in range(shape[0], padded.shape[0]):
        period = max(1, 2 * (shape[0] - 1))
        mirrored = min(row % period, period - row % period) if shape[0] > 1 else 0
        np.testing.assert_array_equal(padded[row, : shape[1]], image[mirrored])


def test_padding_copies_nothing_when_nothing_is_missing() -> None:
    image = np.zeros((32, 64), dtype=np.uint8)
    assert pad_to_stride(image, 16) is image


def test_a_box_counted_from_another() -> None:
    box = Box(10, 20, 14, 29).relative_to(Box(8, 16, 40, 40))
    assert box == Box(2, 4, 6, 13)
    assert box.shape == (4, 9)
    assert box.slices() == (slice(2, 6), slice(4, 13))


def box_filter(image: NDArray[np.int64], radius: int) -> NDArray[np.int64]:
    """Sums over (2 radius + 1) squared pixels with zeros around the image, by cumulative sums."""
    for axis in (0, 1):
        margin = [(radius + 1, radius) if side == axis else (0, 0) for side in (0, 1)]
        sums = np.cumsum(np.pad(image, margin), axis=axis)
        length, window = image.shape[axis], 2 * radius + 1
        image = np.take(sums, range(window, window + length), axis) - np.take(sums, range(length), axis)
    return image


def encoder_decoder(image: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """A U-Net in small: filter, halve by 2 x 2 maxima, go deeper, double, add the skip, filter. Stride 2^depth."""
    features = box_filter(image, 1)
    if depth:
        height, width = features.shape
        halved = features.reshape(height // 2, 2, width // 2, 2).max(axis=(1, 3))
        features = features + encoder_decoder(halved, depth - 1).repeat(2, axis=0).repeat(2, axis=1)
    return box_filter(features, 1)


def reach(depth: int) -> int:
    """Reach of the input of `encoder_decoder`: two filters a level, and the pixels a coarse one spans."""
    return 2 if depth == 0 else 2 + 2 * reach(depth - 1) + 1


@pytest.mark.parametrize("depth", [0, 1, 2])
@settings(max_examples=60)
@given(shape=shapes, extra=st.integers(3, 40), seed=st.integers(0, 99))
@example(shape=(1, 1), extra=3, seed=0)
@example(shape=(90, 1), extra=3, seed=0)
def test_a_tiled_network_equals_the_whole(depth: int, shape: tuple[int, int], extra: int, seed: int) -> None:
    stride, halo = 2**depth, reach(depth)
    image = pad_to_stride(np.random.default_rng(seed).integers(0, 9, shape), stride)
    whole = encoder_decoder(image, depth)[: shape[0], : shape[1]]
    edge = smallest_tile(halo, stride) + extra
    stitched = np.full(shape, -1)
    for tile in plan_tiles(shape, (edge, edge), halo=halo, stride=stride):
        output = encoder_decoder(image[tile.read.slices()], depth)
        stitched[tile.write.slices()] = output[tile.write.relative_to(tile.read).slices()]
    np.testing.assert_array_equal(stitched, whole)


def test_the_halo_is_needed() -> None:
    """The oracle can fail: with a halo too small by more than a stride, the stitched output differs."""
    image = np.random.default_rng(0).integers(0, 9, (64, 64))
    whole = encoder_decoder(image, 1)
    tiles = plan_tiles((64, 64), (16, 16), halo=2, stride=2)
    differ = [
        not np.array_equal(
            encoder_decoder(image[tile.read.slices()], 1)[tile.write.relative_to(tile.read).slices()],
            whole[tile.write.slices()],
        )
        for tile in tiles
    ]
    assert any(differ)


def test_neighbours_of_a_row_meet() -> None:
    tiles = plan_tiles((8, 300), (64, 64), halo=8, stride=8)
    assert all(left.write.x1 == right.write.x0 for left, right in pairwise(tiles))


@given(
    first=st.tuples(*[st.integers(0, 9)] * 4),
    second=st.tuples(*[st.integers(0, 9)] * 4),
    down=st.integers(0, 5),
    right=st.integers(0, 5),
)
def test_boxes_are_sets_of_pixels(
    first: tuple[int, ...], second: tuple[int, ...], down: int, right: int
) -> None:
    masks, boxes = [], []
    for y, x, height, width in (first, second):
        box = Box(y, x, y + height + 1, x + width + 1)
        mask = np.zeros((30, 30), bool)
        mask[box.slices()] = True
        assert box.area == mask.sum()
        masks.append(mask)
        boxes.append(box)
    common, both = boxes[0].common(boxes[1]), masks[0] & masks[1]
    assert (common is None) == (not both.any())
    if common is not None:
        assert common.area == both.sum() == both[common.slices()].sum()
    moved = np.zeros((30, 30), bool)
    moved[boxes[0].moved(down, right).slices()] = True
    np.testing.assert_array_equal(moved, np.roll(masks[0], (down, right), (0, 1)))
    assert boxes[0].moved(down, right).relative_to(Box(down, right, 99, 99)) == boxes[0]
