"""Images are read exactly as they are stored, or it is said why not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import is_grey, to_channels
from matseg_shared.images.read import check_dtype, list_images, natural_key, read_image, read_stored

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY + 1, GREY + 2], axis=-1)
DEEP = GREY.astype(np.uint16) * 257
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save an array with Pillow or tifffile, by the name's ending."""

    def save_array(pixels: np.ndarray, name: str = "image.png", **options: Any) -> Path:
        path = tmp_path / name
        if name.endswith(("tif", "tiff")):
            tifffile.imwrite(path, pixels, **options)
        else:
            mode = options.pop("mode", None)
            image = Image.fromarray(pixels)
            (image.convert(mode) if mode else image).save(path, **options)
        return path

    return save_array


def with_alpha(pixels: np.ndarray, alpha: int) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, dtype=pixels.dtype)])


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG made by hand, of any bit depth and colour type."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.path == path
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (GREY, GREY),
        (COLOUR, COLOUR),
        (with_alpha(GREY, 255), GREY),
        (with_alpha(COLOUR, 255), COLOUR),
        (DEEP, DEEP),
        (GREY > 100, np.where(GREY > 100, 255, 0).astype(np.uint8)),
    ],
    ids=["L", "RGB", "LA", "RGBA", "I;16", "1"],
)
def test_every_png_mode(save: Save, pixels: np.ndarray, expected: np.ndarray) -> None:
    found = read_image(save(pixels))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert read_stored(save(pixels)).palette is None


@pytest.mark.parametrize(
    ("name", "pixels"), [("a.bmp", GREY), ("a.bmp", COLOUR), ("A.JPG", GREY), ("a.jpeg", COLOUR)]
)
def test_other_formats(save: Save, name: str, pixels: np.ndarray) -> None:
    found = read_image(save(pixels, name, **({} if name == "a.bmp" else {"quality": 100, "subsampling": 0})))
    assert found.shape == pixels.shape
    np.testing.assert_allclose(found.astype(int), pixels, atol=0 if name == "a.bmp" else 3)


@pytest.mark.parametrize("alpha", [0, 254])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["LA", "RGBA"])
def test_transparent_pixels_are_refused(save: Save, pixels: np.ndarray, alpha: int) -> None:
    assert "has transparent pixels" in refusal(save(with_alpha(pixels, alpha)))
    options = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", "extrasamples": ["unassalpha"]}
    assert "has transparent pixels" in refusal(save(with_alpha(pixels, alpha), "a.tif", **options))


def test_a_palette_image_is_indices_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    image = Image.fromarray(np.array([[0, 2], [1, 2]], dtype=np.uint8))
    image.putpalette([0, 0, 0, 230, 159, 0, 86, 180, 233])
    image.save(path)
    stored = read_stored(path)
    np.testing.assert_array_equal(stored.pixels, [[0, 2], [1, 2]])
    assert stored.palette is not None
    assert stored.palette[:3] == ((0, 0, 0), (230, 159, 0), (86, 180, 233))
    np.testing.assert_array_equal(read_image(path)[0, 1], (86, 180, 233))
    assert read_image(path).dtype == np.uint8


def test_a_palette_tiff(save: Save) -> None:
    colormap = np.zeros((3, 256), dtype=np.uint16)
    colormap[:, 1] = (65535, 32768, 256)
    indices = np.array([[0, 1]], dtype=np.uint8)
    stored = read_stored(save(indices, "a.tif", photometric="palette", colormap=colormap))
    np.testing.assert_array_equal(stored.pixels, indices)
    assert stored.palette is not None
    assert stored.palette[:2] == ((0, 0, 0), (255, 128, 1))


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "LA"])
def test_a_png_of_16_bit_colours_is_refused(tmp_path: Path, colour: int, samples: int) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png(2, 1, 16, colour, b"\x00" + b"\x12\x34" * samples * 2))
    assert "16 bits per colour channel" in refusal(path)


def test_a_png_of_16_bit_grey_made_by_hand_keeps_its_values(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png(2, 1, 16, 0, b"\x00\x12\x34\xff\xfe"))
    found = read_image(path)
    assert found.dtype == np.dtype("uint16").newbyteorder("=")
    np.testing.assert_array_equal(found, [[0x1234, 0xFFFE]])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiffs_of_the_dtypes_a_model_takes(save: Save, dtype: str, byteorder: str) -> None:
    pixels = DEEP.astype(dtype)
    found = read_image(save(pixels, "a.tif", byteorder=byteorder))
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float64", "int8"])
def test_other_dtypes_are_refused_and_what_fits_is_named(save: Save, dtype: str) -> None:
    path = save(GREY.astype(dtype), "a.tif")
    assert f"expected pixels of uint8, uint16 or float32, found {dtype}" in refusal(path)
    assert read_stored(path).pixels.dtype.name == dtype


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_tiff_colour(save: Save, planarconfig: str) -> None:
    pixels = COLOUR if planarconfig == "contig" else np.moveaxis(COLOUR, -1, 0)
    path = save(pixels, "a.tif", photometric="rgb", planarconfig=planarconfig)
    np.testing.assert_array_equal(read_image(path), COLOUR)
    deep = save(pixels.astype(np.uint16) * 257, "b.tif", photometric="rgb", planarconfig=planarconfig)
    np.testing.assert_array_equal(read_image(deep), COLOUR.astype(np.uint16) * 257)


