"""Small files in the formats of lab CT and microscopes, each written without the code that reads them."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.generic]
"""(Z, Y, X)"""
EDGES = (3.0, 0.5, 0.5)
"""Micrometres of a voxel along z, y, x, in all formats that can tell them apart."""

_METAIMAGE = {"u1": "UCHAR", "u2": "USHORT", "i2": "SHORT", "f4": "FLOAT"}
_NRRD = {"u1": "uint8", "u2": "uint16", "i2": "int16", "f4": "float"}
_AMIRA = {"u1": "byte", "u2": "ushort", "i2": "short", "f4": "float"}


def _xyz(values: tuple[float, ...] | tuple[int, ...], factor: float = 1) -> str:
    return " ".join(f"{value * factor:g}" for value in reversed(values))


def _little(volume: Volume) -> Volume:
    """In the byte order that some formats have always."""
    return volume.astype(volume.dtype.newbyteorder("<"))


def _metaimage(volume: Volume, data: str, *more: str) -> str:
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        f"DimSize = {_xyz(volume.shape)}",
        f"ElementType = MET_{_METAIMAGE[volume.dtype.str[1:]]}",
        f"ElementByteOrderMSB = {volume.dtype.str[0] == '>'}",
        f"ElementSpacing = {_xyz(EDGES)}",
        "DistanceUnits = um",
        *more,
        f"ElementDataFile = {data}",
    ]
    return "\n".join(lines) + "\n"


def write_mhd(path: Path, volume: Volume) -> None:
    path.with_suffix(".raw").write_bytes(volume.tobytes())
    path.write_text(_metaimage(volume, path.with_suffix(".raw").name))


def write_mha(path: Path, volume: Volume) -> None:
    path.write_bytes(_metaimage(volume, "LOCAL").encode() + volume.tobytes())


def write_packed_mha(path: Path, volume: Volume) -> None:
    path.write_bytes(
        _metaimage(volume, "LOCAL", "CompressedData = True").encode() + zlib.compress(volume.tobytes())
    )


def _nrrd(volume: Volume, encoding: str, *more: str) -> bytes:
    lines = [
        "NRRD0005",
        "# written by hand",
        f"type: {_NRRD[volume.dtype.str[1:]]}",
        "dimension: 3",
        "space dimension: 3",
        f"sizes: {_xyz(volume.shape)}",
        f"space directions: ({EDGES[2]},0,0) (0,{EDGES[1]},0) (0,0,{EDGES[0]})",
        'space units: "um" "um" "um"',
        "kinds: domain domain domain",
        f"endian: {'big' if volume.dtype.str[0] == '>' else 'little'}",
        f"encoding: {encoding}",
        *more,
    ]
    return "\n".join(lines).encode() + b"\n\n"


def write_nrrd(path: Path, volume: Volume) -> None:
    path.write_bytes(_nrrd(volume, "raw") + volume.tobytes())


def write_packed_nrrd(path: Path, volume: Volume) -> None:
    path.write_bytes(_nrrd(volume, "gzip") + gzip.compress(volume.tobytes()))


def write_nhdr(path: Path, volume: Volume) -> None:
    path.with_suffix(".raw").write_bytes(b"ab" + volume.tobytes())
    path.write_bytes(_nrrd(volume, "raw", "byte skip: -1", f"data file: {path.with_suffix('.raw').name}"))


def _slices(path: Path, volume: Volume, names: str) -> None:
    """One file per slice, by a format of their numbers from 1."""
    for number, image in enumerate(volume, start=1):
        (path.parent / (names % number)).write_bytes(image.tobytes())


def write_listed_mhd(path: Path, volume: Volume) -> None:
    _slices(path, volume, f"{path.stem}%d.raw")
    path.write_text(
        _metaimage(volume, "LIST\n" + "\n".join(f"{path.stem}{k + 1}.raw" for k in range(len(volume))))
    )


def write_numbered_mhd(path: Path, volume: Volume) -> None:
    _slices(path, volume, f"{path.stem}_%03d.raw")
    path.write_text(_metaimage(volume, f"{path.stem}_%03d.raw 1 {len(volume)} 1"))


def write_listed_nhdr(path: Path, volume: Volume) -> None:
    _slices(path, volume, f"{path.stem} µ %d.raw")
    names = "\n".join(f"{path.stem} µ {k + 1}.raw" for k in range(len(volume)))
    path.write_bytes(_nrrd(volume, "raw", "data file: LIST").rstrip() + f"\n{names}\n".encode())


def write_numbered_nhdr(path: Path, volume: Volume) -> None:
    _slices(path, volume[::-1], f"{path.stem}_%02d.raw")
    path.write_bytes(_nrrd(volume, "raw", f"data file: {path.stem}_%02d.raw {len(volume)} 1 -1 2"))


def write_vgi(path: Path, volume: Volume) -> None:
    kind = {"u": "unsigned integer", "i": "signed integer", "f": "float"}[volume.dtype.kind]
    path.with_suffix(".vol").write_bytes(_little(volume).tobytes())
    path.with_suffix(".vgi").write_text(
        "{volume1}\r\n[representation]\r\nsize = 1 1 1\r\n[file1]\r\nSkipHeader = 0\r\nFileFormat = raw\r\n"
        f"Size = {_xyz(volume.shape)}\r\nName = C:\\scans\\{path.with_suffix('.vol').name}\r\nDatatype = {kind}\r\n"
        f"datarange = 0 -1\r\nBitsPerElement = {8 * volume.dtype.itemsize}\r\n{{volumeprimitive12}}\r\n[geometry]\r\n"
        f"resolution = {_xyz(EDGES, 1e-3)}\r\nunit = mm\r\n[volume]\r\nvolume = volume1\r\n"
    )


def write_mrc(path: Path, volume: Volume) -> None:
    import mrcfile

    with mrcfile.new(path) as file:
        file.set_data(volume.astype(volume.dtype.newbyteorder("=")))
        file.voxel_size = tuple(edge * 1e4 for edge in reversed(EDGES))


def _amira(volume: Volume, array: str) -> bytes:
    ends = [f"0 {edge * (length - 1):g}" for edge, length in zip(EDGES, volume.shape, strict=True)]
    return (
        f"# AmiraMesh BINARY{'' if volume.dtype.str[0] == '>' else '-LITTLE-ENDIAN'} 2.1\n\n\n"
        f'define Lattice {_xyz(volume.shape)}\n\nParameters {{\n    Units {{\n        Coordinates "µm"\n    }}\n'
        f'    Content "volume, uniform coordinates",\n    BoundingBox {" ".join(reversed(ends))},\n'
        f'    CoordType "uniform"\n}}\n\nLattice {{ {_AMIRA[volume.dtype.str[1:]]} Data }} {array}\n\n'
        "# Data section follows\n@1\n"
    ).encode()


def write_amira(path: Path, volume: Volume) -> None:
    path.write_bytes(_amira(volume, "@1") + volume.tobytes() + b"\n")


def write_packed_amira(path: Path, volume: Volume) -> None:
    content = zlib.compress(volume.tobytes())
    path.write_bytes(_amira(volume, f"@1(HxZip,{len(content)})") + content + b"\n")


def write_nifti(path: Path, volume: Volume) -> None:
    """Packed where the name ends in `.gz`."""
    import nibabel

    image = nibabel.Nifti1Image(volume.T, np.diag([*reversed(EDGES), 1.0]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)


def write_txm(path: Path, volume: Volume) -> None:
    """A reconstruction of Zeiss Xradia, which knows one edge for all axes."""
    code = {"u1": 3, "u2": 5, "f4": 10}[volume.dtype.str[1:]]
    numbers = {
        "DataType": code,
        "NoOfImages": len(volume),
        "ImageHeight": volume.shape[1],
        "ImageWidth": volume.shape[2],
    }
    info = {name: struct.pack("<i", number) for name, number in numbers.items()}
    folders = {"ImageInfo": info | {"PixelSize": struct.pack("<f", EDGES[1])}}
    for number, image in enumerate(_little(volume)):
        folders.setdefault(f"ImageData{number // 100 + 1}", {})[f"Image{number + 1}"] = image.tobytes()
    path.write_bytes(ole(folders))


_SECTOR, _SMALL, _SMALLEST_LARGE = 512, 64, 4096
_END, _FREE, _OF_TABLE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD


def ole(folders: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """A compound file: streams of 4096 bytes and more in sectors, small ones in the sectors of the root."""
    sectors: list[bytes] = []
    chain: list[int] = []
    small, small_chain = bytearray(), []

    def put(content: bytes) -> int:
        first = len(sectors)
        pieces = [content[at : at + _SECTOR].ljust(_SECTOR, b"\0") for at in range(0, len(content), _SECTOR)]
        sectors.extend(pieces)
        chain.extend([*range(first + 1, first + len(pieces)), _END])
        return first

    def put_small(content: bytes) -> int:
        first = len(small) // _SMALL
        count = -(-len(content) // _SMALL)
        small.extend(content.ljust(count * _SMALL, b"\0"))
        small_chain.extend([*range(first + 1, first + count), _END])
        return first

    def entry(name: str, kind: int, right: int, child: int, start: int, size: int) -> bytes:
        text = name.encode("utf-16-le")
        return struct.pack(
            "<64sHBBIII16sIQQIQ", text, len(text) + 2, kind, 1, _FREE, right, child, b"", 0, 0, 0, start, size
        )

    entries: list[bytes] = []
    place = 1
    for number, (folder, streams) in enumerate(folders.items()):
        after = place + 1 + len(streams)
        entries.append(entry(folder, 1, after if number + 1 < len(folders) else _FREE, place + 1, 0, 0))
        for count, (name, content) in enumerate(streams.items()):
            start = (put if len(content) >= _SMALLEST_LARGE else put_small)(content)
            right = place + 2 + count if count + 1 < len(streams) else _FREE
            entries.append(entry(name, 2, right, _FREE, start, len(content)))
        place = after
    root = entry("Root Entry", 5, _FREE, 1, put(bytes(small)), len(small))
    directory = put(b"".join([root, *entries]))
    small_table = put(struct.pack(f"<{len(small_chain)}I", *small_chain))
    tables = 1
    while tables * _SECTOR // 4 < len(sectors) + tables:
        tables += 1
    first_table = len(sectors)
    chain += [_OF_TABLE] * tables
    chain += [_FREE] * (tables * _SECTOR // 4 - len(chain))
    where = [*range(first_table, first_table + tables)]
    header = struct.pack(
        "<8s16sHHHHH6s9I109I",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", 0x3E, 3, 0xFFFE, 9, 6, b"", 0, tables, directory, 0, _SMALLEST_LARGE,
        small_table, -(-len(small_chain) * 4 // _SECTOR), _END, 0, *where, *[_FREE] * (109 - tables),
    )  # fmt: skip
    return header + b"".join(sectors) + struct.pack(f"<{len(chain)}I", *chain)


def write_czi(path: Path, volume: Volume, *, tiles: int = 2, compression: int = 0, axis: str = "C") -> None:
    """One tile, or several side by side, in each slice of (Z, Y, X) or, of channels, (Z, C, Y, X) pixels.

    `compression` is ZEN's number of it; `axis` is what it calls the channels.
    """
    volume = _little(volume[:, np.newaxis] if volume.ndim == 3 else volume)
    content = bytearray(512)
    entries = []
    code = {"u1": 0, "u2": 1, "f4": 2}[volume.dtype.str[1:]]
    columns = np.array_split(np.arange(volume.shape[3]), tiles)
    for z, channel in np.ndindex(volume.shape[:2]):
        for number, part in enumerate(columns):
            pixels = _compressed(volume[z, channel, :, part[0] : part[-1] + 1], compression)
            lengths = {
                "X": (part[0], len(part)),
                "Y": (0, volume.shape[2]),
                axis: (channel, 1),
                "Z": (z, 1),
                "M": (number, 1),
            }
            dimensions = b"".join(
                struct.pack("<4siifi", axis.encode(), start, size, 0.0, size)
                for axis, (start, size) in lengths.items()
            )
            described = (
                struct.pack(
                    "<2siqiiBB4si", b"DV", code, len(content), 0, compression, 0, 0, b"", len(lengths)
                )
                + dimensions
            )
            entries.append(described)
            block = struct.pack("<iiq", 0, 0, len(pixels)) + described
            content += _segment(b"ZISRAWSUBBLOCK", block.ljust(256, b"\0") + pixels)
    directory = len(content)
    content += _segment(b"ZISRAWDIRECTORY", struct.pack("<i124x", len(entries)) + b"".join(entries))
    metadata = len(content)
    distances = "".join(
        f'<Distance Id="{axis}"><Value>{edge * 1e-6}</Value></Distance>'
        for axis, edge in zip("ZYX", EDGES, strict=True)
    )
    xml = f"<ImageDocument><Metadata><Scaling><Items>{distances}</Items></Scaling></Metadata></ImageDocument>".encode()
    content += _segment(b"ZISRAWMETADATA", struct.pack("<ii248x", len(xml), 0) + xml)
    header = struct.pack("<iiii16s16siqqiq", 1, 0, 0, 0, b"", b"", 0, directory, metadata, 0, 0)
    content[:512] = _segment(b"ZISRAWFILE", header.ljust(480, b"\0"))
    path.write_bytes(content)


def _compressed(pixels: Volume, compression: int) -> bytes:
    import imagecodecs

    if compression == 4:
        return bytes(imagecodecs.jpegxr_encode(np.ascontiguousarray(pixels), level=1.0))
    if compression == 5:
        return bytes(imagecodecs.zstd_encode(pixels.tobytes()))
    if compression == 6:
        is_wide = pixels.dtype.itemsize == 2
        halves = np.frombuffer(pixels.tobytes(), np.uint8).reshape(-1, pixels.dtype.itemsize).T
        return (b"\3\1\1" if is_wide else b"\1") + bytes(imagecodecs.zstd_encode(halves.tobytes()))
    return pixels.tobytes()


def _segment(name: bytes, data: bytes) -> bytes:
    return struct.pack("<16sqq", name, len(data), len(data)) + data


WRITERS: Mapping[str, Callable[[Path, Volume], None]] = {
    "detached.mhd": write_mhd,
    "attached.mha": write_mha,
    "packed.mha": write_packed_mha,
    "attached.nrrd": write_nrrd,
    "packed.nrrd": write_packed_nrrd,
    "detached.nhdr": write_nhdr,
    "listed.mhd": write_listed_mhd,
    "numbered.mhd": write_numbered_mhd,
    "listed.nhdr": write_listed_nhdr,
    "numbered.nhdr": write_numbered_nhdr,
    "scan.vgi": write_vgi,
    "scan.vol": write_vgi,
    "scan.mrc": write_mrc,
    "scan.txm": write_txm,
    "scan.am": write_amira,
    "packed.am": write_packed_amira,
    "scan.czi": write_czi,
    "scan.nii": write_nifti,
    "packed.nii.gz": write_nifti,
}
"""By the name of the file that a user would name."""
