"""Every source gives the same slices, and refuses what it cannot give."""

from __future__ import annotations

import importlib
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.source import open as source_module
from matseg_runtime.source.base import Source, SourceOptions
from matseg_shared.errors import ImageError, MissingExtraError, UsageError

open_source = source_module.open_source
VOLUME = onnx_models.random_pixels((12, 30, 41), "uint16", 1)


@pytest.fixture(autouse=True)
def _close_sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close at the end of a test what it has opened."""
    opened: list[Source] = []

    def tracked(*arguments: Any) -> Source:
        opened.append(source_module.open_source(*arguments))
        return opened[-1]

    monkeypatch.setitem(globals(), "open_source", tracked)
    yield
    for source in opened:
        source.close()


def _settled(path: Path) -> Path:
    """As if written a while ago, so that nobody waits for it to grow."""
    past = time.time() - 60
    os.utime(path, (past, past))
    return path


def _folder(root: Path) -> Path:
    folder = root / "slices"
    folder.mkdir()
    for number, image in enumerate(VOLUME):
        tifffile.imwrite(folder / f"s{number}.tif", image)
    return folder


def _tiff(root: Path, **options: Any) -> Path:
    tifffile.imwrite(root / "scan.tif", VOLUME, **options)
    return _settled(root / "scan.tif")


def _imagej(root: Path) -> Path:
    """All pages behind one directory, as ImageJ writes stacks beyond 4 GB."""
    tifffile.imwrite(root / "scan.tif", VOLUME, metadata={"axes": "ZYX"}, truncate=True)
    with tifffile.TiffFile(root / "scan.tif") as tiff:
        assert len(tiff.pages) == 1
    return _settled(root / "scan.tif")


def _npy(root: Path, array: NDArray[Any] = VOLUME) -> Path:
    np.save(root / "scan.npy", array)
    return _settled(root / "scan.npy")


def _zarr(root: Path, **options: Any) -> Path:
    array = zarr.create_array(str(root / "scan.zarr"), shape=VOLUME.shape, dtype="uint16", **options)
    array[:] = VOLUME
    return root / "scan.zarr"


def _hdf5(root: Path) -> str:
    with h5py.File(root / "scan.h5", "w") as file:
        file.create_dataset("exchange/data", data=VOLUME, chunks=(4, 30, 41), compression="gzip")
        file["exchange/theta"] = np.arange(5)
    return f"{_settled(root / 'scan.h5')}::/exchange/data"


def _ome(root: Path, version: str = "0.5") -> Path:
    path = root / "scan.ome.zarr"
    group = zarr.create_group(str(path), zarr_format=3 if version == "0.5" else 2)
    for level, step in (("0", 1), ("1", 2)):
        data = VOLUME[None, None, ::step, ::step, ::step]
        array = group.create_array(level, shape=data.shape, chunks=(1, 1, 4, 16, 16), dtype="uint16")
        array[:] = data
    image = {
        "axes": [{"name": name, "type": "space" if name in "zyx" else "other"} for name in "tczyx"],
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 0.5, 0.5]}]},
            {"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 4, 1, 1]}]},
        ],
    }
    group.attrs.update(
        {"ome": {"version": version, "multiscales": [image]}}
        if version == "0.5"
        else {"multiscales": [image]}
    )
    return path


MAKERS: dict[str, Callable[[Path], object]] = {
    "folder": _folder,
    "tiff": _tiff,
    "bigtiff": lambda root: _tiff(root, bigtiff=True, byteorder=">"),
    "zlib tiff": lambda root: _tiff(root, compression="zlib"),
    "tiled tiff": lambda root: _tiff(root, tile=(16, 16), compression="zlib"),
    "imagej tiff": _imagej,
    "npy": _npy,
    "fortran npy": lambda root: _npy(root, np.asfortranarray(VOLUME)),
    "big-endian npy": lambda root: _npy(root, VOLUME.astype(">u2")),
    "zarr 2": lambda root: _zarr(root, zarr_format=2, chunks=(4, 16, 16)),
    "zarr 3": lambda root: _zarr(root, zarr_format=3, chunks=(5, 16, 16)),
    "sharded zarr": lambda root: _zarr(root, chunks=(2, 8, 8), shards=(4, 32, 48)),
    "hdf5": _hdf5,
    "ome-zarr 0.4": lambda root: _ome(root, "0.4"),
    "ome-zarr 0.5": _ome,
}


def _stack(source: Source) -> NDArray[Any]:
    return np.stack(source.read(0, len(source.slices)))


@pytest.mark.parametrize("kind", MAKERS)
def test_all_formats_give_the_same_slices(tmp_path: Path, kind: str) -> None:
    source = open_source(str(MAKERS[kind](tmp_path)))
    assert len(source.slices) == 12
    found = _stack(source)
    np.testing.assert_array_equal(found, VOLUME)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(source.read(7, 8)[0], VOLUME[7])


@pytest.mark.parametrize(
    "kind", [kind for kind in MAKERS if kind not in ("folder", "zlib tiff", "tiled tiff")]
)
@pytest.mark.parametrize("axis", [1, 2])
def test_slices_along_other_axes(tmp_path: Path, kind: str, axis: int) -> None:
    source = open_source(str(MAKERS[kind](tmp_path)), SourceOptions(axis=axis))
    np.testing.assert_array_equal(_stack(source), np.moveaxis(VOLUME, axis, 0))


@pytest.mark.parametrize("kind", ["zlib tiff", "npy", "zarr 3", "hdf5"])
@pytest.mark.parametrize(("asked", "taken"), [((3, 7), (3, 7)), ((None, 2), (0, 2)), ((10, None), (10, 12))])
def test_a_range_of_slices(tmp_path: Path, kind: str, asked: Any, taken: tuple[int, int]) -> None:
    source = open_source(str(MAKERS[kind](tmp_path)), SourceOptions(slices=asked))
    np.testing.assert_array_equal(_stack(source), VOLUME[slice(*taken)])
    assert source.slices[0].name == f"scan_{taken[0]:04}"
    assert source.slices[0].index == 0


@pytest.mark.parametrize("kind", MAKERS)
def test_many_threads_may_read(tmp_path: Path, kind: str) -> None:
    source = open_source(str(MAKERS[kind](tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: source.read(n % 12, n % 12 + 1)[0], range(120)))
    for number, image in enumerate(found):
        np.testing.assert_array_equal(image, VOLUME[number % 12])


def test_levels_and_spacing_of_ome_zarr(tmp_path: Path) -> None:
    path = str(_ome(tmp_path))
    fine, coarse = open_source(path), open_source(path, SourceOptions(level=1))
    np.testing.assert_array_equal(_stack(coarse), VOLUME[::2, ::2, ::2])
    assert fine.volume is not None
    assert fine.volume.spacing is not None
    assert fine.volume.spacing.scale == (2.0, 0.5, 0.5)
    assert fine.beside.name == "scan"
    with pytest.raises(UsageError, match="levels 0 to 1, not 2"):
        open_source(path, SourceOptions(level=2))


@pytest.mark.parametrize(
    ("shape", "slices", "image"),
    [
        ((20, 30), 1, (20, 30)),
        ((20, 30, 3), 1, (20, 30, 3)),
        ((5, 20, 30, 3), 5, (20, 30, 3)),
        ((5, 3, 20, 30), 5, (20, 30, 3)),
        ((1, 5, 20, 30), 5, (20, 30)),
        ((1, 20, 30), 1, (20, 30)),
    ],
)
def test_axes_are_told_apart(
    tmp_path: Path, shape: tuple[int, ...], slices: int, image: tuple[int, ...]
) -> None:
    source = open_source(str(_npy(tmp_path, np.zeros(shape, np.uint8))))
    assert len(source.slices) == slices
    assert source.read(0, 1)[0].shape == image


def test_colours_keep_their_order(tmp_path: Path) -> None:
    data = np.arange(5 * 3 * 4 * 6, dtype=np.uint16).reshape(5, 3, 4, 6)
    source = open_source(str(_npy(tmp_path, data)), SourceOptions(axis=1))
    np.testing.assert_array_equal(source.read(2, 3)[0], data[:, :, 2].transpose(0, 2, 1))


def test_names_and_places(tmp_path: Path) -> None:
    source = open_source(_hdf5(tmp_path))
    assert source.slices[3].name == "scan_0003"
    assert source.slices[3].where == f"{tmp_path}/scan.h5::/exchange/data, slice 3"
    assert source.beside == tmp_path / "scan"


def test_natural_order(tmp_path: Path) -> None:
    source = open_source(str(_folder(tmp_path)))
    assert [item.name for item in source.slices] == [f"s{number}" for number in range(12)]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 5, 5), "nothing to segment"),
        ((5, 5, 0), "nothing to segment"),
        ((7,), "expected an image or a volume"),
        ((2, 3, 4, 5, 6), "expected an image or a volume"),
        ((2, 5, 6, 7), "expected an image or a volume"),
    ],
)
def test_shapes_that_are_no_volume(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(str(_npy(tmp_path, np.zeros(shape, np.uint8))))


@pytest.mark.parametrize("asked", [(5, 5), (7, 3), (0, 13), (12, None)])
def test_a_range_outside(tmp_path: Path, asked: Any) -> None:
    with pytest.raises(UsageError, match="does not lie within its 12 slices"):
        open_source(str(_npy(tmp_path)), SourceOptions(slices=asked))


@pytest.mark.parametrize("made", [_npy, _tiff, _hdf5])
def test_a_file_with_another_suffix_is_known_by_its_first_bytes(
    tmp_path: Path, made: Callable[[Path], Path | str]
) -> None:
    path = Path(str(made(tmp_path)).partition("::")[0])
    source = open_source(str(path.rename(path.with_suffix(".dat"))))
    assert len(source.slices) == len(VOLUME)
    np.testing.assert_array_equal(source.read(3, 4)[0], VOLUME[3])


def test_rows_of_the_table_share_no_suffix_and_name_extras_that_exist() -> None:
    suffixes = [suffix for item in source_module.FORMATS for suffix in item.suffixes]
    assert len(suffixes) == len(set(suffixes))
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    required = [item.requires for item in source_module.FORMATS if item.requires is not None]
    assert {extra for _, extra in required} <= set(project["optional-dependencies"])


def test_a_file_of_no_known_format_is_refused_with_all_formats(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("II")
    with pytest.raises(
        UsageError, match=r"expected a folder of images, .*\(\.npy\).*, found .* suffix '\.txt'"
    ):
        open_source(str(path))


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    folder = str(_folder(tmp_path))
    for options, name in (
        (SourceOptions(axis=1), "--axis"),
        (SourceOptions(slices=(0, 1)), "--range"),
        (SourceOptions(level=1), "--level"),
    ):
        with pytest.raises(UsageError, match=f"folder of images, to which {name} does not apply"):
            open_source(folder, options)
    with pytest.raises(UsageError, match="OME-Zarr images only"):
        open_source(str(_npy(tmp_path)), SourceOptions(level=0))
    with pytest.raises(UsageError, match="names nothing in it"):
        open_source(f"{tmp_path / 'scan.npy'}::/a")
    with pytest.raises(UsageError, match="only an uncompressed stack"):
        open_source(str(_tiff(tmp_path, compression="zlib")), SourceOptions(axis=1))


@pytest.mark.parametrize("name", ["scan.npy", "scan.tif", "scan.h5"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00garbage", b"II*\x00\xff\xff"])
def test_files_that_are_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=name):
        open_source(str(path))


@pytest.mark.parametrize("kind", ["npy", "hdf5"])
def test_truncated_files_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = Path(str(MAKERS[kind](tmp_path)).split("::")[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UsageError, match=path.name):
        open_source(str(_settled(path)))


def test_a_cut_off_hdf5_file_is_not_called_open(tmp_path: Path) -> None:
    """HDF5 speaks of an `sblock` then, which is no lock."""
    path = Path(_hdf5(tmp_path).split("::")[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="is damaged or still being written"):
        open_source(str(_settled(path)))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"scan\.npy"):
        open_source(str(tmp_path / "scan.npy"))


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = _tiff(tmp_path, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset, length = tiff.pages[4].dataoffsets[0], tiff.pages[4].databytecounts[0]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * length)
    source = open_source(str(_settled(path)))
    source.read(3, 4)
    with pytest.raises(ImageError, match="slice 4: cannot be read"):
        source.read(4, 5)


def test_a_stack_of_unequal_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "scan.tif") as writer:
        for shape in ((20, 30), (20, 30), (25, 30)):
            writer.write(np.zeros(shape, np.uint8), metadata=None)
    with pytest.raises(UsageError, match="found 2 series of the shapes"):
        open_source(str(_settled(tmp_path / "scan.tif")))


def test_a_missing_chunk_is_named(tmp_path: Path) -> None:
    path = _zarr(tmp_path, zarr_format=3, chunks=(4, 30, 41))
    (path / "c/1/0/0").unlink()
    source = open_source(str(path))
    source.read(0, 4)
    with pytest.raises(ImageError, match=r"slice 4: its chunk c/1/0/0 is missing.*--fill-missing-chunks"):
        source.read(4, 5)
    filled = open_source(str(path), SourceOptions(fill_missing_chunks=True))
    assert (filled.read(4, 5)[0] == 0).all()


@pytest.mark.parametrize("options", [{"chunks": (4, 30, 41)}, {"chunks": (2, 15, 41), "shards": (4, 30, 41)}])
def test_a_torn_chunk_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    path = _zarr(tmp_path, zarr_format=3, **options)
    torn = path / "c/2/0/0"
    torn.write_bytes(torn.read_bytes()[:50])
    source = open_source(str(path))
    with pytest.raises(ImageError, match="slice 8: cannot be read: its chunk c/2/0/0 is damaged"):
        source.read(8, 9)


def test_groups_need_a_name(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "many.zarr"))
    for name in ("a", "b"):
        group.create_array(name, shape=(2, 4, 4), dtype="uint8")[:] = 1
    with pytest.raises(UsageError, match="its arrays: a, b"):
        open_source(str(tmp_path / "many.zarr"))
    assert len(open_source(f"{tmp_path / 'many.zarr'}::/b").slices) == 2
    with pytest.raises(UsageError, match="expected a zarr array or group"):
        open_source(f"{tmp_path / 'many.zarr'}::/c")


def test_hdf5_needs_a_name_when_there_are_several(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["a"] = np.zeros((2, 4, 4), np.uint8)
        file["b/c"] = np.zeros((2, 4, 4), np.uint8)
        file["text"] = "hello"
    path = _settled(tmp_path / "many.h5")
    with pytest.raises(UsageError, match=r"its images and volumes: /a \(2, 4, 4\), /b/c \(2, 4, 4\)"):
        open_source(str(path))
    with pytest.raises(UsageError, match="has no dataset /d"):
        open_source(f"{path}::/d")


def test_hdf5_that_is_being_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "open.h5", "w") as file:
        file["a"] = np.zeros((2, 4, 4), np.uint8)
        file.flush()
        import subprocess
        import sys

        code = (
            "import sys\nfrom matseg_runtime.source.open import open_source\n"
            "try:\n    open_source(sys.argv[1])\nexcept Exception as error:\n    print(type(error).__name__, error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "open.h5")],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.startswith("UsageError")
    assert "open for writing" in done.stdout or "still being written" in done.stdout


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _hdf5(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"needs the extra `hdf5`: pip install .*\[hdf5\]"):
        open_source(path)


def test_a_file_that_grows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matseg_runtime.source import base

    path = tmp_path / "scan.npy"
    np.save(path, VOLUME)

    def grow(_: float) -> None:
        with path.open("ab") as stream:
            stream.write(b"more")

    monkeypatch.setattr(base.time, "sleep", grow)
    with pytest.raises(UsageError, match="still being written"):
        open_source(str(path))


def test_a_folder_is_listed_without_asking_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disks of facilities answer slowly: what the listing tells is not asked for again, and a read file once."""
    folder = _folder(tmp_path)
    for path in folder.iterdir():
        _settled(path)
    asked: list[str] = []
    stat = os.stat

    def counted(path: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", counted)
    source = open_source(str(folder))
    assert [path for path in asked if path.endswith(".tif")] == []
    source.read_unchanged(source.slices[3:5])
    assert sorted(path for path in asked if path.endswith(".tif")) == [
        item.where for item in source.slices[3:5]
    ]


def test_a_slice_that_has_changed_since_it_was_listed(tmp_path: Path) -> None:
    source = open_source(str(_folder(tmp_path)))
    tifffile.imwrite(source.slices[2].where, VOLUME[0])
    ((pixels, identity),) = source.read_unchanged(source.slices[2:3])
    np.testing.assert_array_equal(pixels, VOLUME[0])
    assert identity == source.current_identity(2)


def test_a_slice_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(_folder(tmp_path)))
    read = source.read

    def read_and_change(start: int, stop: int) -> Any:
        found = read(start, stop)
        with Path(source.slices[start].where).open("ab") as stream:
            stream.write(b"more")
        return found

    monkeypatch.setattr(source, "read", read_and_change)
    with pytest.raises(ImageError, match="changed while it was read"):
        source.read_unchanged(source.slices[2:3])


