"""PNG, JPEG and BMP: values as they are stored, or a refusal."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from raw_png import GREY, PALETTE, RGB, write_png
from ways_in import direct, refusal_of_image, stored

from matseg_shared.errors import ImageError
from matseg_shared.images.channels import is_grey
from matseg_shared.images.read import read_image

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)


def test_png_of_16_bit_grey_keeps_its_values(tmp_path: Path, models, labels) -> None:
    deep = RAMP.astype(np.uint16) * 257 + 3
    folder = tmp_path / "scan"
    folder.mkdir()
    Image.fromarray(deep).save(folder / "a.png")
    np.testing.assert_array_equal(read_image(folder / "a.png"), deep)
    rows = [row.astype(">u2").tobytes() for row in deep]
    np.testing.assert_array_equal(read_image(write_png(tmp_path / "raw.png", 8, 16, GREY, rows)), deep)
    np.testing.assert_array_equal(labels(models("uint16"), folder)[0], direct(models("uint16"), deep))


@pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17)])
def test_png_of_few_bits_is_spread_over_8(tmp_path: Path, depth: int, step: int) -> None:
    levels = 1 << depth
    values = np.arange(8) % levels
    bits = "".join(f"{value:0{depth}b}" for value in values)
    packed = int(bits, 2).to_bytes(depth, "big")
    np.testing.assert_array_equal(
        read_image(write_png(tmp_path / "a.png", 8, depth, GREY, [packed])), [values * step]
    )


def test_png_gamma_profile_and_significant_bits_change_no_value(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = tmp_path / "profile.png"
    Image.fromarray(COLOUR).save(linear, icc_profile=profile)
    np.testing.assert_array_equal(read_image(linear), COLOUR)
    chunks = {b"gAMA": struct.pack(">I", 100000), b"sBIT": bytes([5]), b"pHYs": struct.pack(">IIB", 9, 4, 1)}
    grey = write_png(tmp_path / "grey.png", 8, 8, GREY, [row.tobytes() for row in RAMP], chunks)
    np.testing.assert_array_equal(read_image(grey), RAMP)
    deep = (
        RAMP.astype(np.uint16) << 4
    ) * 16  # 12 significant bits at the upper end, as the specification has it
    rows = [row.astype(">u2").tobytes() for row in deep]
    found = read_image(write_png(tmp_path / "deep.png", 8, 16, GREY, rows, {b"sBIT": bytes([12])}))
    np.testing.assert_array_equal(found, deep)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "chunks", "absent"),
    [
        (8, GREY, bytes([1, 2]), {b"tRNS": struct.pack(">H", 2)}, struct.pack(">H", 9)),
        (16, GREY, bytes([1, 2, 3, 4]), {b"tRNS": struct.pack(">H", 0x304)}, struct.pack(">H", 9)),
        (4, GREY, bytes([0x1F]), {b"tRNS": struct.pack(">H", 15)}, struct.pack(">H", 3)),
        (2, GREY, bytes([0b00010000]), {b"tRNS": struct.pack(">H", 1)}, struct.pack(">H", 3)),
        (1, GREY, bytes([0b01000000]), {b"tRNS": struct.pack(">H", 1)}, None),
        (8, RGB, bytes([1, 2, 3, 4, 5, 6]), {b"tRNS": bytes([0, 4, 0, 5, 0, 6])}, bytes([0, 4, 0, 5, 0, 7])),
        (8, PALETTE, bytes([0, 1]), {b"PLTE": bytes([9, 9, 9, 7, 7, 7, 5, 5, 5]), b"tRNS": b"\xff\x80"}, b"\xff\xff\0"),
    ],
    ids=["grey", "16-bit", "4-bit", "2-bit", "1-bit", "rgb", "palette"],
)  # fmt: skip
def test_png_with_a_transparent_value_is_refused_where_pixels_have_it(
    tmp_path: Path, depth: int, colour: int, row: bytes, chunks: dict[bytes, bytes], absent: bytes | None
) -> None:
    path = write_png(tmp_path / "a.png", 2, depth, colour, [row], chunks)
    assert "has transparent pixels" in refusal_of_image(path)
    with pytest.raises(ImageError, match="has transparent pixels"):
        stored(tmp_path)
    if absent is not None:
        without = write_png(path, 2, depth, colour, [row], {k: v for k, v in chunks.items() if k != b"tRNS"})
        expected = read_image(without)
        write_png(path, 2, depth, colour, [row], {**chunks, b"tRNS": absent})
        np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_where_opaque_and_refused_where_not(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    base = RAMP if mode == "LA" else COLOUR
    image = Image.fromarray(base).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(read_image(path), base)
    image.putpixel((3, 2), (*image.getpixel((3, 2))[:-1], 254))
    image.save(path)
    assert "has transparent pixels" in refusal_of_image(path)


def test_png_rotated_by_exif_is_refused(tmp_path: Path) -> None:
    exif = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x112, 3, 1, 6, 0, 0)
    path = write_png(tmp_path / "a.png", 8, 8, GREY, [row.tobytes() for row in RAMP], {b"eXIf": exif})
    assert "carries a rotation flag (orientation 6)" in refusal_of_image(path)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_jpeg_rotated_by_exif_is_refused(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", exif=exif)
    assert f"carries a rotation flag (orientation {orientation})" in refusal_of_image(tmp_path / "a.jpg")


def test_palette_image_is_shown_in_its_colours(tmp_path: Path, models, labels, run) -> None:
    image = Image.fromarray(RAMP % 4)
    image.putpalette([250, 250, 250, 160, 160, 160, 70, 70, 70, 5, 5, 5])
    folder = tmp_path / "scan"
    folder.mkdir()
    image.save(folder / "a.png")
    grey = np.array([250, 160, 70, 5], np.uint8)[RAMP % 4]
    np.testing.assert_array_equal(labels(models(), folder)[0], direct(models(), grey))
    image.putpalette([250, 0, 0])
    image.save(folder / "a.png")
    result = run(models(), folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "is a colour image; this model was trained on grey images" in result.output


def test_cmyk_jpeg_is_refused_with_and_without_adobe_s_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOUR).convert("CMYK").save(path)
    assert "found the colour mode 'CMYK'" in refusal_of_image(path)


def test_grey_saved_as_colour_jpeg_counts_as_grey(tmp_path: Path, models, labels) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    Image.fromarray(np.stack([RAMP] * 3, axis=-1)).save(folder / "a.jpg", subsampling=2)
    found = read_image(folder / "a.jpg")
    assert is_grey(found)
    np.testing.assert_array_equal(labels(models(), folder)[0], direct(models(), found[..., 0]))


def test_nearly_grey_is_colour_and_refused_by_a_grey_model(tmp_path: Path, models, run) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    tinted = np.stack([RAMP, RAMP, RAMP], axis=-1)
    tinted[2, 3, 2] ^= 1
    Image.fromarray(tinted).save(folder / "a.png")
    result = run(models(), folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "is a colour image; this model was trained on grey images" in result.output


@pytest.mark.parametrize("grey_input", [True, False])
def test_grey_and_colour_are_never_taken_for_each_other(
    tmp_path: Path, models, run, grey_input: bool
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    Image.fromarray(RAMP if grey_input else COLOUR).save(folder / "a.png")
    result = run(models("uint8", 3 if grey_input else 1), folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"is a {'grey' if grey_input else 'colour'} image" in result.output
    assert not (tmp_path / "out").exists()


def test_colours_reach_the_model_as_red_green_blue(tmp_path: Path, models, labels) -> None:
    model = models("uint8", 3)
    expected = direct(model, COLOUR)
    assert (expected != direct(model, COLOUR[..., ::-1])).any()  # the model can tell the orders apart
    folder = tmp_path / "scan"
    folder.mkdir()
    for name in ("a.png", "b.bmp", "c.tif"):
        Image.fromarray(COLOUR).save(folder / name)
    for found in labels(model, folder):
        np.testing.assert_array_equal(found, expected)


def test_bmp_with_a_palette_from_white_to_black_is_not_inverted(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    image = Image.fromarray(255 - RAMP)
    image.putpalette([value for index in range(256) for value in (255 - index,) * 3])
    image.save(path)
    np.testing.assert_array_equal(read_image(path)[..., 0], RAMP)


def test_bmp_of_15_bits_and_rows_from_the_top_is_read(tmp_path: Path) -> None:
    pixels = np.array([[0x7C00, 0x03E0], [0x001F, 0x7FFF]], "<u2")  # red green / blue white
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 62, 0, 0, 54, 40, 2, -2, 1, 16, 0, 8, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(header + pixels.tobytes())
    expected = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), expected)


def test_several_pictures_in_one_jpeg_are_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(RAMP).save(content, format="MPO", save_all=True, append_images=[Image.fromarray(RAMP)])
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    assert "expected one image, found an animation of 2 frames" in refusal_of_image(tmp_path / "a.jpg")
