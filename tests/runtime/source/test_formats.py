"""Files of lab CT and microscopes: the same pixels whatever they lie in, and a sentence for what is wrong with them."""

from __future__ import annotations

import gzip
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mrcfile
import nibabel
import numpy as np
import pytest
from volume_files import EDGES, WRITERS, Volume, ole, write_czi, write_mhd, write_mrc, write_nrrd, write_txm

from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.formats import czi, deflate
from matseg_runtime.source.formats.deflate import DeflatedPixels
from matseg_runtime.source.formats.raw import parse_raw
from matseg_runtime.source.open import open_source
from matseg_shared.errors import ImageError, MissingExtraError, UnsupportedError, UsageError

SHAPE = (5, 18, 22)
COMPRESSED = {"packed.mha", "packed.nrrd", "packed.am", "packed.nii.gz"}
ONE_FILE_PER_SLICE = {"listed.mhd", "numbered.mhd", "listed.nhdr", "numbered.nhdr"}
FIRST_AXIS_ONLY = {*COMPRESSED, "scan.txm", "scan.czi"}
READERS = {".nrrd": "nrrd", ".mrc": "mrcfile", ".txm": "olefile", ".czi": "czifile", ".nii": "nibabel"}


def volume(dtype: str = "<u2", shape: tuple[int, ...] = SHAPE) -> Volume:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def written(folder: Path, name: str, pixels: Volume | None = None) -> Path:
    WRITERS[name](folder / name, volume() if pixels is None else pixels)
    return folder / name


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


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f4"])
@pytest.mark.parametrize("name", WRITERS)
def test_pixels_are_the_same_whatever_they_lie_in(
    tmp_path: Path, name: str, dtype: str, opened: Callable[..., Source]
) -> None:
    pixels = volume(dtype)
    source = opened(written(tmp_path, name, pixels))
    assert [item.name for item in source.slices] == [f"{name.split('.')[0]}_{z:04d}" for z in range(5)]
    for z in (3, 0, 4, 1):
        np.testing.assert_array_equal(source.read(z, z + 1)[0], pixels[z])
    np.testing.assert_array_equal(np.stack(source.read(1, 4)), pixels[1:4])
    np.testing.assert_array_equal(np.stack(opened(tmp_path / name, slices=(2, 4)).read(0, 2)), pixels[2:4])


@pytest.mark.parametrize("name", WRITERS)
def test_a_voxel_s_size_is_taken_in_its_unit(
    tmp_path: Path, name: str, opened: Callable[..., Source]
) -> None:
    source = opened(written(tmp_path, name))
    found = source.voxel_size()
    assert found is not None
    micrometres = {"um": 1, "mm": 1e3, "nm": 1e-3}[found.unit]
    step = EDGES[1] if name == "scan.txm" else EDGES[0]  # which knows one edge only
    assert found.step is not None
    edges = (found.step * micrometres, found.row * micrometres, found.column * micrometres)
    assert edges == pytest.approx((step, *EDGES[1:]))
    assert source.warnings() == ()


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("name", WRITERS)
def test_slices_along_another_axis(
    tmp_path: Path, name: str, axis: int, opened: Callable[..., Source]
) -> None:
    path = written(tmp_path, name)
    if name in FIRST_AXIS_ONLY:
        with pytest.raises(UsageError, match="can be cut along another axis than 0"):
            open_source(str(path), SourceOptions(axis=axis))
        return
    source = opened(path, axis=axis)
    np.testing.assert_array_equal(np.stack(source.read(3, 6)), np.moveaxis(volume(), axis, 0)[3:6])


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"scan.vgi", "scan.vol", "packed.nii.gz"}))
def test_a_file_of_another_name_is_known_by_its_first_bytes(
    tmp_path: Path, name: str, opened: Callable[..., Source]
) -> None:
    path = written(tmp_path, name).rename(tmp_path / "scan_2026.data")
    np.testing.assert_array_equal(opened(path).read(2, 3)[0], volume()[2])


@pytest.mark.parametrize(("suffix", "package"), READERS.items())
def test_a_missing_reader_is_named_by_its_extra(
    tmp_path: Path, suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, next(name for name in WRITERS if name.endswith(suffix)))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match="needs the extra `formats`") as raised:
        open_source(str(path))
    assert raised.value.exit_code == 3