def test_a_volume_that_changes_under_our_hands(tmp_path: Path) -> None:
    source = open_source(str(_npy(tmp_path)))
    assert source.current_identity(0) == source.slices[0].identity
    np.save(tmp_path / "scan.npy", VOLUME + 1)
    with pytest.raises(UsageError, match="has changed while it was being labelled"):
        source.current_identity(0)


def test_a_remote_zarr(tmp_path: Path) -> None:
    path = _zarr(tmp_path, zarr_format=3, chunks=(4, 16, 16))
    source = open_source(f"file://{path}")
    np.testing.assert_array_equal(_stack(source), VOLUME)


def test_a_remote_zarr_without_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[remote\]"):
        open_source(f"file://{tmp_path}/scan.zarr")


def test_the_private_names_of_zarr_that_are_used() -> None:
    """Zarr promises nothing of what lies in `zarr.core`; a version without one of these names must be noticed here."""
    root = Path(source_module.__file__).parents[1]
    found = {
        tuple(match)
        for file in root.rglob("*.py")
        for match in re.findall(r"from (zarr\.core\.\S+) import (.+)", file.read_text(encoding="utf-8"))
    }
    assert found == {("zarr.core.sync", "sync")}
    assert callable(importlib.import_module("zarr.core.sync").sync)


def test_a_palette_stack_is_colour(tmp_path: Path) -> None:
    table = np.zeros((3, 256), np.uint16)
    table[0] = np.arange(256) * 257
    tifffile.imwrite(
        tmp_path / "p.tif", np.full((2, 4, 4), 7, np.uint8), photometric="palette", colormap=table
    )
    image = open_source(str(_settled(tmp_path / "p.tif"))).read(0, 1)[0]
    assert image.shape == (4, 4, 3)
    assert image[0, 0].tolist() == [7, 0, 0]


def test_one_image_as_a_file(tmp_path: Path) -> None:
    Image.fromarray(VOLUME[0].astype(np.uint8)).save(tmp_path / "one.tif")
    source = open_source(str(_settled(tmp_path / "one.tif")))
    assert [item.name for item in source.slices] == ["one"]
    assert source.read(0, 1)[0].shape == (30, 41)
