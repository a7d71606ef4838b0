"""Pictures of any number of channels, in every way that instruments and programs write them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.layout import parse_axes
from matseg_runtime.source.open import open_source
from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import (
    GREY,
    parse_channels,
    pick_channels,
    require_count,
    to_channels,
    to_shown,
)
from matseg_shared.images.read import read_image, read_stored
from matseg_shared.images.tiff import channel_names

HEIGHT, WIDTH = 40, 52
NAMES = ("Fe", "Ni", "Cr", "Al", "Ti", "Mo", "W")


def picture(channels: int, dtype: str = "uint8") -> np.ndarray:
    """(C, H, W), every channel another."""
    values = np.random.default_rng(channels).random((channels, HEIGHT, WIDTH)) * 250
    return values.astype(dtype)


def _interleaved(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "samples in planes": lambda path, pixels: tifffile.imwrite(
        path, pixels, photometric="minisblack", planarconfig="separate", metadata={"axes": "CYX"}
    ),
    "samples together": lambda path, pixels: tifffile.imwrite(
        path, _interleaved(pixels), photometric="minisblack", planarconfig="contig"
    ),
    "compressed, in tiles": lambda path, pixels: tifffile.imwrite(
        path,
        _interleaved(pixels),
        photometric="minisblack",
        planarconfig="contig",
        tile=(32, 32),
        compression="zlib",
    ),
    "pages, not named": lambda path, pixels: tifffile.imwrite(path, pixels, photometric="minisblack"),
    "pages without a word": lambda path, pixels: tifffile.imwrite(
        path, pixels, photometric="minisblack", metadata=None
    ),
    "behind one page": lambda path, pixels: tifffile.imwrite(
        path, pixels, photometric="minisblack", truncate=True
    ),
    "channels last, not named": lambda path, pixels: tifffile.imwrite(
        path, _interleaved(pixels), photometric="minisblack", planarconfig=None
    ),
    "ImageJ": lambda path, pixels: tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "CYX"}),
    "OME": lambda path, pixels: tifffile.imwrite(
        path, pixels, ome=True, photometric="minisblack", metadata={"axes": "CYX"}
    ),
    "OME, samples": lambda path, pixels: tifffile.imwrite(
        path,
        _interleaved(pixels),
        ome=True,
        photometric="minisblack",
        planarconfig="contig",
        metadata={"axes": "YXS"},
    ),
    "big-endian": lambda path, pixels: tifffile.imwrite(
        path, pixels, photometric="minisblack", planarconfig="separate", byteorder=">"
    ),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 4, 7, 30])
@pytest.mark.parametrize("written", WRITERS)
def test_channels_are_read_as_they_were_written(
    tmp_path: Path, written: str, channels: int, dtype: str
) -> None:
    pixels = picture(channels, dtype)
    WRITERS[written](tmp_path / "a.tif", pixels)
    found = read_image(tmp_path / "a.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(to_channels(found, channels, "a.tif"), pixels)


def test_four_channels_are_no_colours_with_alpha_unless_the_file_says_so(tmp_path: Path) -> None:
    pixels = _interleaved(picture(4))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(path), pixels)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image(path), pixels)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(ImageError, match=r"has transparent pixels.*--channels 0,1,2,3"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, (0, 1, 2, 3)), pixels)
    np.testing.assert_array_equal(read_image(path, (3,)), pixels[..., 3])
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (2, 0)), pixels[..., [2, 0]])


def test_two_channels_are_no_grey_with_alpha_unless_the_file_says_so(tmp_path: Path) -> None:
    pixels = _interleaved(picture(2))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    assert read_image(path).shape == (HEIGHT, WIDTH, 2)
    pixels[..., 1] = 255
    tifffile.imwrite(
        path, pixels, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]
    )
    np.testing.assert_array_equal(read_image(path), pixels[..., 0])


def test_pages_that_are_slices_are_no_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(7), imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(ImageError, match="found a stack of 7 images"):
        read_image(path)
    tifffile.imwrite(path, picture(65), photometric="minisblack")
    with pytest.raises(ImageError, match="found a stack of 65 images"):
        read_image(path)
    tifffile.imwrite(path, picture(6).reshape(2, 3, HEIGHT, WIDTH), imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(ImageError, match="found a stack of 6 images"):
        read_image(path)


def test_a_label_image_has_no_channels(tmp_path: Path) -> None:
    for write in WRITERS.values():
        write(tmp_path / "a.tif", picture(4))
        with pytest.raises(ImageError, match=r"expected (a grey or RGB|one) image, found"):
            read_stored(tmp_path / "a.tif")


def test_some_channels_in_another_order(tmp_path: Path) -> None:
    pixels = picture(7)
    WRITERS["OME"](tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(to_channels(read_image(tmp_path / "a.tif", (5, 0)), 2, "a"), pixels[[5, 0]])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", (3,)), pixels[3])
    with pytest.raises(ImageError, match=r"expected the channels 0,7, found 7 of them, 0 to 6"):
        read_image(tmp_path / "a.tif", (0, 7))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_coloured_mark_on_a_grey_picture_is_taken_as_grey(tmp_path: Path, dtype: str) -> None:
    grey = picture(1, dtype)[0]
    marked = np.stack([grey] * 3, axis=-1)
    marked[-5:, -20:] = (200, 0, 100)
    tifffile.imwrite(tmp_path / "a.tif", marked, photometric="rgb")
    with pytest.raises(ImageError, match=r"colour image.*--channels grey.*`channels = 1`"):
        to_channels(read_image(tmp_path / "a.tif"), 1, "a.tif")
    found = read_image(tmp_path / "a.tif", GREY)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:-5], grey[:-5])
    np.testing.assert_array_equal(found[-5:, -20:], np.full((5, 20), 100, dtype))


def test_a_wrong_number_names_both() -> None:
    with pytest.raises(ImageError, match=r"has 7 channels.*takes 4 channels.*--channels"):
        to_channels(_interleaved(picture(7)), 4, "a")
    with pytest.raises(ImageError, match=r"has 1 channel; this model takes 7 channels"):
        to_channels(picture(1)[0], 7, "a")
    with pytest.raises(ImageError, match=r"has 24 channels, or 24 slices.*takes 1 channel;.*as a stack"):
        to_channels(_interleaved(picture(24)), 1, "a")


def test_names_of_channels(tmp_path: Path) -> None:
    pixels, path = picture(7), tmp_path / "a.tif"
    options = {"axes": "CYX", "Channel": {"Name": list(NAMES)}}
    tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata=options)
    assert channel_names(path, 7) == NAMES
    assert channel_names(path, 2, (6, 0)) == ("W", "Fe")
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "CYX", "Labels": list(NAMES)})
    assert channel_names(path, 7) == NAMES
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "CYX", "Labels": ["a"] * 7})
    assert channel_names(path, 7) == ()
    assert channel_names(tmp_path / "a.png", 3) == ()


@pytest.mark.parametrize("text", ["", "a", "0,0", "-1", "1.5", "0,,1", ",".join(map(str, range(65)))])
def test_a_choice_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected different channels by their numbers"):
        parse_channels(text)


def test_a_choice_of_another_number_than_the_model_takes() -> None:
    info = InputInfo(
        channels=2,
        channel_names=("Fe", "Ni"),
        dtype="uint8",
        mean=(1, 1),
        std=(1, 1),
        histogram=Histogram(low=0, high=1, counts=(1,)),
    )
    require_count(parse_channels("4,2"), info)
    require_count((), info)
    for text, found in (("4", "1"), ("grey", "1"), ("0,1,2", "3")):
        with pytest.raises(UsageError, match=rf"expected 2 channels \(Fe, Ni\).*found {found}"):
            require_count(parse_channels(text), info)


def test_what_a_picture_shows() -> None:
    pixels = _interleaved(picture(7))
    np.testing.assert_array_equal(to_shown(pixels, ()), pixels[..., 0])
    np.testing.assert_array_equal(to_shown(pixels, (4,)), pixels[..., 4])
    np.testing.assert_array_equal(to_shown(pixels, (4, 0, 6)), pixels[..., [4, 0, 6]])
    np.testing.assert_array_equal(to_shown(pixels[..., :3], ()), pixels[..., :3])
    with pytest.raises(UsageError, match="--show 7: expected channels from 0 to 6"):
        to_shown(pixels, (7,))
    np.testing.assert_array_equal(pick_channels(pixels[..., 0], (0,), "a"), pixels[..., 0])


def _hdf5(path: Path, pixels: np.ndarray) -> str:
    with h5py.File(path, "w") as file:
        file["data"] = pixels
    return str(path)


def _ome_zarr(path: Path, pixels: np.ndarray, axes: str) -> str:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=pixels, chunks=tuple(min(20, length) for length in pixels.shape))
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": axis, "type": "channel" if axis == "c" else "space"} for axis in axes],
            "datasets": [
                {
                    "path": "0",
                    "coordinateTransformations": [{"type": "scale", "scale": [1.0] * pixels.ndim}],
                }
            ],
        }
    ]
    return str(path)


def _saved(path: Path, pixels: np.ndarray) -> str:
    np.save(path, pixels)
    return str(path)


def _tiff(path: Path, pixels: np.ndarray, **options: Any) -> str:
    tifffile.imwrite(path, pixels, photometric="minisblack", **options)
    return str(path)


SLICES = 5
VOLUMES: dict[str, Callable[[Path, np.ndarray], str]] = {
    "npy, zcyx": lambda path, pixels: _saved(path / "a.npy", pixels),
    "npy, czyx": lambda path, pixels: _saved(path / "a.npy", np.moveaxis(pixels, 1, 0)),
    "npy, zyxc": lambda path, pixels: _saved(path / "a.npy", np.moveaxis(pixels, 1, -1)),
    "HDF5": lambda path, pixels: _hdf5(path / "a.h5", pixels),
    "HDF5, zyxc": lambda path, pixels: _hdf5(path / "a.h5", np.moveaxis(pixels, 1, -1)),
    "OME-Zarr, czyx": lambda path, pixels: _ome_zarr(path / "a.zarr", np.moveaxis(pixels, 1, 0), "czyx"),
    "OME-Zarr, zcyx": lambda path, pixels: _ome_zarr(path / "a.zarr", pixels, "zcyx"),
    "ImageJ": lambda path, pixels: _tiff(path / "a.tif", pixels, imagej=True, metadata={"axes": "ZCYX"}),
    "ImageJ, behind one page": lambda path, pixels: _tiff(
        path / "a.tif", pixels, imagej=True, metadata={"axes": "ZCYX"}, truncate=True
    ),
    "OME-TIFF, czyx": lambda path, pixels: _tiff(
        path / "a.tif", np.ascontiguousarray(np.moveaxis(pixels, 1, 0)), ome=True, metadata={"axes": "CZYX"}
    ),
    "TIFF of samples": lambda path, pixels: _tiff(
        path / "a.tif", np.ascontiguousarray(np.moveaxis(pixels, 1, -1)), planarconfig="contig"
    ),
}


@pytest.mark.parametrize("channels", [2, 4, 7])
@pytest.mark.parametrize("stored", VOLUMES)
def test_channels_of_a_volume_are_those_of_each_slice(tmp_path: Path, stored: str, channels: int) -> None:
    pixels = np.stack([picture(channels) + np.uint8(number) for number in range(SLICES)])
    location = VOLUMES[stored](tmp_path, pixels)
    with closing(open_source(location, SourceOptions(taken=channels))) as source:
        assert source.volume is not None
        assert source.volume.shape == (SLICES, HEIGHT, WIDTH)
        found = [to_channels(image, channels, location) for image in source.read(1, 4)]
    np.testing.assert_array_equal(found, pixels[1:4])
    picked = SourceOptions(
        taken=2, channels=(1, 0), axes="zyxc" if channels == 2 and "zyxc" in stored else None
    )
    if stored.startswith(("OME", "ImageJ", "TIFF")):
        with closing(open_source(location, picked)) as source:
            np.testing.assert_array_equal(to_channels(source.read(2, 3)[0], 2, location), pixels[2, [1, 0]])


IMAGES: dict[str, Callable[[Path, np.ndarray], str]] = {
    "npy, cyx": lambda path, pixels: _saved(path / "a.npy", pixels),
    "npy, yxc": lambda path, pixels: _saved(path / "a.npy", _interleaved(pixels)),
    "HDF5": lambda path, pixels: _hdf5(path / "a.h5", pixels),
    "OME-Zarr": lambda path, pixels: _ome_zarr(path / "a.zarr", pixels, "cyx"),
    **{
        f"TIFF, {name}": lambda path, pixels, write=write: (
            write(path / "a.tif", pixels),
            str(path / "a.tif"),
        )[1]
        for name, write in WRITERS.items()
    },
}


@pytest.mark.parametrize("channels", [2, 3, 4, 7, 30])
@pytest.mark.parametrize("stored", IMAGES)
def test_one_image_of_many_channels_by_itself(tmp_path: Path, stored: str, channels: int) -> None:
    pixels = picture(channels)
    location = IMAGES[stored](tmp_path, pixels)
    with closing(open_source(location, SourceOptions(taken=channels))) as source:
        assert len(source.slices) == 1
        np.testing.assert_array_equal(to_channels(source.read(0, 1)[0], channels, location), pixels)
    with closing(
        open_source(location, SourceOptions(taken=1, channels=(1,), axes=_axes_of(stored)))
    ) as source:
        np.testing.assert_array_equal(source.read(0, 1)[0], pixels[1])


def _axes_of(stored: str) -> str | None:
    """For files that do not say where their channels are, which small pictures leave open."""
    if stored == "npy, yxc" or "channels last" in stored:
        return "yxc"
    return "cyx" if stored in ("npy, cyx", "HDF5") or "page" in stored else None


def test_a_model_of_one_channel_takes_slices_whatever_they_are_called(tmp_path: Path) -> None:
    pixels = picture(24)
    for name, options in {"pages": {}, "channels": {"imagej": True, "metadata": {"axes": "CYX"}}}.items():
        location = _tiff(tmp_path / f"{name}.tif", pixels, **options)
        with closing(open_source(location, SourceOptions(taken=1))) as source:
            np.testing.assert_array_equal(source.read(0, 24), pixels)
        with closing(open_source(location, SourceOptions(taken=24))) as source:
            assert len(source.slices) == 1


def test_another_number_of_channels_in_a_volume_names_both(tmp_path: Path) -> None:
    named = _ome_zarr(tmp_path / "a.zarr", picture(5), "cyx")
    with pytest.raises(UsageError, match=r"expected 7 channels, as the model takes, found 5.*--channels"):
        open_source(named, SourceOptions(taken=7))
    with pytest.raises(UsageError, match=r"expected 1 channel, as the model takes, found 5.*--channels 0"):
        open_source(named, SourceOptions(taken=1))
    unnamed = _saved(tmp_path / "a.npy", picture(24))
    with pytest.raises(UsageError, match=r"with 7 channels, found an array of shape \(24, 40, 52\).*--axes"):
        open_source(unnamed, SourceOptions(taken=7))
    with pytest.raises(UsageError, match=r"expected the channels 0,30, found 24"):
        open_source(unnamed, SourceOptions(taken=2, channels=(0, 30), axes="cyx"))
    with pytest.raises(UsageError, match=r"--axes zcyx names 4 axes, found 3"):
        open_source(unnamed, SourceOptions(taken=2, axes="zcyx"))
    with pytest.raises(UsageError, match=r"with axes more than one of which could be theirs.*--axes"):
        open_source(_saved(tmp_path / "b.npy", np.zeros((7, 90, 7), np.uint8)), SourceOptions(taken=7))


@pytest.mark.parametrize("text", ["", "zc", "zyy", "qyx", "YX"])
def test_axes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected one of the letters t, c, z, y, x per axis"):
        parse_axes(text)
