"""Slices read one by one, of which each chunk is decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from matseg_runtime.source import slice_reader
from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.open import open_source
from matseg_runtime.source.slice_reader import SliceReader
from matseg_shared.errors import ImageError

SHAPE, CHUNK = (13, 10, 17), (4, 5, 8)
VALUES = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume.zarr"
    zarr.create_array(str(path), shape=SHAPE, chunks=CHUNK, dtype=VALUES.dtype)[:] = VALUES
    return path


def counted(source: Source, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges of slices that are read of it from now on."""
    reads: list[tuple[int, int]] = []
    read = source.read

    def told(start: int, stop: int) -> object:
        reads.append((start, stop))
        return read(start, stop)

    monkeypatch.setattr(source, "read", told)
    return reads


@pytest.mark.parametrize(("axis", "layers"), [(0, 4), (1, 2), (2, 3)])
def test_each_layer_of_chunks_is_read_once(
    volume: Path, monkeypatch: pytest.MonkeyPatch, axis: int, layers: int
) -> None:
    source = open_source(str(volume), SourceOptions(axis=axis))
    reads, reader = counted(source, monkeypatch), SliceReader(source)
    for number in range(SHAPE[axis]):
        assert np.array_equal(reader.read(number), np.take(VALUES, number, axis))
    assert len(reads) == layers


def test_layers_begin_where_chunks_do_in_a_range_too(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(volume), SourceOptions(slices=(3, 11)))
    reads, reader = counted(source, monkeypatch), SliceReader(source)
    for number in range(8):
        assert np.array_equal(reader.read(number), VALUES[3 + number])
    assert reads == [(0, 1), (1, 5), (5, 8)]


def test_two_readers_at_two_places_decode_no_layer_again(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(volume))
    reads, reader = counted(source, monkeypatch), SliceReader(source)
    for number in (0, 4, 1, 5, 2, 6):
        reader.read(number)
    assert reads == [(0, 4), (4, 8)]


def test_a_large_layer_is_read_in_parts(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_reader, "_LAYER_BYTES", 2 * 10 * 17)
    source = open_source(str(volume))
    reads, reader = counted(source, monkeypatch), SliceReader(source)
    assert np.array_equal(np.stack([reader.read(number) for number in range(13)]), VALUES)
    assert all(stop - start <= 2 for start, stop in reads)


def test_a_broken_chunk_costs_no_slice_beside_it(volume: Path) -> None:
    (volume / "c" / "0" / "0" / "0").unlink()
    reader = SliceReader(open_source(str(volume)))
    with pytest.raises(ImageError):
        reader.read(3)
    assert np.array_equal(reader.read(4), VALUES[4])
