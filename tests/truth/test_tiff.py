"""TIFF: whatever the layout of the file, the pixels as they are meant, or a refusal; alone and in a stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from ways_in import direct, refusal, refusal_of_image, stored

from matseg_shared.images.read import read_image, read_stored

VOLUME = np.random.default_rng(0).integers(0, 256, (6, 24, 32), dtype=np.uint8)
GREY = VOLUME[0]
COLOUR = np.moveaxis(VOLUME[:3], 0, -1)
LUT = np.stack([np.arange(256)] * 3).astype(np.uint16)
"""A grey colour map, not yet in 16 bits."""


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", **options})
    return path


def retag(path: Path, **tags: int) -> Path:
    """Change the first page's tags in place."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name, value in tags.items():
            tiff.pages.first.tags[name].overwrite(value)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 5},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "predictor": True, "byteorder": ">"},
        {"compression": "zstd", "tile": (16, 16), "bigtiff": True},
    ],
    ids=["big-endian", "bigtiff", "tiled", "strips", "predictor", "lzw", "zstd"],
)
def test_tiff_layouts_give_the_same_pixels(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    if "compression" in options:
        pytest.importorskip("imagecodecs", reason="the extra compressed-tiff is not installed")
    stack = VOLUME.astype(dtype) * np.dtype(dtype).type(3)
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.tif", stack[0], **options)), stack[0])
    np.testing.assert_array_equal(stored(write(tmp_path / "stack.tif", stack, **options)), stack)
    np.testing.assert_array_equal(stored(tmp_path / "stack.tif")[0], stored(tmp_path / "a.tif")[0])


def test_tiff_of_big_endian_16_bit_reaches_the_model_right(tmp_path: Path, models, labels) -> None:
    deep = VOLUME.astype(np.uint16) * 257
    path = write(tmp_path / "stack.tif", deep, byteorder=">")
    for found, image in zip(labels(models("uint16"), path), deep, strict=True):
        np.testing.assert_array_equal(found, direct(models("uint16"), image))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_colour_planes_one_after_the_other_or_interleaved(tmp_path: Path, planar: Any) -> None:
    pixels = COLOUR if planar == "contig" else np.moveaxis(COLOUR, -1, 0)
    path = write(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_image(path), COLOUR)
    np.testing.assert_array_equal(stored(path), COLOUR[np.newaxis])


@pytest.mark.parametrize("space", [4, 5, 6, 8, 9, 10, 32803, 32844, 32845, 34892])
def test_tiff_of_another_colour_space_is_refused(tmp_path: Path, space: int) -> None:
    single = space in (4, 32803, 32844)
    pixels, kind = (GREY, "minisblack") if single else (COLOUR, "rgb")
    path = retag(write(tmp_path / "a.tif", pixels, photometric=kind), PhotometricInterpretation=space)
    assert "found the colour space" in refusal_of_image(path)
    assert "found the colour space" in refusal(path)


def test_tiff_cmyk_with_full_black_does_not_pass_for_opaque_rgb(tmp_path: Path) -> None:
    inks = np.concatenate([COLOUR, np.full((24, 32, 1), 255, np.uint8)], axis=-1)
    assert "SEPARATED" in refusal_of_image(write(tmp_path / "a.tif", inks, photometric="separated"))


def test_tiff_with_jpeg_in_ycbcr_is_decoded_to_rgb(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="the extra compressed-tiff is not installed")
    flat = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    path = write(tmp_path / "a.tif", flat, photometric="rgb", compression="jpeg", subsampling=(1, 1))
    assert np.abs(read_image(path).astype(int) - flat).max() <= 2


@pytest.mark.parametrize(("bits", "step"), [(2, 85), (4, 17)])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff_of_few_bits_is_spread_over_8(tmp_path: Path, bits: int, step: int, white_is_zero: bool) -> None:
    values = np.arange(16) % (1 << bits)
    packed = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(2 * bits, "big")
    photometric = "miniswhite" if white_is_zero else "minisblack"
    path = write(tmp_path / "a.tif", np.frombuffer(packed, np.uint8)[np.newaxis], photometric=photometric)
    retag(path, BitsPerSample=bits, ImageWidth=16)
    expected = 255 - values * step if white_is_zero else values * step
    np.testing.assert_array_equal(read_image(path), [expected])


def test_tiff_of_one_bit_is_black_and_white(tmp_path: Path) -> None:
    mask = GREY > 100
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.tif", mask)), np.where(mask, 255, 0))
    path = write(tmp_path / "b.tif", mask, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path), np.where(mask, 0, 255))


def test_tiff_of_bits_that_cannot_be_spread_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="the extra compressed-tiff is not installed")
    path = retag(write(tmp_path / "a.tif", np.zeros((1, 6), np.uint8)), BitsPerSample=6, ImageWidth=8)
    assert "has 6 bits per pixel, which cannot be spread over 8" in refusal_of_image(path)


