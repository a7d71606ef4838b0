"""Tiled equals whole, whatever the size of image, tile and batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segmenting import segment_image

from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import segment_images
from matseg_shared.contract.tiling import smallest_tile
from matseg_shared.errors import UsageError

SMALLEST = smallest_tile(onnx_models.HALO, onnx_models.STRIDE)
TIE = 1e-5


def _assert_equal_but_for_ties(
    found: NDArray[np.uint8], expected: NDArray[np.uint8], probabilities: NDArray[np.float32]
) -> None:
    ordered = np.sort(probabilities, axis=0)
    tied = ordered[-1] - ordered[-2] < TIE
    np.testing.assert_array_equal(found[~tied], expected[~tied])


@hypothesis_settings(max_examples=40)
@given(
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    tile=st.tuples(st.integers(SMALLEST, 90), st.integers(SMALLEST, 90)),
    batch=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_tiled_equals_whole(
    session: Session, height: int, width: int, tile: tuple[int, int], batch: int, seed: int
) -> None:
    image = onnx_models.random_pixels((1, height, width), "uint8", seed)
    whole, probabilities = segment_image(session, image, probabilities=True)
    assert whole.shape == (height, width)
    assert whole.dtype == np.uint8
    tiled, tiled_probabilities = segment_image(session, image, tile=tile, batch=batch, probabilities=True)
    _assert_equal_but_for_ties(tiled, whole, probabilities)
    np.testing.assert_allclose(tiled_probabilities, probabilities, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 3), (4, 4), (33, 61)])
def test_whole_equals_the_bare_graph_on_the_padded_image(
    session: Session, expected: Callable[[NDArray[Any]], NDArray[np.uint8]], shape: tuple[int, int]
) -> None:
    image = onnx_models.random_pixels(shape, "uint8", 1)
    np.testing.assert_array_equal(segment_image(session, image[np.newaxis]), expected(image))


def test_two_threads_give_what_one_gives(model: Path, session: Session) -> None:
    image = onnx_models.random_pixels((1, 203, 171), "uint8", 2)
    two = Session.open(model, provider="cpu", threads=2)
    whole, probabilities = segment_image(session, image, probabilities=True)
    _assert_equal_but_for_ties(segment_image(two, image, tile=(64, 48)), whole, probabilities)


@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (1, "uint16"), (3, "float32")])
def test_other_inputs_tile_exactly_too(tmp_path: Path, channels: int, dtype: str) -> None:
    path = onnx_models.save_model(tmp_path / "m.onnx", channels=channels, dtype=dtype)
    other = Session.open(path, provider="cpu", threads=1)
    image = onnx_models.random_pixels((channels, 90, 101), dtype, 4)
    whole, probabilities = segment_image(other, image, probabilities=True)
    _assert_equal_but_for_ties(segment_image(other, image, tile=(48, 64), batch=3), whole, probabilities)


def test_a_halo_that_is_too_small_is_noticed(tmp_path: Path) -> None:
    """The property test above can fail: with half of the true halo it would."""
    from matseg_shared.contract.onnx_properties import encode

    graph = onnx_models.build_graph()
    metadata = onnx_models.build_metadata()
    metadata = metadata.model_copy(update={"tiling": metadata.tiling.model_copy(update={"halo": 0})})
    path = onnx_models.save(
        graph, encode(metadata, onnx_models.self_test_of(graph, 1, "uint8")), tmp_path / "m.onnx"
    )
    wrong = Session.open(path, provider="cpu", threads=1)
    image = onnx_models.random_pixels((1, 128, 128), "uint8", 5)
    assert (segment_image(wrong, image, tile=(32, 32)) != segment_image(wrong, image)).any()


def test_images_share_batches(session: Session) -> None:
    images = [onnx_models.random_pixels((1, 40, 44 if n != 2 else 60), "uint8", n) for n in range(5)]
    together = segment_images(session, images, batch=3)
    for image, result in zip(images, together, strict=True):
        np.testing.assert_array_equal(result.labels, segment_image(session, image))
        assert result.probabilities is None


def test_a_tile_without_room_for_the_halo_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="too small"):
        segment_image(session, np.zeros((1, 100, 100), np.uint8), tile=(32, 32))
