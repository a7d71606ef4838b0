"""Defects found by mutated inputs: headers that promise too much, streams that become too much, unnoticed damage."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import os
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import onnx_models
import pytest
import tifffile
import torch
import zarr
from checkpoints import make_checkpoint
from click.testing import CliRunner, Result
from fuzzing.archives import CANARY
from fuzzing.arrays import gzip_bomb
from fuzzing.pictures import png_chunks, png_of
from PIL import Image

from matseg_runtime.cli.model import inspect_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.inference.session import Session
from matseg_runtime.source import checks
from matseg_runtime.source.array import MOST_SLICES
from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.open import open_source
from matseg_shared.contract.classes import read_classes
from matseg_shared.errors import ConfigError, DatasetError, ImageError, ModelError, UsageError
from matseg_shared.images import limits
from matseg_shared.images.limits import require_bounded_stream, require_memory
from matseg_shared.images.read import read_image
from matseg_trainer.config.load import load_config
from matseg_trainer.predict.checkpoint import load_checkpoint, save_checkpoint

PIXELS = onnx_models.random_pixels((24, 32), "uint8", 1)
VOLUME = onnx_models.random_pixels((6, 24, 32), "uint8", 1)
DEEP = "[" * 3000 + "]" * 3000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.save_model(tmp_path_factory.mktemp("model") / "alloy_v1.onnx")


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One on which an image may have 16 MB."""
    monkeypatch.setattr(limits, "ALWAYS", 1 << 20)
    monkeypatch.setattr(limits, "available_memory", lambda: 96 << 20)


@pytest.fixture
def opened() -> Iterator[Callable[..., Source]]:
    """`open_source`, closed at the end."""
    sources: list[Source] = []

    def call(location: object, **options: Any) -> Source:
        sources.append(open_source(str(location), SourceOptions(**options)))
        return sources[-1]

    yield call
    for source in sources:
        source.close()


def settled(path: Path) -> Path:
    past = time.time() - 60
    os.utime(path, (past, past))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(
        run_main, [str(argument) for argument in (*arguments, "--no-report", "--threads", "1")]
    )


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert "please report it" not in result.output
    for word in words:
        assert word in result.output


# --- images


def _png(path: Path, change: Callable[[bytes, bytes], bytes]) -> Path:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "png")
    path.write_bytes(png_of([(kind, change(kind, data)) for kind, data in png_chunks(stream.getvalue())]))
    return path


def test_a_png_whose_header_promises_what_its_bytes_cannot_hold(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)
    path = _png(tmp_path / "a.png", lambda kind, data: header if kind == b"IHDR" else data)
    with pytest.raises(ImageError, match="image file is truncated"):
        read_image(path)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_an_image_larger_than_the_memory_is_refused_by_its_header(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("L", (5000, 5000)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda _: pytest.fail("decoded"))
    with pytest.raises(
        ImageError, match=r"promises one image of 5000 x 5000( x 1)? \(25.0 MB\), expected at most 16.8"
    ):
        read_image(path)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
def test_a_png_that_a_bad_disk_has_changed_is_not_read(tmp_path: Path, where: float) -> None:
    """Pillow gives other pixels for it, and says nothing."""
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path, compress_level=0)
    content = bytearray(path.read_bytes())
    content[100 + int(where * 600)] ^= 4
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"has changed since it was written \(.*checksum in b'IDAT'"):
        read_image(path)