@pytest.mark.parametrize("pixels", [GREY, DEEP], ids=["uint8", "uint16"])
def test_white_is_zero_is_put_right(save: Save, pixels: np.ndarray) -> None:
    found = read_image(save(pixels, "a.tif", photometric="miniswhite"))
    np.testing.assert_array_equal(found, np.iinfo(pixels.dtype).max - pixels)


def test_white_is_zero_with_few_bits(save: Save) -> None:
    found = read_image(save(GREY > 100, "bits.tif", photometric="miniswhite"))
    np.testing.assert_array_equal(found, np.where(GREY > 100, 0, 255))
    nibbles = save(
        np.array([[0x0F, 0x12]], dtype=np.uint8), "nibbles.tif", photometric="miniswhite", metadata=None
    )
    with tifffile.TiffFile(nibbles, mode="r+b") as tiff:  # the same bytes read as four pixels of four bits
        tiff.pages.first.tags["BitsPerSample"].overwrite(4)
        tiff.pages.first.tags["ImageWidth"].overwrite(4)
    np.testing.assert_array_equal(read_image(nibbles), [[255, 0, 238, 221]])


@pytest.mark.parametrize(
    "options", [{}, {"truncate": True}, {"imagej": True}], ids=["pages", "one", "imagej"]
)
def test_a_stack_is_not_one_image(save: Save, options: dict[str, Any]) -> None:
    stack = np.zeros((70, 66, 80), np.uint8)
    assert "found a stack of 70 images" in refusal(save(stack, "a.tif", photometric="minisblack", **options))


def test_an_animation_is_not_one_image(tmp_path: Path) -> None:
    path = tmp_path / "moving.png"
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "found an animation of 2 frames" in refusal(path)


def test_colour_modes_without_a_meaning_here(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (4, 4)).save(path)
    assert "found the colour mode 'CMYK'" in refusal(path)


def test_a_rotation_flag_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    jpeg, tiff = tmp_path / "a.jpg", tmp_path / "a.tif"
    Image.fromarray(GREY).save(jpeg, exif=exif)
    tifffile.imwrite(tiff, GREY, extratags=[(274, "H", 1, 3, True)])
    assert "carries a rotation flag (orientation 6)" in refusal(jpeg)
    assert "carries a rotation flag (orientation 3)" in refusal(tiff)
    exif[274] = 1
    Image.fromarray(GREY).save(jpeg, exif=exif)
    assert read_image(jpeg).shape == GREY.shape