# --- headers and files that do not fit


@pytest.mark.parametrize("name", sorted(set(WRITERS) - FIRST_AXIS_ONLY - ONE_FILE_PER_SLICE))
def test_a_file_that_is_not_whole_is_refused_with_both_numbers_of_bytes(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    data = next(
        (path.with_suffix(suffix) for suffix in (".raw", ".vol") if path.with_suffix(suffix).exists()), path
    )
    data.write_bytes(data.read_bytes()[:-20])
    promised = np.prod(SHAPE) * 2
    with pytest.raises(
        UsageError, match=rf"promises 5 x 18 x 22 pixels .* {promised} bytes .*found \d+; check"
    ):
        open_source(str(path))


@pytest.mark.parametrize("name", ["detached.mhd", "attached.nrrd", "scan.vgi"])
def test_bytes_that_the_header_does_not_tell_of_are_no_pixels(tmp_path: Path, name: str) -> None:
    """As where a header says 5 slices and the file has 6: its sizes, or its data type, are others."""
    path = written(tmp_path, name)
    data = {"detached.mhd": ".raw", "scan.vgi": ".vol"}.get(name, path.suffix)
    with path.with_suffix(data).open("ab") as stream:
        stream.write(bytes(10))
    with pytest.raises(UsageError, match="expected exactly 3960 bytes"):
        open_source(str(path))


@pytest.mark.parametrize("name", ["detached.mhd", "packed.mha", "attached.nrrd", "scan.am", "scan.vgi"])
@pytest.mark.parametrize("length", ["0", "-5", "9" * 30, "1e3", "five", "4000000000"])
def test_impossible_lengths_in_a_text_header(tmp_path: Path, name: str, length: str) -> None:
    path = written(tmp_path, name)
    content = path.read_bytes()
    assert b"22 18 5" in content
    path.write_bytes(content.replace(b"22 18 5", b"22 18 " + length.encode()))
    with pytest.raises(UsageError, match=str(path)):
        open_source(str(path))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("detached.mhd", "NDims = 3", "NDims = 2", "NDims = 2"),
        ("detached.mhd", "MET_USHORT", "MET_STRING", "ElementType = MET_STRING"),
        ("detached.mhd", "ObjectType = Image", "BinaryData = False", "as text; save it as binary"),
        ("detached.mhd", "= detached.raw", "= LIST\na.raw\n", "5 files, .*found the names of 1"),
        ("detached.mhd", "= detached.raw", "= LIST 3\na.raw\n", "found LIST 3; save"),
        ("listed.mhd", "ObjectType = Image", "CompressedData = True", "one compressed file per slice"),
        ("listed.mhd", "listed2.raw", "../else.raw", "which does not lie in its folder"),
        ("numbered.mhd", "%03d.raw 1 5 1", "%03d.raw 1 5 0", "must not be zero"),
        ("numbered.mhd", "%03d.raw 1 5 1", "%03d.raw 1 900000000 1", "found the names of 900000000"),
        ("numbered.mhd", "%03d.raw 1 5 1", "%s.raw 1 5 1", "found numbered_%s.raw 1 5 1; save"),
        ("numbered.mhd", "%03d.raw 1 5 1", "%03d.raw 2 6 1", "numbered_006.raw, which is not there"),
        ("listed.nhdr", "encoding: raw", "encoding: gzip", "one compressed file per slice"),
        ("listed.nhdr", "1.raw\n", "1.raw", "found the names of 4"),
        ("detached.mhd", "ElementDataFile = detached.raw", "", "no end"),
        ("detached.mhd", "ElementDataFile =", "HeaderSize = -7\nElementDataFile =", "HeaderSize = -7"),
        ("attached.nrrd", "encoding: raw", "encoding: bzip2", "as bzip2, expected raw or gzip"),
        ("attached.nrrd", "type: uint16", "type: block", "no 'block'"),
        ("attached.nrrd", "encoding: raw", "encoding: raw\nline skip: 3", "skips lines"),
        ("detached.nhdr", "data file: detached.raw", "data file: s%03d.raw 1 5 1", "s001.raw, which is not there"),
        ("scan.am", "@1\n\n#", "@1(HxByteRLE,1234)\n\n#", "is compressed with HxByteRLE"),
        ("scan.am", '"uniform"', '"stacked"', "voxels of one size"),
        ("scan.am", "BINARY-LITTLE-ENDIAN", "ASCII", "expected a binary AmiraMesh"),
        ("scan.vgi", "FileFormat = raw", "FileFormat = tiff", "FileFormat = tiff"),
        ("scan.vgi", "BitsPerElement = 16", "BitsPerElement = 12", "BitsPerElement = 12"),
        ("scan.vgi", "{volumeprimitive12}", "[file2]\nName = b.vol", "one file, found 2"),
    ],
)  # fmt: skip
def test_headers_that_say_what_cannot_be_read(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    path = written(tmp_path, name)
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))
    with pytest.raises(UsageError, match=message):
        open_source(str(path))