def test_a_tiff_strip_that_becomes_more_than_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without imagecodecs it is unpacked by zlib, which knows no limit."""
    monkeypatch.setattr(limits, "ALWAYS", 1 << 20)
    monkeypatch.setattr(limits, "available_memory", lambda: 6 << 20)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, compression="zlib")
    bomb = zlib.compress(bytes(4 << 20))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        tags["StripOffsets"].overwrite([path.stat().st_size])
        tags["StripByteCounts"].overwrite([len(bomb)])
    with path.open("ab") as stream:
        stream.write(bomb)
    with pytest.raises(ImageError, match="become more than the 768 that its header promises"):
        read_image(path)


# --- streams


@pytest.mark.parametrize(
    ("kind", "pack"), [("deflate", zlib.compress), ("bz2", bz2.compress), ("lzma", lzma.compress)]
)
def test_a_stream_is_counted_before_it_is_unpacked(
    kind: Any, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "could_fill", lambda *_: True)
    content = pack(bytes(3 << 20))
    require_bounded_stream("a", content, kind, 3 << 20)
    require_bounded_stream("a", content[:-9], kind, 3 << 20)  # damage is for the decoder to name
    with pytest.raises(
        ImageError, match=f"its {len(content)} compressed bytes become more than the {(3 << 20) - 1}"
    ):
        require_bounded_stream("a", content, kind, (3 << 20) - 1)


def test_what_is_small_asks_nobody_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: pytest.fail("asked"))
    require_memory("a", (8192, 8192), 1)


# --- volumes


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((MOST_SLICES + 1, 24, 32), "expected at most 500000 at a time; take a part with --range"),
        ((2**40, 24, 32), "expected at most 500000"),
        ((6, 10**7, 10**7), "promises one slice of 1 x 10000000 x 10000000"),
    ],
)
@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_shape_that_nobody_has_written(
    tmp_path: Path, kind: str, shape: tuple[int, ...], message: str
) -> None:
    """The names alone of so many slices would fill the memory."""
    path = tmp_path / f"scan.{'zarr' if kind == 'zarr' else 'h5'}"
    if kind == "zarr":
        zarr.create_array(str(path), shape=shape, chunks=(1, 24, 32), dtype="uint8")
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", shape=shape, chunks=(1, 24, 32), dtype="uint8")
        settled(path)
    with pytest.raises(UsageError, match=message):
        open_source(str(path))


def test_a_range_of_a_long_volume_is_taken(tmp_path: Path, opened: Callable[..., Source]) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(2**40, 24, 32), chunks=(1, 24, 32), dtype="uint8")
    assert len(opened(tmp_path / "a.zarr", slices=(5, 8)).slices) == 3


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_chunk_larger_than_the_memory(tmp_path: Path, kind: str) -> None:
    path, chunks = tmp_path / f"scan.{'zarr' if kind == 'zarr' else 'h5'}", (60, 800, 800)
    if kind == "zarr":
        zarr.create_array(str(path), shape=chunks, chunks=chunks, dtype="uint8")
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", shape=chunks, chunks=chunks, dtype="uint8", compression=1)
        settled(path)
    with pytest.raises(ImageError, match="promises one chunk of 60 x 800 x 800"):
        open_source(str(path))


def test_a_slice_of_millions_of_chunks_is_no_hang(tmp_path: Path, opened: Callable[..., Source]) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(1, 5000, 5000), chunks=(1, 2, 2), dtype="uint8")
    with pytest.raises(ImageError, match="one slice of it is cut into 6250000 chunks"):
        opened(tmp_path / "a.zarr").read(0, 1)


def test_chunks_without_extent(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    zarr.create_array(str(path), shape=VOLUME.shape, chunks=VOLUME.shape, dtype="uint8")[:] = VOLUME
    text = (path / "zarr.json").read_text()
    document = json.loads(text)
    document["chunk_grid"]["configuration"]["chunk_shape"] = [1, 0, 32]
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"holds nothing|expected a zarr array"):
        open_source(str(path))


ZARRS: dict[str, dict[str, Any]] = {
    "gzip": {"compressors": [{"name": "gzip", "configuration": {"level": 1}}]},
    "blosc": {"compressors": [{"name": "blosc", "configuration": {"cname": "zstd"}}]},
    "zstd": {},
    "sharded": {"shards": (2, 24, 32), "compressors": [{"name": "gzip", "configuration": {"level": 1}}]},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "v2 bz2": {"zarr_format": 2, "compressors": numcodecs.BZ2()},
    "v2 lzma": {"zarr_format": 2, "compressors": numcodecs.LZMA()},
    "v2 lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
}
BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip_bomb(4 << 20),
    "blosc": lambda: numcodecs.Blosc("zstd").encode(bytes(40 << 20)),
    "zstd": lambda: numcodecs.Zstd().encode(bytes(40 << 20)),
    "v2 zlib": lambda: zlib.compress(bytes(4 << 20)),
    "v2 bz2": lambda: bz2.compress(bytes(4 << 20)),
    "v2 lzma": lambda: lzma.compress(bytes(4 << 20)),
    "v2 lz4": lambda: numcodecs.LZ4().encode(bytes(40 << 20)),
}


@pytest.mark.parametrize("name", ZARRS)
def test_a_zarr_chunk_that_becomes_more_than_its_pixels(
    tmp_path: Path, name: str, opened: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.zarr"
    array = zarr.create_array(str(path), shape=VOLUME.shape, chunks=(1, 24, 32), dtype="uint8", **ZARRS[name])
    array[:] = VOLUME
    for target in (limits, __import__("matseg_runtime.source.zarr_chunks", fromlist=["ALWAYS"])):
        monkeypatch.setattr(target, "ALWAYS", 1000)
    monkeypatch.setattr(limits, "available_memory", lambda: 18_000)
    assert np.array_equal(opened(path).read(0, 1)[0], VOLUME[0])  # what is honest passes the same check
    chunk = next(
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and "zarr" not in file.name and ".z" not in file.name
    )
    if name == "sharded":
        bomb = gzip_bomb(4 << 20)
        index = struct.pack("<4Q", 0, len(bomb), 2**64 - 1, 2**64 - 1)
        chunk.write_bytes(bomb + index + struct.pack("<I", numcodecs_crc32c(index)))
    else:
        chunk.write_bytes(BOMBS[name]())
    with pytest.raises(
        ImageError, match=r"compressed bytes become more than|says that it becomes 41943040 bytes"
    ):
        opened(path).read(0, 1)


def numcodecs_crc32c(content: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(content))


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": {"id": "pickle"}},
        {
            "compressor": {"id": "zlib", "level": 1},
            "filters": [{"id": "delta", "dtype": "|u1"}, {"id": "pickle"}],
        },
        {"compressor": {"id": "pickle"}, "filters": [{"id": "delta", "dtype": "|u1"}]},
    ],
)
def test_pickled_chunks_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codecs: dict[str, Any]
) -> None:
    """numcodecs has a codec that executes what a chunk says."""
    monkeypatch.delenv(CANARY, raising=False)
    path = tmp_path / "scan.zarr"
    zarr.create_array(str(path), shape=VOLUME.shape, chunks=VOLUME.shape, dtype="uint8", zarr_format=2)[:] = (
        VOLUME
    )
    document = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(document | codecs))

    class Executes:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (f"import os; os.environ[{CANARY!r}] = '1'",)

    (path / "0.0.0").write_bytes(pickle.dumps(Executes()))
    with pytest.raises(
        UsageError, match=r"as Python objects \(pickle\), which are never decoded|'object_codec_id': 'pickle'"
    ):
        open_source(str(path)).read(0, 1)
    assert CANARY not in os.environ


@pytest.mark.parametrize("chunks", [None, (1, 24, 32)])
def test_a_scan_that_was_never_written_is_not_black(
    tmp_path: Path, opened: Callable[..., Source], chunks: tuple[int, ...] | None
) -> None:
    """HDF5 fills in zeros for what an interrupted scan has only reserved."""
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", shape=VOLUME.shape, dtype="uint8", chunks=chunks)
        if chunks is not None:
            data[:4] = VOLUME[:4]
    settled(path)
    if chunks is not None:
        assert np.array_equal(opened(path).read(3, 4)[0], VOLUME[3])
    with pytest.raises(ImageError, match="HDF5 would fill in 0; run again when it is complete"):
        opened(path).read(4, 5)
    assert not opened(path, fill_missing_chunks=True).read(4, 5)[0].any()


def test_a_virtual_dataset_without_its_parts_is_not_black(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    layout = h5py.VirtualLayout(shape=VOLUME.shape, dtype="uint8")
    layout[:] = h5py.VirtualSource("part.h5", "data", shape=VOLUME.shape)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    settled(tmp_path / "scan.h5")
    with pytest.raises(UsageError, match=r"takes values from part.h5, which is not there"):
        opened(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["other"] = VOLUME
    with pytest.raises(UsageError, match=r"takes values from part.h5::data, which is not there"):
        opened(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["data"] = VOLUME
    assert np.array_equal(opened(tmp_path / "scan.h5").read(0, 1)[0], VOLUME[0])


def test_an_hdf5_chunk_that_becomes_more_than_its_pixels(
    tmp_path: Path, opened: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data", shape=VOLUME.shape, dtype="uint8", chunks=(1, 24, 32), compression=1
        )
        data[1:] = VOLUME[1:]
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(4 << 20)))
    settled(path)
    monkeypatch.setattr(limits, "ALWAYS", 1000)
    monkeypatch.setattr(limits, "available_memory", lambda: 18_000)
    assert np.array_equal(opened(path).read(1, 2)[0], VOLUME[1])
    with pytest.raises(ImageError, match="compressed bytes become more than the 1536"):
        opened(path).read(0, 1)


def test_an_hdf5_slice_of_millions_of_chunks(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", shape=(2, 1100, 1100), chunks=(1, 1, 1), dtype="uint8")
    with pytest.raises(ImageError, match="cut into 1210000 chunks"):
        opened(settled(path)).read(0, 1)


@pytest.mark.parametrize(
    ("entry", "where", "value", "words"),
    [
        (1, 0, struct.pack("<I", 0), "one has 0 bytes"),
        (2, 40, struct.pack("<Q", 1 << 40), "one has 196 bytes from byte 1099511627776"),
        (3, 8, struct.pack("<Q", 7), r"one begins at .7, 12, 16"),
        (3, 16, struct.pack("<Q", 0), "one is there twice"),
        (0, 0, bytes(10 * 48), "one has 0 bytes from byte 0"),
    ],
    ids=["no bytes", "beyond the end", "outside of the grid", "twice", "all zero"],
)
def test_an_hdf5_chunk_index_that_is_damaged(
    entry: int, where: int, value: bytes, words: str, tmp_path: Path
) -> None:
    """Nodes of the older index: a header of 24 bytes, then size, filters, corner and address of each chunk."""
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset(
            "exchange/data", data=VOLUME, chunks=(1, 12, 16), compression="lzf", fletcher32=True
        )
    content = bytearray(path.read_bytes())
    at = content.index(b"TREE\1\0") + 24 + 48 * entry + where
    content[at : at + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"its index of chunks is damaged .{words}"):
        open_source(str(settled(path)))


def test_hdf5_that_is_damaged_behind_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["exchange/data"] = VOLUME
    content = path.read_bytes()
    path.write_bytes(content.replace(b"SNOD", b"JUNK"))
    with pytest.raises(UsageError, match="expected an HDF5 file, found a damaged one"):
        open_source(str(settled(path)))


@pytest.mark.parametrize("dtype", ["'|O'", "'<U8'", "'<c8'", "None", "[('a', '|u1')]", "'<M8[s]'"])
def test_arrays_of_something_else(tmp_path: Path, dtype: str) -> None:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': (2, 2), }}".ljust(117) + "\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64))
    with pytest.raises(UsageError, match=r"expected (a whole .npy file with )?an array of numbers"):
        open_source(str(settled(path)))


def test_a_shape_that_overflows(tmp_path: Path) -> None:
    header = (
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2), }".ljust(117) + "\n"
    )
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64))
    with pytest.raises(UsageError, match=r"expected a whole .npy file"):
        open_source(str(settled(path)))


def test_an_archive_of_arrays_under_the_name_of_one(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as stream:
        np.savez(stream, image=VOLUME)
    with pytest.raises(UsageError, match="an archive of several arrays"):
        open_source(str(settled(tmp_path / "a.npy")))


def test_a_pipe_is_not_waited_for(tmp_path: Path, model: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "scan.tif")
    os.mkfifo(tmp_path / "model.onnx")
    refused(run(model, tmp_path / "scan.tif"), "is no file but a pipe or device")
    result = CliRunner().invoke(inspect_main, [str(tmp_path / "model.onnx")])
    refused(result, "found a pipe or device")


def test_names_that_are_none(model: Path) -> None:
    refused(run(model, "a" * 300), "the input cannot be read: File name too long")


def test_a_tiff_whose_unit_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, VOLUME, resolution=(1e4, 1e4), resolutionunit=3)
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags["ResolutionUnit"].offset
    content = bytearray(path.read_bytes())
    struct.pack_into("<HIHH", content, at + 2, 3, 2, 3, 3)  # two of them
    path.write_bytes(content)
    with pytest.raises(UsageError, match="found a damaged file"):
        open_source(str(settled(path)))


def test_odd_tags_of_a_tiff_are_not_told_line_by_line(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, VOLUME)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["Software"]
    struct.pack_into("<H", content, tag.offset + 2, 99)
    path.write_bytes(content)
    result = run(model, settled(path), "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "TiffTag" not in result.stderr


def test_odd_chunks_of_a_png_are_not_told_either(tmp_path: Path, model: Path) -> None:
    """Pillow warns of an animation without frames; of one behind the pixels when it decodes them."""
    image = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(image)
    chunks = png_chunks(image.read_bytes())
    image.write_bytes(png_of([*chunks[:-1], (b"acTL", bytes(8)), chunks[-1]]))
    settled(image)
    result = run(model, tmp_path, "-o", tmp_path.parent / "out")
    assert result.exit_code == 0, result.output
    assert "APNG" not in result.stderr


def test_a_volume_of_which_nothing_is_there_is_gone_through_quickly(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(2, 900, 900), chunks=(1, 1, 1), dtype="uint8")
    source = opened(tmp_path / "a.zarr")
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"its chunk c/0/0/0, c/0/0/1, c/0/0/2 \(and more\) is missing"):
        source.read(0, 1)
    assert time.monotonic() - started < 2


# --- models


def test_not_all_of_a_hundred_thousand_slices_are_tried(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have the sentence soon where none is there, and begin the run where one is."""
    monkeypatch.setattr(checks, "_MOST_TRIED", 20)
    path = tmp_path / "scan.zarr"
    volume = zarr.create_array(str(path), shape=(500, 24, 32), chunks=(1, 24, 32), dtype="uint8")
    settled(path)
    result = run(model, path, "-o", tmp_path / "out.zarr")
    refused(result, "none of the 40 tried of its 500 slices can be read", "is missing")
    volume[295] = PIXELS + 1  # beyond the first twenty every 25th is tried
    result = run(model, settled(path), "-o", tmp_path / "out")
    assert result.exit_code == 4, result.output
    assert (tmp_path / "out" / "scan_0295.png").exists()


