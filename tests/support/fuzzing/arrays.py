"""Mutations of .npy files, zarr hierarchies and HDF5 files, with what their libraries would rather not be given."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fuzzing.documents import mutate_json
from fuzzing.octets import mutate_octets

_SHAPES = (
    "()", "(0,)", "(24, 32)", "(3, 24, 32)", "(24, 3, 32)", "(-1, 24, 32)", "(1, 1, 1, 24, 32)", "(99999999, 24, 32)",
    "(6, 99999, 99999)", "(1000000000000, 1, 1)", "(4294967296, 4294967296, 2)", "(6, 24)", "6", "(6, 24, 32.0)",
    "(True, 24, 32)", "[6, 24, 32]", "(4608, 1, 1)", "(1, 1, 4608)", "(1,)" + "*99999999", "(" * 400 + ")" * 400,
)  # fmt: skip
_DTYPES = (
    "'|u1'", "'|i1'", "'<u2'", "'>u2'", "'<f4'", "'<f8'", "'<f2'", "'|b1'", "'|O'", "'<U8'", "'|S8'", "'<c8'",
    "'<M8[s]'", "'|V9'", "'<f16'", "[('a', '|u1'), ('b', '<u2')]", "('|u1', (2, 2))", "'<i8'", "'|u0'", "'u1,u1'",
    "'|V0'", "None", "'|u1\\x00'", "'" + "u1," * 900 + "u1'", "__import__('os')", "1",
)  # fmt: skip


def mutate_npy(random: Random, content: bytes) -> bytes:
    """A .npy file whose header says something else than its data are."""
    shape = random.choice(_SHAPES) if random.random() < 0.6 else "(6, 24, 32)"
    dtype = random.choice(_DTYPES) if random.random() < 0.6 else "'|u1'"
    order = random.choice(("False", "False", "True", "0", "None", "'x'"))
    fields = [f"'descr': {dtype}", f"'fortran_order': {order}", f"'shape': {shape}"]
    if random.random() < 0.1:
        fields.append(random.choice(("'x': 1", "'shape': (1,)", "'descr': '|O'")))
    if random.random() < 0.1:
        del fields[random.randrange(len(fields))]
    header = ("{" + ", ".join(fields) + ", }").encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    version = random.choice((1, 1, 1, 2, 3, 4, 0))
    length = struct.pack("<H", len(header) % 65536) if version == 1 else struct.pack("<I", len(header))
    if random.random() < 0.1:
        length = random.choice((b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff"))
    data = content[128:]
    if random.random() < 0.2:
        data = data[: random.randrange(len(data) + 1)]
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + data


def mutate_zarr(random: Random, root: Path) -> None:
    """Change one or two files of a hierarchy on disk: metadata or chunks."""
    for _ in range(random.randint(1, 2)):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        described = [path for path in files if path.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
        chunks = [path for path in files if path not in described]
        if described and (random.random() < 0.6 or not chunks):
            _change_metadata(random, random.choice(described))
        elif chunks:
            _change_chunk(random, random.choice(chunks))


def _change_metadata(random: Random, path: Path) -> None:
    content = path.read_bytes()
    choice = random.randrange(8)
    if choice == 0:
        path.unlink()
    elif choice == 1:
        path.write_bytes(mutate_octets(random, content))
    elif choice <= 3:
        try:
            path.write_text(json.dumps(_hostile(random, json.loads(content))))
        except (ValueError, RecursionError):
            path.write_bytes(b"{}")
    else:
        try:
            path.write_bytes(mutate_json(random, json.loads(content)))
        except (ValueError, RecursionError):
            path.write_bytes(mutate_octets(random, content))


_CODECS = ("pickle", "json2", "msgpack2", "vlen-utf8", "gzip", "zlib", "bz2", "lzma", "lz4", "zstd", "blosc",
           "shuffle", "delta", "packbits", "crc32", "zfpy", "no_such", "categorize")  # fmt: skip
_LENGTHS = (0, 1, 3, 24, 5000, 100_000, 10**6, 10**9, 2**31, 2**40, 2**63, -1)


def _hostile(random: Random, document: Any) -> Any:
    """Shapes, chunks, types and codecs that are right as such, and too large or meant for something else."""
    if not isinstance(document, dict):
        return document
    choice = random.randrange(5)
    if choice == 0 and isinstance(document.get("shape"), list):
        document["shape"] = [random.choice((number, *_LENGTHS)) for number in document["shape"]]
    elif choice == 1:
        lengths = [random.choice((1, 2, 8, 24, *_LENGTHS)) for _ in document.get("shape", (1, 1, 1))]
        if "chunks" in document:
            document["chunks"] = lengths
        else:
            document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": lengths}}
    elif choice == 2:
        key = "dtype" if "dtype" in document else "data_type"
        document[key] = random.choice(
            ("|b1", "|O", "<f8", ">f4", "<M8[ns]", "<U8", "|S3", "bool", "float64", "int64", "string", "r24", "uint16",
             "complex64", [["a", "|u1"]], "variable_length_bytes", {"name": "numpy.datetime64",
             "configuration": {"unit": "s", "scale_factor": 1}})
        )  # fmt: skip
    elif choice == 3:
        codec = random.choice(_CODECS)
        if "zarr_format" in document and document["zarr_format"] == 2:
            entry = {"id": codec, "dtype": "|u1"}
            document[random.choice(("compressor", "filters"))] = random.choice((entry, [entry]))
        else:
            name = random.choice((codec, f"numcodecs.{codec}"))
            document["codecs"] = [{"name": "bytes"}, {"name": name, "configuration": {}}]
    else:
        document["fill_value"] = random.choice(
            (None, "NaN", "Infinity", 10**30, -1, 1.5, "x", [0], True, "0xff")
        )
    return document


def _change_chunk(random: Random, path: Path) -> None:
    content = path.read_bytes()
    choice = random.randrange(7)
    if choice == 0:
        path.unlink()
    elif choice == 1:
        path.write_bytes(b"")
    elif choice == 2:
        path.write_bytes(gzip.compress(bytes(random.choice((1, 4096, 2 << 20))), 1))
    elif choice == 3:
        path.write_bytes(_declared(random, content))
    elif choice == 4:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(mutate_octets(random, content))


def _declared(random: Random, content: bytes) -> bytes:
    """The header of a blosc, zstd or lz4 chunk that promises more than there is."""
    data = bytearray(content.ljust(16, b"\0"))
    struct.pack_into(
        "<I", data, random.choice((0, 4, 8, 12)), random.choice((0, 1, 2**20, 2**30, 2**31 - 17, 2**32 - 1))
    )
    return bytes(data)


def gzip_bomb(length: int) -> bytes:
    """`length` zeros in a thousandth of that, made without holding them."""
    squeezer = zlib.compressobj(9, wbits=31)
    block, parts = bytes(1 << 20), []
    for _ in range(length >> 20):
        parts.append(squeezer.compress(block))
    return b"".join([*parts, squeezer.flush()])


def make_hdf5(random: Random, path: Path, volume: NDArray[Any]) -> None:
    """An HDF5 file that is right as such and holds something awkward."""
    limits = contextlib.suppress(ValueError, TypeError, OverflowError, RuntimeError)  # h5py's own
    with h5py.File(path, "w", libver=random.choice(("earliest", "latest"))) as file, limits:
        _awkward(random, file, volume)


def _awkward(random: Random, file: h5py.File, volume: NDArray[Any]) -> None:  # noqa: C901 (a list of cases)
    choice = random.randrange(17)
    if choice == 0:
        shape = [random.choice((1, 3, 24, 5000, 100_000, 10**6, 10**9, 2**31)) for _ in range(3)]
        chunks = tuple(min(length, 16) for length in shape)
        file.create_dataset("data", shape=shape, dtype=random.choice(("u1", "f4", "f8")), chunks=chunks)
    elif choice == 1:
        file.create_dataset(
            "data", shape=(6, 60_000, 60_000), dtype="u1", chunks=(1, 60_000, 60_000), compression=1
        )
    elif choice == 2:
        data = file.create_dataset("data", shape=volume.shape, dtype="u1", chunks=(2, 24, 32), compression=1)
        bomb = zlib.compress(bytes(random.choice((1, 10_000, 4 << 20))))
        data.id.write_direct_chunk((0, 0, 0), random.choice((bomb, bomb[:-3], b"x", b"x" * 50)))
        data[2:] = volume[2:]
    elif choice == 3:
        kinds = ("S5", h5py.string_dtype(), h5py.vlen_dtype("u1"), h5py.ref_dtype, "c8", [("a", "u1"), ("b", "u2")],
                 h5py.enum_dtype({"a": 0, "b": 1}, "u1"), "V7", h5py.opaque_dtype("M8[s]"))  # fmt: skip
        file.create_dataset("data", shape=volume.shape, dtype=random.choice(kinds))
    elif choice == 4:
        file["data"] = volume
        file["a/b"] = file["/"] if random.random() < 0.5 else h5py.SoftLink("/a/b")
        file["loop"] = h5py.SoftLink("/loop")
    elif choice in (15, 16):
        file["a/data"], file["loop"] = volume, h5py.SoftLink("/loop")
        names = (
            "a",
            "data",
            "/",
            "..",
            "a/data",
            "loop",
            "no",
            "",
            b"\xff",
            7,
            volume,
            ["data"],
            h5py.Empty("S1"),
        )
        for node, key in (
            (file, "default"),
            (file["a"], "signal"),
            (file["a"], "default"),
            (file["a"], "axes"),
        ):
            if random.random() < 0.7:
                node.attrs[key] = random.choice(names)
        file["a"].attrs["NX_class"] = random.choice(("NXdata", "NXentry", 3))
    elif choice == 5:
        file["data"] = h5py.ExternalLink(
            random.choice(("missing.h5", "/dev/null", "/", file.filename)), "/data"
        )
    elif choice == 6:
        layout = h5py.VirtualLayout(shape=(6, 24, 32), dtype="u1")
        layout[:] = h5py.VirtualSource(random.choice(("missing.h5", ".")), "x", shape=(6, 24, 32))
        file.create_virtual_dataset("data", layout, fillvalue=random.choice((None, 7)))
    elif choice == 7:
        data = file.create_dataset("data", data=volume)
        values = (
            [1, 2],
            [0, 0, 0],
            [-1, 1, 1],
            [float("nan")] * 3,
            "x",
            [1e308] * 3,
            [1e-320] * 3,
            volume,
            b"\xff",
        )
        data.attrs["element_size_um"] = random.choice(values)
    elif choice == 8:
        file.create_dataset("data", shape=(2**40, 24, 32), dtype="u1", chunks=(1, 24, 32))
    elif choice == 9:
        file.create_dataset(
            "data", data=volume, chunks=(1, 8, 8), shuffle=True, fletcher32=True, compression="lzf"
        )
        file["data"].id.write_direct_chunk((0, 0, 0), random.randbytes(64))
    elif choice == 10:
        for number in range(40):
            file.create_dataset(f"g{number}/" * 20 + "data", data=volume[0])
    elif choice == 11:
        file.create_dataset("data", shape=random.choice(((), (0, 24, 32), (6,), (1,) * 30)), dtype="u1")
    elif choice == 12:
        file.create_dataset(
            "data", data=volume.astype(random.choice(("f2", "f8", "i8", "u8", ">u2", "i1", "?")))
        )
    elif choice == 13:
        file["data"] = np.full(volume.shape, random.choice((np.nan, np.inf, -1e38)), np.float32)
    else:
        file.create_dataset("é\n[red]", data=volume)
