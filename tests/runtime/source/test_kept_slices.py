"""Slices read one by one or a few at a time, of which each chunk is decoded once."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from matseg_runtime.source import array, folder
from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.open import open_source
from matseg_shared.errors import ImageError
from matseg_shared.images.read import read_any_dtype

SHAPE, CHUNK = (13, 10, 17), (4, 5, 8)
VALUES = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
PLANE = 10 * 17


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume.zarr"
    zarr.create_array(str(path), shape=SHAPE, chunks=CHUNK, dtype=VALUES.dtype)[:] = VALUES
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Ranges of slices that are decoded from now on."""
    ranges: list[tuple[int, int]] = []
    decode = ArraySource._decoded

    def told(self: ArraySource, start: int, stop: int) -> object:
        ranges.append((start, stop))
        return decode(self, start, stop)

    monkeypatch.setattr(ArraySource, "_decoded", told)
    return ranges


def read_one(source: Source, number: int) -> np.ndarray:
    return source.read(number, number + 1)[0]


@pytest.mark.parametrize(("axis", "layers"), [(0, 4), (1, 2), (2, 3)])
def test_each_layer_of_chunks_is_decoded_once(
    volume: Path, decoded: list[tuple[int, int]], axis: int, layers: int
) -> None:
    source = open_source(str(volume), SourceOptions(axis=axis))
    source.keep_little()
    for number in range(SHAPE[axis]):
        assert np.array_equal(read_one(source, number), np.take(VALUES, number, axis))
    assert len(decoded) == layers


@pytest.mark.parametrize("together", [1, 2, 3, 5])
def test_thin_blocks_of_a_range_decode_each_layer_once(
    volume: Path, decoded: list[tuple[int, int]], together: int
) -> None:
    source = open_source(str(volume), SourceOptions(slices=(3, 11)))
    source.keep_little()
    for start in range(0, 8, together):
        stop = min(start + together, 8)
        assert np.array_equal(np.stack(source.read(start, stop)), VALUES[3 + start : 3 + stop])
    assert len(decoded) == (2 if together == 5 else 3)  # more than a layer at once is read as it is asked for


def test_readers_at_several_places_decode_no_layer_again(
    volume: Path, decoded: list[tuple[int, int]]
) -> None:
    source = open_source(str(volume))
    for number in (0, 4, 1, 5, 2, 6):
        read_one(source, number)
    assert decoded == [(0, 4), (4, 8)]


def test_a_layer_of_which_a_slice_was_looked_at_is_handed_out_once(
    volume: Path, decoded: list[tuple[int, int]]
) -> None:
    source = open_source(str(volume))
    read_one(source, 5)
    assert np.array_equal(np.stack(source.read(4, 8)), VALUES[4:8])
    assert decoded == [(4, 8)]
    source.read(4, 8)
    assert decoded == [(4, 8), (4, 8)]


def test_what_is_handed_out_is_the_callers(volume: Path) -> None:
    source = open_source(str(volume))
    read_one(source, 1)[:] = 7
    assert np.array_equal(read_one(source, 1), VALUES[1])


def test_no_more_is_kept_than_is_said(
    volume: Path, decoded: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array, "_KEPT_BYTES", 2 * PLANE)
    source = open_source(str(volume))
    assert source.volume is not None
    assert source.volume.kept_bytes == 2 * PLANE
    assert np.array_equal(np.stack([read_one(source, number) for number in range(13)]), VALUES)
    assert decoded == [(start, min(start + 2, 13)) for start in range(0, 13, 2)]


def test_a_broken_chunk_costs_no_slice_beside_it(volume: Path) -> None:
    (volume / "c" / "0" / "0" / "0").unlink()
    source = open_source(str(volume))
    with pytest.raises(ImageError):
        read_one(source, 3)
    assert np.array_equal(read_one(source, 4), VALUES[4])


def test_a_page_that_cannot_be_read_costs_no_slice_of_its_chunk(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    stored = zarr.create_array(str(path), shape=SHAPE, chunks=(4, 10, 17), shards=(8, 10, 17), dtype="uint8")
    stored[:] = VALUES
    (path / "c" / "1" / "0" / "0").unlink()
    source = open_source(str(path))
    assert np.array_equal(np.stack(source.read(5, 8)), VALUES[5:8])
    with pytest.raises(ImageError, match="is missing"):
        source.read(7, 9)


def test_decoders_are_counted_by_their_chunks(volume: Path, tmp_path: Path) -> None:
    chunk = int(np.prod(CHUNK))
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file.create_dataset("data", data=VALUES, chunks=CHUNK, compression="gzip")
        file.create_dataset("plain", data=VALUES)
    found = {}
    for place in (f"{volume}", f"{tmp_path}/volume.h5::data", f"{tmp_path}/volume.h5::plain"):
        source = open_source(place)
        assert source.volume is not None
        found[Path(place).name] = (source.volume.decoding_bytes, source.volume.kept_bytes)
    # six chunks of a layer at a time with what is stored of them; one at a time, for HDF5
    layer = 4 * PLANE
    assert found == {
        "volume.zarr": (6 * chunk * 2, layer),
        "volume.h5::data": (chunk * 4, layer),
        "volume.h5::plain": (0, PLANE),
    }


def test_an_image_that_a_sample_has_read_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        Image.fromarray(VALUES[number]).save(tmp_path / f"s{number}.png")
        os.utime(tmp_path / f"s{number}.png", (1, 1))
    source, reads = open_source(str(tmp_path)), []

    def told(path: Path, *channels: object) -> object:
        reads.append(path.stem)
        return read_any_dtype(path, *channels)

    monkeypatch.setattr(folder, "read_any_dtype", told)
    assert np.array_equal(source.look(0), VALUES[0])
    assert np.array_equal(source.look(1), VALUES[1])
    Image.fromarray(VALUES[7]).save(tmp_path / "s1.png")
    assert np.array_equal(np.stack(source.read(0, 2)), VALUES[[0, 7]])
    assert reads == ["s0", "s1", "s1"], "the second has changed meanwhile"
    source.look(0)
    source.keep_little()
    source.read(0, 1)
    assert reads[3:] == ["s0", "s0"]
