"""Pictures of any number of channels, in every way that instruments and programs write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

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
    assert to_shown(pixels[..., 0], (4,)).ndim == 2
    np.testing.assert_array_equal(pick_channels(pixels[..., 0], (0,), "a"), pixels[..., 0])