def test_a_network_that_gives_labels_of_another_size(tmp_path: Path) -> None:
    """Its declared shapes are free, so that only a run can tell."""
    import onnx

    path = onnx_models.save_model(tmp_path / "alloy_v1.onnx")
    graph = onnx.load(path)
    graph.graph.node[-1].output[0] = "narrow"
    graph.graph.node.append(onnx.helper.make_node("Concat", ["narrow", "narrow"], ["labels"], axis=2))
    onnx.save(graph, path)
    session = Session.open(path, provider="cpu", threads=1)
    with pytest.raises(ModelError, match=r"gives labels of shape \(1, 32, 64\), expected \(1, 32, 32\)"):
        session.self_test()
    with pytest.raises(ModelError, match="gives labels of shape"):
        session.predict_with_probabilities(session.model.self_test.image)


def test_metadata_that_are_no_text(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "mutated.onnx"
    content = model.read_bytes()
    at = content.index(b'"schema_version"')
    path.write_bytes(content[: at + 4] + b"\xff" + content[at + 5 :])
    refused(CliRunner().invoke(inspect_main, [str(path)]), "its metadata are no text")


# --- documents


@pytest.mark.parametrize("text", [f"a = {DEEP}", "a = 1" + "0" * 5000, "\0", "a = "])
def test_toml_that_python_cannot_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.toml"
    path.write_text(text)
    with pytest.raises(DatasetError, match="cannot be read as TOML"):
        read_classes(path)
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_config(path)


@pytest.mark.parametrize("key", ["epoch", "n_class", "size", "model", "lr", "aug", "seed"])
def test_numbers_without_end_in_a_configuration(tmp_path: Path, key: str) -> None:
    endless = "0x" + "f" * 4000
    values = {"model": "'unet'", "n_class": "3"} | {key: endless}
    path = tmp_path / "config.toml"
    path.write_text("[a.v1]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    with pytest.raises(
        ConfigError, match=f"a.v1.{key}: expected a number of ordinary size, found a whole number of 16000"
    ):
        load_config(path)


# --- checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "a.pth"
    save_checkpoint(path, make_checkpoint("unet"))
    return path.read_bytes()


def _repacked(content: bytes, path: Path, kind: int, data: bytes | None = None) -> Path:
    source = zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(path, "w", kind) as target:
        for name in source.namelist():
            changed = data is not None and name.endswith("data.pkl")
            target.writestr(name, data if changed and data is not None else source.read(name))
    return path


def test_a_pickle_that_asks_for_all_memory(checkpoint: bytes, tmp_path: Path) -> None:
    """Eight bytes: the memo's last place. Python's unpickler in C makes room for all places before it; torch's not."""
    greedy = b"\x80\x02Nr\xff\xff\xff\xff."
    path = _repacked(checkpoint, tmp_path / "a.pth", zipfile.ZIP_STORED, greedy)
    with pytest.raises(ModelError, match="expected a checkpoint written by matseg-train"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.to(torch.complex64), "is of torch.complex64, not torch.float32"),
        (lambda tensor: tensor.double(), "is of torch.float64"),
        (lambda tensor: tensor * float("nan"), "holds values that are no finite numbers"),
    ],
)
def test_weights_of_another_kind(
    checkpoint: bytes, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    """torch loads them all; NaN would then be labelled as the first class."""
    document = torch.load(io.BytesIO(checkpoint), weights_only=True)
    name = next(iter(document["weights"]))
    document["weights"][name] = change(document["weights"][name])
    torch.save(document, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=message):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("weights", ["word", [1, 2], {"a": 1}, {"a": torch.zeros(2)}, None])
def test_weights_that_are_none(checkpoint: bytes, tmp_path: Path, weights: object) -> None:
    document = torch.load(io.BytesIO(checkpoint), weights_only=True)
    torch.save({**document, "weights": weights}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="its weights do not fit its description"):
        load_checkpoint(tmp_path / "a.pth")
