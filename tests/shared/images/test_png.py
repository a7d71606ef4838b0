"""Label PNGs are read by other readers as they were written."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from matseg_shared.images.palette import default_colours
from matseg_shared.images.png import write_label_png


def _written(indices: np.ndarray, n_class: int, text: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    write_label_png(stream, indices, default_colours(n_class), text)
    return stream.getvalue()


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 40),
    n_class=st.sampled_from([1, 2, 3, 4, 5, 16, 17, 255]),
    seed=st.integers(0, 9),
)
def test_pillow_and_libpng_read_the_same_indices(height: int, width: int, n_class: int, seed: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    indices = np.random.default_rng(seed).integers(0, n_class, (height, width)).astype(np.uint8)
    content = _written(indices, n_class)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), indices)
        assert image.getpalette() == [channel for colour in default_colours(n_class) for channel in colour]
    colours = np.asarray(default_colours(n_class), np.uint8)
    np.testing.assert_array_equal(imagecodecs.png_decode(content)[..., :3], colours[indices])


@pytest.mark.parametrize(("n_class", "bits"), [(2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8)])
def test_no_more_bits_than_the_palette_needs(n_class: int, bits: int) -> None:
    content = _written(np.zeros((8, 8), np.uint8), n_class)
    assert content[24] == bits
    assert len(zlib.decompress(_chunk(content, b"IDAT"))) == 8 * (1 + bits)


def test_text_is_kept_beside_the_pixels() -> None:
    value = '{"pixel size": "0.5 µm"}'
    with Image.open(io.BytesIO(_written(np.eye(5, dtype=np.uint8), 2, {"matseg": value}))) as image:
        image.load()
        assert image.text == {"matseg": value}  # type: ignore[attr-defined]


def test_memory_order_does_not_matter() -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for view in (indices.T, indices[::-1], indices[:, ::2]):
        with Image.open(io.BytesIO(_written(view, 12))) as image:
            np.testing.assert_array_equal(np.array(image), view)


def test_an_index_without_a_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="index 2 has none of the 2 colours"):
        _written(np.array([[0, 2]], np.uint8), 2)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_image_without_pixels_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        _written(np.zeros(shape, np.uint8), 2)


def _chunk(content: bytes, kind: bytes) -> bytes:
    start = content.index(kind)
    length = int.from_bytes(content[start - 4 : start], "big")
    return content[start + 4 : start + 4 + length]