def test_tiff_of_12_bits_keeps_the_camera_s_counts(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="the extra compressed-tiff is not installed")
    counts = GREY.astype(np.uint16) * 16 + 7
    packed = write(tmp_path / "packed.tif", counts, bitspersample=12)
    wide = write(tmp_path / "wide.tif", counts)
    np.testing.assert_array_equal(read_image(packed), counts)
    np.testing.assert_array_equal(read_image(wide), counts)


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_tiff_white_is_zero_of_signed_or_real_pixels_is_refused(tmp_path: Path, dtype: str) -> None:
    path = retag(write(tmp_path / "a.tif", GREY.astype(dtype)), PhotometricInterpretation=0)
    assert f"says of its {dtype} pixels that zero is white" in refusal_of_image(path)


def test_tiff_white_is_zero_is_put_right_on_the_way_to_the_model(tmp_path: Path, models, labels) -> None:
    path = write(tmp_path / "stack.tif", VOLUME, photometric="miniswhite")
    for found, image in zip(labels(models(), path), VOLUME, strict=True):
        np.testing.assert_array_equal(found, direct(models(), 255 - image))


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_colour_map_of_8_or_16_bits_gives_the_same_colours(tmp_path: Path, bits: int) -> None:
    lut = LUT if bits == 8 else LUT * 257
    path = write(tmp_path / "a.tif", GREY, photometric="palette", colormap=lut)
    np.testing.assert_array_equal(read_image(path), np.stack([GREY] * 3, axis=-1))
    stack = write(tmp_path / "stack.tif", VOLUME, photometric="palette", colormap=lut)
    np.testing.assert_array_equal(stored(stack)[..., 1], VOLUME)


def test_tiff_palette_of_one_bit_keeps_its_colours(tmp_path: Path) -> None:
    path = retag(write(tmp_path / "a.tif", GREY > 100), PhotometricInterpretation=3)
    assert "says that it has a palette and holds none" in refusal_of_image(path)
    lut = np.array([[9, 200]] * 3, np.uint16) * 257
    tifffile.imwrite(
        tmp_path / "b.tif", GREY > 100, photometric="minisblack", extratags=[(320, "H", 6, lut.ravel(), True)]
    )
    found = read_stored(retag(tmp_path / "b.tif", PhotometricInterpretation=3))
    np.testing.assert_array_equal(found.pixels, GREY > 100)
    assert found.palette == ((9, 9, 9), (200, 200, 200))