def test_a_header_without_an_end_is_not_read_to_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.mhd"
    path.write_bytes(b"NDims = 3\n" + b"x" * (3 << 20))
    with pytest.raises(UsageError, match="its header has no end"):
        open_source(str(path))


@pytest.mark.parametrize("name", sorted(ONE_FILE_PER_SLICE))
def test_a_slice_s_file_that_is_not_whole_is_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    for other in tmp_path.glob("*3.raw"):
        other.write_bytes(other.read_bytes()[:-1])
    with pytest.raises(
        UsageError, match=r"promises 1 x 18 x 22 pixels .* 792 bytes of them in .*3\.raw, found 791"
    ):
        open_source(str(path))


def test_another_content_of_one_slice_s_file_is_another_input(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    path = written(tmp_path, "listed.mhd")
    before = opened(path).identity.content
    (tmp_path / "listed4.raw").write_bytes(bytes(792))
    assert opened(path).identity.content != before


# --- the file that a header names


def _renamed(tmp_path: Path, name: str) -> Path:
    path = written(tmp_path, "detached.mhd")
    path.write_text(path.read_text().replace("= detached.raw", f"= {name}"))
    return path


def test_pixels_outside_of_the_header_s_folder_are_taken_only_when_told(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    path = _renamed(folder, "../elsewhere.raw")
    (folder / "detached.raw").rename(tmp_path / "elsewhere.raw")
    with pytest.raises(UsageError, match=r"elsewhere\.raw, which does not lie in its folder.*--follow-links"):
        open_source(str(path))
    np.testing.assert_array_equal(opened(path, follow_links=True).read(1, 2)[0], volume()[1])


@pytest.mark.parametrize("name", [r"D:\scans\of may\detached.raw", "/home/somebody/detached.raw"])
def test_pixels_that_were_moved_with_their_header_are_found(
    tmp_path: Path, name: str, opened: Callable[..., Source]
) -> None:
    np.testing.assert_array_equal(opened(_renamed(tmp_path, name)).read(1, 2)[0], volume()[1])


@pytest.mark.parametrize("name", ["gone.raw", ".", "a\0b"])
def test_pixels_that_are_not_there_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"takes its pixels from|no file can be called"):
        open_source(str(_renamed(tmp_path, name)))


def test_another_content_of_the_pixels_file_is_another_input(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    path = written(tmp_path, "detached.mhd")
    before = opened(path)
    (tmp_path / "detached.raw").write_bytes(volume().tobytes()[::-1])
    assert opened(path).identity.content != before.identity.content
    with pytest.raises(UsageError, match="has changed while it was being labelled"):
        before.current_identity(0)


# --- units


def _without_unit(tmp_path: Path, spacing: str) -> Path:
    path = tmp_path / "scan.mhd"
    write_mhd(path, volume())
    lines = [line for line in path.read_text().splitlines() if "DistanceUnits" not in line]
    path.write_text("\n".join(lines).replace("ElementSpacing = 0.5 0.5 3", f"ElementSpacing = {spacing}"))
    return path


def test_edges_without_a_unit_are_taken_for_mm_and_told(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    source = opened(_without_unit(tmp_path, "0.5 0.5 3"))
    assert str(source.voxel_size()) == "3 x 0.5 x 0.5 mm"
    assert "no unit; taken for mm, as ITK and 3D Slicer do" in source.warnings()[0]


@pytest.mark.parametrize("spacing", ["1 1 1", "0 0 0", "nan 1 1", "1e300 1e300 1e300", "1 1"])
def test_edges_that_say_nothing_are_none(tmp_path: Path, spacing: str, opened: Callable[..., Source]) -> None:
    assert opened(_without_unit(tmp_path, spacing)).voxel_size() is None


def test_mrc_that_was_never_calibrated_tells_no_size(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "scan.mrc")
    content = path.read_bytes()
    path.write_bytes(content[:40] + struct.pack("<fff", *SHAPE[::-1]) + content[52:])
    assert opened(path).voxel_size() is None


@pytest.mark.parametrize(("axis", "more"), [(0, ""), (1, ""), (2, "ElementByteOrderMSB = False\r")])
def test_pixels_are_mapped_piece_by_piece(
    tmp_path: Path, axis: int, more: str, monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Source]
) -> None:
    monkeypatch.setattr("matseg_runtime.source.formats.pixels._MAPPED", 2 * 18 * 22 * 2)
    path = written(tmp_path, "detached.mhd")
    path.write_text(f"{more}\n" + path.read_text())
    np.testing.assert_array_equal(
        np.stack(opened(path, axis=axis).read(1, 5)), np.moveaxis(volume(), axis, 0)[1:5]
    )


def test_a_single_time_is_a_volume(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "attached.mha")
    content = path.read_bytes().replace(b"NDims = 3", b"NDims = 4").replace(b"22 18 5", b"22 18 5 1")
    path.write_bytes(content.replace(b"ElementSpacing = 0.5 0.5 3", b"ElementSpacing = 0.5 0.5 3 1"))
    source = opened(path)
    np.testing.assert_array_equal(source.read(2, 3)[0], volume()[2])
    assert str(source.voxel_size()) == "3 x 0.5 x 0.5 um"


# --- compressed streams


def _two_streams(data: bytes) -> bytes:
    return gzip.compress(data[:999]) + gzip.compress(data[999:])


def _padded(data: bytes) -> bytes:
    return gzip.compress(data) + bytes(500)


def _followed(data: bytes) -> bytes:
    return zlib.compress(data) + b"\n@2\nsomething else"


@pytest.mark.parametrize("packed", [zlib.compress, gzip.compress, _two_streams, _padded, _followed])
def test_a_stream_is_read_anywhere_without_being_held(
    tmp_path: Path, packed: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deflate, "_STEP", 3000)
    monkeypatch.setattr(deflate, "_PIECE", 64)
    pixels = volume("<u2", (40, 12, 30))
    (tmp_path / "a").write_bytes(b"header" + packed(b"skip" + pixels.tobytes()))
    array = DeflatedPixels(tmp_path / "a", pixels.shape, pixels.dtype, offset=6, skip=4)
    for start, stop in ((30, 33), (2, 4), (0, 1), (39, 40), (4, 8), (8, 9), (0, 40), (20, 21)):
        index = (slice(start, stop), slice(None), slice(None))
        np.testing.assert_array_equal(array[index], pixels[start:stop])
    assert 5 < len(array._kept) < 12


def test_a_stream_that_breaks_off_costs_the_slices_behind(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    pixels = volume("<u2", (5, 100, 100))
    path = written(tmp_path, "packed.nrrd", pixels)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    source = opened(path)
    np.testing.assert_array_equal(source.read(1, 2)[0], pixels[1])
    with pytest.raises(ImageError, match=r"slice 4: cannot be read: .*end \d+ bytes too early"):
        source.read(4, 5)


def test_a_stream_that_a_bad_disk_has_changed(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "packed.nrrd")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in its checksum, which stands for all pixels
    path.write_bytes(content)
    source = opened(path)
    np.testing.assert_array_equal(source.read(1, 2)[0], volume()[1])
    with pytest.raises(ImageError, match=r"slice 4: .*are damaged, here or before"):
        source.read(4, 5)


def test_a_stream_too_short_for_its_pixels_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "packed.nrrd")
    path.write_bytes(path.read_bytes().replace(b"22 18 5", b"22 18 65535"))
    with pytest.raises(UsageError, match=r"its \d+ compressed bytes cannot become"):
        open_source(str(path))


def test_a_stream_longer_than_its_header_promises(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "packed.mha")
    path.write_bytes(path.read_bytes().replace(b"DimSize = 22 18 5", b"DimSize = 22 18 4"))
    with pytest.raises(ImageError, match="become more than its header promises"):
        opened(path).read(3, 4)


# --- plain pixels


@pytest.mark.parametrize(
    ("text", "dtype", "order"),
    [
        ("5x18x22,uint16", "<u2", "C"),
        ("5*18*22, uint16, little", "<u2", "C"),
        ("5x18x22,uint16,big", ">u2", "C"),
        ("5x18x22,>u2", ">u2", "C"),
        ("22x18x5,uint16,F", "<u2", "F"),
    ],
)
def test_plain_pixels_are_what_the_user_says(
    tmp_path: Path, text: str, dtype: str, order: str, opened: Callable[..., Source]
) -> None:
    path = tmp_path / "scan.raw"
    pixels = volume(dtype)
    path.write_bytes(pixels.tobytes())
    source = opened(path, raw=parse_raw(text))
    expected = pixels.T if order == "F" else pixels
    np.testing.assert_array_equal(np.stack(source.read(0, len(source.slices))), expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5x18x22",
        "5,uint16",
        "5x18x22,word",
        "5x18x22,uint16,up",
        "5x18,object",
        "ax2,u1",
        "5x18x2,complex64",
    ],
)
def test_raw_that_says_something_else(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected SHAPE,DTYPE\[,ORDER\]"):
        parse_raw(text)


def test_plain_pixels_are_checked_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "scan.raw"
    path.write_bytes(volume().tobytes() + b"x")
    with pytest.raises(UsageError, match="expected exactly 3960 bytes of them, found 3961"):
        open_source(str(path), SourceOptions(raw=parse_raw("5x18x22,uint16")))
    with pytest.raises(UsageError, match=r"has no header .* --raw ZxYxX,DTYPE"):
        open_source(str(path))
    write_mhd(tmp_path / "scan.mhd", volume())
    with pytest.raises(UsageError, match=r"name its header scan\.mhd instead"):
        open_source(str(path))
    with pytest.raises(UsageError, match="folder of images, to which --raw does not apply"):
        open_source(str(tmp_path), SourceOptions(raw=parse_raw("5x18x22,uint16")))


def test_a_vol_without_its_vgi(tmp_path: Path) -> None:
    path = written(tmp_path, "scan.vol")
    path.with_suffix(".vgi").unlink()
    with pytest.raises(UsageError, match=r"expected scan\.vgi beside it"):
        open_source(str(path))


def test_a_vgi_whose_file_has_brackets_in_its_name(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "scan.vgi")
    path.with_suffix(".vol").rename(tmp_path / "scan[1] {2}.vol")
    path.write_text(path.read_text().replace("scan.vol", "scan[1] {2}.vol"))
    np.testing.assert_array_equal(opened(path).read(2, 3)[0], volume()[2])


# --- single formats


@pytest.mark.parametrize(
    ("place", "value", "largest"),
    [
        ((), b"", 127),  # since 2014 bytes are signed
        ((152,), struct.pack("<ii", 1146047817, 0), 249),  # IMOD says: unsigned
        ((152,), struct.pack("<ii", 1146047817, 1), 127),
        ((80,), struct.pack("<f", 249.0), 249),  # the largest value in the header is no signed byte's
    ],
)
def test_mrc_bytes_are_signed_or_not_as_its_writer_says(
    tmp_path: Path, place: tuple[int, ...], value: bytes, largest: int, opened: Callable[..., Source]
) -> None:
    path = tmp_path / "scan.mrc"
    pixels = volume("u1")
    pixels[0, 0, 0] = 249
    write_mrc(path, pixels.view("i1"))
    content = bytearray(path.read_bytes())
    for at in place:
        content[at : at + len(value)] = value
    path.write_bytes(content)
    assert max(int(image.max()) for image in opened(path).read(0, 5)) == largest


def test_mrc_with_its_axes_in_another_order(tmp_path: Path) -> None:
    path = written(tmp_path, "scan.mrc")
    content = bytearray(path.read_bytes())
    content[64:76] = struct.pack("<iii", 2, 1, 3)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="stores its axes in the order"):
        open_source(str(path))


def test_mrc_with_a_long_extended_header(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "scan.mrc")
    content = path.read_bytes()
    path.write_bytes(content[:92] + struct.pack("<i", 640) + content[96:1024] + bytes(640) + content[1024:])
    np.testing.assert_array_equal(opened(path).read(2, 3)[0], volume()[2])
    path.write_bytes(content[:92] + struct.pack("<i", 2**31 - 1) + content[96:])
    with pytest.raises(UsageError, match="promises 5 x 18 x 22"):
        open_source(str(path))


def _several(tmp_path: Path, name: str) -> tuple[Path, Volume]:
    """A file of four volumes of three slices each."""
    pixels = volume("<i2", (4, 3, 18, 22))
    path = tmp_path / name
    if path.suffix == ".mrc":
        with mrcfile.new(path) as file:
            file.set_data(pixels)
            file.voxel_size = 20.0
    else:
        nibabel.save(nibabel.Nifti1Image(pixels.T, np.diag([2.0, 2, 2, 1])), path)
    return path, pixels


@pytest.mark.parametrize("name", ["scan.mrc", "scan.nii", "scan.nii.gz"])
def test_one_of_several_volumes_is_taken_by_its_number(
    tmp_path: Path, name: str, opened: Callable[..., Source]
) -> None:
    path, pixels = _several(tmp_path, name)
    with pytest.raises(UsageError, match=r"4 times or volumes; label one .*--axes czyx --channels 0"):
        open_source(str(path), SourceOptions(taken=1))
    source = opened(path, taken=1, axes="czyx", channels=(2,))
    np.testing.assert_array_equal(np.stack(source.read(0, 3)), pixels[2])
    assert {"scan.mrc": "2 x 2 x 2 nm"}.get(name, "2 x 2 x 2 mm") == str(source.voxel_size())
    several = opened(path, taken=2, axes="czyx", channels=(3, 1))
    np.testing.assert_array_equal(np.stack(several.read(1, 3)), np.moveaxis(pixels[[3, 1], 1:], 0, -1))


def test_of_a_stream_of_volumes_only_what_is_taken_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Source]
) -> None:
    source = opened(_several(tmp_path, "scan.nii.gz")[0], taken=1, axes="czyx", channels=(2,))
    real, lengths = DeflatedPixels.read, []
    monkeypatch.setattr(
        DeflatedPixels, "read", lambda self, *ends: (lengths.append(ends[1] - ends[0]), real(self, *ends))[1]
    )
    source.read(1, 2)
    assert lengths == [18 * 22 * 2]