@pytest.mark.parametrize("keep", [0.95, 0.5, 0.1])
def test_a_truncated_png(save: Save, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = save(noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert "is not whole" in refusal(path)


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.1, 0.01])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 16},
        {"tile": (16, 16)},
        {"compression": "zlib", "rowsperstrip": 16},
        {"compression": "lzw"},
    ],
    ids=["whole", "strips", "tiles", "zlib", "lzw"],
)
def test_a_truncated_tiff(save: Save, keep: float, options: dict[str, Any]) -> None:
    pytest.importorskip("imagecodecs")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = save(noise, "a.tif", **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    message = refusal(path)
    assert "is not whole" in message or "found a damaged file" in message


def test_a_tiff_with_missing_tiles_is_not_filled_with_zeros(save: Save) -> None:
    path = save(np.ones((64, 64), dtype=np.uint8), "sparse.tif", tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages.first.databytecounts)
        tiff.pages.first.tags["TileByteCounts"].overwrite([0, *counts[1:]])
    assert "1 of its 16 strips or tiles are missing" in refusal(path)


def test_a_tiff_whose_header_promises_more_tiles_than_it_has(save: Save) -> None:
    path = save(np.ones((64, 64), dtype=np.uint8), "long.tif", tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["ImageLength"].overwrite(128)
    assert "16 of its 32 strips or tiles are missing" in refusal(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp"])
@pytest.mark.parametrize(
    "content", [b"", b"just some text\n", b"\x89PNG\r\n\x1a\n", b"II*\x00\x08\x00\x00\x00"]
)
def test_what_is_no_image(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "expected a readable" in refusal(path)


def test_a_tiff_called_png_is_not_read_as_one(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "wrong.png"
    save(DEEP, "a.tif").rename(path)
    assert "expected a readable png image, found a damaged file or another format" in refusal(path)


def test_a_jpeg_called_png_is_read(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "wrong.png"
    save(GREY, "a.jpg").rename(path)
    assert read_image(path).shape == GREY.shape


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.png") == "there is no such file"
    (tmp_path / "folder.png").mkdir()
    assert refusal(tmp_path / "folder.png") == "there is no such file"


def test_pixels_that_are_infinite_are_refused(save: Save) -> None:
    pixels = GREY.astype(np.float32)
    pixels[1, 1] = np.inf
    assert "holds infinite pixels, 1 of 12, the first at row 1, column 1" in refusal(save(pixels, "a.tif"))


def test_pixels_that_are_no_numbers_are_read(save: Save) -> None:
    pixels = GREY.astype(np.float32)
    pixels[1, 1] = np.nan
    assert np.array_equal(read_image(save(pixels, "a.tif")), pixels, equal_nan=True)


def test_a_comment_in_the_file_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "comment.png"
    info = PngInfo()
    info.add_text("Comment", "etched 10 s")
    Image.fromarray(GREY).save(path, pnginfo=info)
    np.testing.assert_array_equal(read_image(path), GREY)


def test_large_images_are_read_without_a_warning_in_any_thread(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREY.size - 1)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(read_image, [path] * 40):
            np.testing.assert_array_equal(found, GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert "exceeds limit" in refusal(path)


def test_names_sort_as_people_count() -> None:
    names = ["s10.png", "S9.png", "s1.png", "s09.png", "a.png", "s1b.png", "10.png", "9.png"]
    assert sorted(names, key=natural_key) == [
        *["9.png", "10.png", "a.png", "s1.png", "s1b.png", "s09.png", "S9.png", "s10.png"]
    ]


def test_images_and_the_rest_of_a_folder(tmp_path: Path) -> None:
    for name in ("b10.PNG", "b9.tif", "notes.txt", ".hidden.png", "c.jpeg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    images, others = list_images(tmp_path)
    assert [path.name for path in images] == ["b9.tif", "b10.PNG", "c.jpeg"]
    assert [path.name for path in others] == ["folder.png", "notes.txt"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(UsageError, match="expected a folder of images"):
            list_images(path)


def test_grey_stored_as_colour_counts_as_grey() -> None:
    stored = np.stack([GREY] * 3, axis=-1)
    assert is_grey(GREY)
    assert is_grey(stored)
    assert not is_grey(COLOUR)
    last = stored.copy()
    last[2, 3, 2] += 1
    assert not is_grey(last)
    for pixels in (GREY, stored):
        taken = to_channels(pixels, 1, "a.png")
        assert taken.shape == (1, 3, 4)
        assert taken.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(taken[0], GREY)


def test_colour_is_moved_to_the_front_and_never_mixed_up_with_grey() -> None:
    taken = to_channels(COLOUR, 3, "a.png")
    assert taken.shape == (3, 3, 4)
    assert taken.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(taken[2], COLOUR[..., 2])
    with pytest.raises(ImageError, match=r"a\.png: is a colour image; this model was trained on grey"):
        to_channels(COLOUR, 1, "a.png")
    with pytest.raises(ImageError, match=r"a\.png: is a grey image; this model was trained on colour"):
        to_channels(GREY, 3, "a.png")


@pytest.mark.parametrize(
    ("pixels", "span"),
    [
        (DEEP, "spans 0 to 56540"),
        (np.array([[0.25, np.nan, 1e-3]]), "spans 0.001 to 0.25"),
        (np.array([[np.nan]]), "spans nothing"),
    ],
)
def test_another_dtype_is_refused_with_the_way_out(pixels: np.ndarray, span: str) -> None:
    with pytest.raises(ImageError) as caught:
        check_dtype(pixels, "uint8", "a.tif")
    message = str(caught.value)
    assert message.startswith(f"a.tif: has {pixels.dtype} pixels, this model takes uint8")
    assert "--window LO,HI" in message
    assert span in message
    check_dtype(GREY, "uint8", "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_grey_stored_as_rgb_is_one_channel_seen_three_times(save: Save, suffix: str) -> None:
    stored = np.repeat(GREY[..., np.newaxis], 3, axis=-1)
    pixels = read_image(save(stored, f"grey{suffix}"))
    np.testing.assert_array_equal(pixels, stored)
    assert pixels.strides[-1] == 0
    assert is_grey(pixels)
    grey = to_channels(pixels, 1, "grey")
    assert grey.flags.writeable
    assert grey.flags.c_contiguous
    np.testing.assert_array_equal(grey, GREY[np.newaxis])
    np.testing.assert_array_equal(to_channels(pixels, 3, "grey"), np.stack([GREY] * 3))


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_pixel_of_colour_is_noticed(save: Save, channel: int) -> None:
    stored = np.repeat(GREY[..., np.newaxis], 3, axis=-1)
    stored[-1, -1, channel] ^= 1
    pixels = read_image(save(stored))
    np.testing.assert_array_equal(pixels, stored)
    assert not is_grey(pixels)
    with pytest.raises(ImageError, match="is a colour image"):
        to_channels(pixels, 1, "colour")