def test_tiff_alpha_is_dropped_where_opaque_and_refused_where_not(tmp_path: Path) -> None:
    for kind in ("ASSOCALPHA", "UNASSALPHA"):
        opaque = np.concatenate([COLOUR, np.full((24, 32, 1), 255, np.uint8)], axis=-1)
        path = write(tmp_path / f"{kind}.tif", opaque, photometric="rgb", extrasamples=[kind])
        np.testing.assert_array_equal(read_image(path), COLOUR)
        opaque[5, 6, 3] = 254
        write(path, opaque, photometric="rgb", extrasamples=[kind])
        assert "has transparent pixels" in refusal_of_image(path)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_tiff_rotated_by_its_tag_is_refused(tmp_path: Path, orientation: int) -> None:
    tag = [(274, "H", 1, orientation, True)]
    path = write(tmp_path / "a.tif", GREY, extratags=tag)
    assert f"carries a rotation flag (orientation {orientation})" in refusal_of_image(path)
    stack = write(tmp_path / "stack.tif", VOLUME, extratags=tag)
    assert f"a rotation flag (orientation {orientation})" in refusal(stack)
    assert f"a rotation flag (orientation {orientation})" in refusal(stack, axis=1)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "palette", "colormap": LUT * 257},
        {"photometric": "miniswhite"},
        {"compression": "zlib"},
    ],
    ids=["palette", "white-is-zero", "compressed"],
)
def test_tiff_is_cut_along_another_axis_only_where_its_bytes_are_its_pixels(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    plain = write(tmp_path / "plain.tif", VOLUME)
    np.testing.assert_array_equal(stored(plain, axis=2), np.moveaxis(VOLUME, 2, 0))
    message = refusal(write(tmp_path / "a.tif", VOLUME, **options), axis=1)
    assert "plain grey or RGB pixels" in message or "only an uncompressed stack" in message


@pytest.mark.parametrize("imagej", [True, False])
@pytest.mark.parametrize(
    ("axes", "shape", "told"),
    [
        ("ZCYX", (3, 2, 24, 32), "holds 2 channels of each slice"),
        ("ZCYX", (2, 3, 24, 32), "holds 3 channels of each slice"),
        ("CYX", (6, 24, 32), "holds 6 pages that are called channels of one image"),
        ("TZYX", (2, 3, 24, 32), "expected one image or one volume, found the axes T 2, Z 3, Y 24, X 32"),
    ],
)
def test_tiff_hyperstack_of_channels_or_times_is_refused(
    tmp_path: Path, imagej: bool, axes: str, shape: tuple[int, ...], told: str
) -> None:
    name = "a.tif" if imagej else "a.ome.tif"
    path = write(tmp_path / name, VOLUME.reshape(shape), imagej=imagej, metadata={"axes": axes})
    assert told in refusal(path)
    if axes == "CYX":
        np.testing.assert_array_equal(stored(path, axis=0), VOLUME)


@pytest.mark.parametrize("kind", ["imagej", "ome", "one page", "three pages"])
def test_tiff_stacks_of_fiji_and_ome_are_volumes(tmp_path: Path, kind: str) -> None:
    path, axes = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif"), {"metadata": {"axes": "ZYX"}}
    volume = VOLUME[:3] if kind == "three pages" else VOLUME
    options = {
        "imagej": {"imagej": True, **axes},
        "ome": axes,
        "one page": {"imagej": True, "truncate": True, **axes},
    }
    write(path, volume, **options.get(kind, {}))
    np.testing.assert_array_equal(stored(path), volume)
    many = np.concatenate([VOLUME, VOLUME])
    np.testing.assert_array_equal(
        stored(write(path, many, imagej=kind != "ome")), many
    )  # pages called channels
    rgb = np.stack([VOLUME, VOLUME[::-1], 255 - VOLUME], axis=-1)
    if kind == "imagej":
        write(path, rgb, imagej=True, photometric="rgb", metadata={"axes": "ZYXS"})
        np.testing.assert_array_equal(stored(path), rgb)


def test_tiff_of_ome_whose_planes_are_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", VOLUME, metadata={"axes": "ZYX"})
    content = path.read_bytes()
    assert b'SizeZ="6"' in content
    path.write_bytes(content.replace(b'SizeZ="6"', b'SizeZ="7"'))
    assert "names planes that are in other files, in another order or nowhere" in refusal(path)


def test_tiff_of_ome_with_one_plane_in_each_file_is_a_folder_of_images(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="the extra compressed-tiff is not installed")
    template = write(tmp_path / "whole.ome.tif", VOLUME, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(template) as tiff:
        document = tiff.ome_metadata or ""
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="s{z}.ome.tif">urn:uuid:0{z}</UUID></TiffData>'
        for z in range(6)
    )
    start, end = document.index("<TiffData"), document.index("</Pixels>")
    template.unlink()
    for number, page in enumerate(VOLUME):
        write(
            tmp_path / f"s{number}.ome.tif",
            page,
            description=document[:start] + planes + document[end:],
            metadata=None,
        )
    np.testing.assert_array_equal(stored(tmp_path), VOLUME)
    assert "names planes that are in other files" in refusal(tmp_path / "s2.ome.tif")


def test_tiff_display_range_and_calibration_of_imagej_change_no_value(tmp_path: Path) -> None:
    deep = VOLUME.astype(np.uint16) * 100
    metadata = {
        "axes": "ZYX",
        "min": 300.0,
        "max": 900.0,
        "Ranges": (300.0, 900.0),
        "cf": 0,
        "c0": -32768.0,
        "c1": 1.0,
    }
    np.testing.assert_array_equal(
        stored(write(tmp_path / "a.tif", deep, imagej=True, metadata=metadata)), deep
    )


def test_tiff_pyramid_is_read_at_full_size_and_a_thumbnail_is_no_slice(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY, subifds=1, photometric="minisblack", metadata=None)
        writer.write(GREY[::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(read_image(path), GREY)
    np.testing.assert_array_equal(stored(path), GREY[np.newaxis])
    path = tmp_path / "thumbnail.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY, photometric="minisblack", metadata=None)
        writer.write(GREY[::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(read_image(path), GREY)
    np.testing.assert_array_equal(stored(path), GREY[np.newaxis])


def test_tiff_page_unlike_the_others_is_not_taken_for_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for odd in ({"photometric": "miniswhite"}, {"extratags": [(274, "H", 1, 3, True)]}, {"dtype": np.uint16}):
        with tifffile.TiffWriter(path) as writer:
            for number, page in enumerate(VOLUME):
                options = {"photometric": "minisblack", **(odd if number == 3 else {})}
                dtype = options.pop("dtype", np.uint8)
                writer.write(page.astype(dtype), metadata=None, contiguous=False, **options)
        assert "found 2 series" in refusal(path) or "rotation flag" in refusal(path)