def test_mrc_of_a_single_image_tells_its_pixel_s_size(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """As EPU writes it, with a cell of no height."""
    path = tmp_path / "scan.mrc"
    write_mrc(path, volume(shape=(1, 18, 22)))
    content = bytearray(path.read_bytes())
    content[48:52] = bytes(4)
    path.write_bytes(content)
    assert str(opened(path).voxel_size()) == "? x 500 x 500 nm"


def test_nifti_is_read_as_it_is_stored_whatever_its_orientation(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    """Row i of slice k shows voxels [:, i, k] of nibabel; the place of each voxel in space is kept beside."""
    for name, affine in {
        "RAS": np.diag([0.5, 0.5, 3, 1]),
        "LPI": np.diag([-0.5, -0.5, -3, 1]),
        "turned": np.array([[0, -0.5, 0, 7], [0.5, 0, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1]]),
    }.items():
        path = tmp_path / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(volume().T, affine), path)
        source = opened(path)
        found = np.asarray(nibabel.load(path).dataobj)
        for k, image in enumerate(source.read(0, SHAPE[0])):
            np.testing.assert_array_equal(image, found[:, :, k].T)
        assert source.volume is not None
        spacing = source.volume.spacing
        assert spacing is not None
        assert spacing.directions is not None
        to_ras = np.diag([1, -1, -1])  # of (z, y, x) places in ITK's space
        vectors = np.array(spacing.directions) * np.array([spacing.scale]).T @ to_ras
        np.testing.assert_allclose(vectors[::-1, ::-1].T, affine[:3, :3])
        np.testing.assert_allclose((spacing.translation @ to_ras)[::-1], affine[:3, 3])


def test_nifti_values_are_what_their_scale_makes_of_them(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    path = written(tmp_path, "scan.nii")
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", 0.5, -100)
    path.write_bytes(content)
    np.testing.assert_array_equal(opened(path).read(2, 3)[0], volume()[2].astype("f4") / 2 - 100)


def test_projections_are_no_slices(tmp_path: Path) -> None:
    write_txm(tmp_path / "scan.txrm", volume())
    with pytest.raises(UsageError, match="holds the projections of a scan"):
        open_source(str(tmp_path / "scan.txrm"))


def test_txm_with_hundreds_of_slices_of_which_one_is_lost(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    pixels = volume("u1", (120, 3, 4))
    write_txm(tmp_path / "scan.txm", pixels)
    source = opened(tmp_path / "scan.txm")
    np.testing.assert_array_equal(np.stack(source.read(95, 120)), pixels[95:])
    info = {"DataType": 3, "NoOfImages": 2, "ImageHeight": 3, "ImageWidth": 4}
    (tmp_path / "lost.txm").write_bytes(
        ole(
            {
                "ImageInfo": {name: struct.pack("<i", number) for name, number in info.items()},
                "ImageData1": {"Image2": bytes(11)},
            }
        )
    )
    source = opened(tmp_path / "lost.txm")
    for z, message in ((0, "has no ImageData1/Image1"), (1, "Image2 has 11 bytes, expected 12")):
        with pytest.raises(ImageError, match=message):
            source.read(z, z + 1)


def test_czi_of_one_tile_and_of_several(tmp_path: Path, opened: Callable[..., Source]) -> None:
    for tiles in (1, 3):
        path = tmp_path / f"{tiles}.czi"
        write_czi(path, volume(), tiles=tiles)
        np.testing.assert_array_equal(opened(path).read(2, 3)[0], volume()[2])


def test_czi_whose_tiles_leave_something_free(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "scan.czi")
    content = bytearray(path.read_bytes())
    for place in re.finditer(re.escape(b"X\0\0\0" + struct.pack("<i", 11)), bytes(content)):
        content[place.start() + 4 : place.start() + 8] = struct.pack("<i", 15)  # the right tile of two
    path.write_bytes(content)
    source = opened(path)
    assert "its tiles leave 15.4% of a slice free, where pixels are 0" in source.warnings()[0]
    expected = np.concatenate([volume()[2][:, :11], np.zeros((18, 4)), volume()[2][:, 11:]], axis=1)
    np.testing.assert_array_equal(source.read(2, 3)[0], expected)


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
@pytest.mark.parametrize("compression", [4, 5, 6])
def test_czi_as_zen_compresses_it(
    tmp_path: Path, compression: int, dtype: str, opened: Callable[..., Source]
) -> None:
    path = tmp_path / "scan.czi"
    pixels = volume(dtype, (3, 40, 50))
    write_czi(path, pixels, compression=compression)
    np.testing.assert_array_equal(opened(path).read(2, 3)[0], pixels[2])


def test_czi_of_another_compression_excludes_its_slices(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    write_czi(tmp_path / "scan.czi", volume(), compression=9)
    with pytest.raises(ImageError, match="its compression 9 is none of plain, JPEG XR and zstd"):
        opened(tmp_path / "scan.czi").read(0, 1)


def test_czi_that_was_not_finished_is_told_of(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = written(tmp_path, "scan.czi")
    content = bytearray(path.read_bytes())
    content[32 + 68] = 1
    path.write_bytes(content)
    assert "was not finished when it was written last" in opened(path).warnings()[0]


def test_czi_of_several_channels(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = tmp_path / "scan.czi"
    pixels = volume("<u2", (3, 4, 18, 22))
    write_czi(path, pixels)
    source = opened(path, taken=4)
    assert source.volume is not None
    assert (source.volume.shape, source.volume.channels) == ((3, 18, 22), 4)
    np.testing.assert_array_equal(np.stack(source.read(1, 3)), np.moveaxis(pixels[1:], 1, -1))
    picked = opened(path, taken=2, channels=(3, 1)).read(1, 2)[0]
    np.testing.assert_array_equal(picked, np.moveaxis(pixels[1, [3, 1]], 0, -1))
    np.testing.assert_array_equal(opened(path, taken=1, channels=(2,)).read(0, 1)[0], pixels[0, 2])
    with pytest.raises(UsageError, match=r"expected 1 channel, .*found 4 .*--channels 0"):
        open_source(str(path), SourceOptions(taken=1))


def test_only_the_channels_that_are_taken_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Source]
) -> None:
    write_czi(tmp_path / "scan.czi", volume("<u2", (3, 4, 18, 22)))
    source = opened(tmp_path / "scan.czi", taken=2, channels=(1, 2))
    decoded = []
    real = czi._Slices._decoded
    monkeypatch.setattr(czi._Slices, "_decoded", lambda *given: (decoded.append(1), real(*given))[1])
    source.read(1, 2)
    assert len(decoded) == 4  # two channels of two tiles


def test_czi_of_several_times_is_refused(tmp_path: Path) -> None:
    write_czi(tmp_path / "scan.czi", volume("<u2", (3, 4, 18, 22)), axis="T")
    with pytest.raises(UsageError, match=r"scan\.czi: expected one image or volume.*, found the axes T 4"):
        open_source(str(tmp_path / "scan.czi"))


def test_czi_that_lacks_a_channel_of_one_slice(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = tmp_path / "scan.czi"
    write_czi(path, volume("<u2", (3, 2, 18, 22)))
    content = path.read_bytes()
    entry = b"C\0\0\0" + struct.pack("<iifi", 1, 1, 0, 1) + b"Z\0\0\0" + struct.pack("<i", 2)
    first = content.index(b"ZISRAWDIRECTORY")  # where both tiles of slice 2 are said to be of channel 0
    lacking = content[first:].replace(entry, entry[:4] + bytes(4) + entry[8:])
    path.write_bytes(content[:first] + lacking)
    source = opened(path, taken=2)
    np.testing.assert_array_equal(source.read(1, 2)[0], np.moveaxis(volume("<u2", (3, 2, 18, 22))[1], 0, -1))
    with pytest.raises(ImageError, match=r"slice 2: .*no picture of slice 2, channel 1"):
        source.read(2, 3)


def test_nrrd_skips_bytes_before_its_pixels(tmp_path: Path, opened: Callable[..., Source]) -> None:
    for name, pack in (("attached.nrrd", bytes), ("packed.nrrd", gzip.compress)):
        path = written(tmp_path, name)
        header = path.read_bytes().partition(b"\n\n")[0]
        path.write_bytes(header + b"\nbyte skip: 7\n\n" + pack(b"x" * 7 + volume().tobytes()))
        np.testing.assert_array_equal(opened(path).read(2, 3)[0], volume()[2])


def test_colours_in_one_axis_of_a_nrrd(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = tmp_path / "scan.nrrd"
    pixels = volume("u1", (5, 18, 3))
    write_nrrd(path, pixels)
    path.write_bytes(path.read_bytes().replace(b"kinds: domain", b"kinds: RGB-color"))
    assert [image.shape for image in opened(path).read(0, 1)] == [(5, 18, 3)]


def test_gatan_files_name_the_reader_that_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rsciio", None)
    path = tmp_path / "scan.dm4"
    path.write_bytes(bytes(100))
    with pytest.raises(UnsupportedError, match="pip install --upgrade rosettasciio"):
        open_source(str(path))


def test_what_rosettasciio_reads_is_read_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Source]
) -> None:
    """With a stand-in for it, which has another licence and is no part of this program's environment."""
    pixels = volume()

    class Plugin:
        IO_PLUGINS = ({"file_extensions": ["dm3", "ser"], "api": "matseg_stand_in"},)

        @staticmethod
        def file_reader(path: str, lazy: bool) -> list[dict[str, Any]]:
            assert lazy, path
            if Path(path).stat().st_size == 1:
                raise KeyError("no tag")
            axes = [{"scale": edge, "units": "nm"} for edge in EDGES]
            return [{"data": pixels, "axes": axes}, {"data": pixels[0, 0], "axes": axes[:1]}]

    for name in ("rsciio", "matseg_stand_in"):
        monkeypatch.setitem(sys.modules, name, Plugin)  # type: ignore[arg-type]
    for suffix in (".dm3", ".ser"):
        path = tmp_path / f"scan{suffix}"
        path.write_bytes(bytes(100))
        source = opened(path)
        np.testing.assert_array_equal(source.read(2, 3)[0], pixels[2])
        assert str(source.voxel_size()) == "3 x 0.5 x 0.5 nm"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"expected a file that rosettasciio reads \(\.ser\)"):
        open_source(str(path))
