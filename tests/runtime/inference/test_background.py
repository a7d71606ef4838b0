"""Labels of constant regions are the network's own, whether it is asked for them once or every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.inference.background import find_background
from matseg_runtime.inference.session import Segmentation, Session
from matseg_runtime.inference.tiles import constant_tile_cache, segment_images
from matseg_shared.contract.metadata import TilingInfo
from matseg_shared.contract.tiling import smallest_tile

TILING = TilingInfo(stride=onnx_models.STRIDE, halo=onnx_models.HALO)
SMALLEST = smallest_tile(onnx_models.HALO, onnx_models.STRIDE)
TIE = 1e-5
Run = Callable[..., Result]
GROUND = 17


def islands(shape: tuple[int, int], count: int, seed: int, channels: int = 1) -> NDArray[np.uint8]:
    """(C, H, W): a constant ground with patches of noise, which may lie across each other or the border."""
    random = np.random.default_rng(seed)
    image = np.full((channels, *shape), GROUND, np.uint8)
    for _ in range(count):
        y, x = (int(random.integers(0, length)) for length in shape)
        patch = image[:, y : y + int(random.integers(1, 9)), x : x + int(random.integers(1, 30))]
        patch[...] = random.integers(0, 256, patch.shape)
    return image


def both_ways(
    session: Session, images: list[NDArray[np.uint8]], tile: tuple[int, int] | None, batch: int
) -> list[tuple[Segmentation, Segmentation]]:
    """With and without constant answers."""
    answers = constant_tile_cache(session, batch=batch, probabilities=True)
    spared = segment_images(
        session, images, tile=tile, batch=batch, probabilities=True, constant_tiles=answers
    )
    plain = segment_images(session, images, tile=tile, batch=batch, probabilities=True)
    return list(zip(spared, plain, strict=True))


@hypothesis_settings(max_examples=30)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 220), st.integers(1, 220)), min_size=1, max_size=3),
    tile=st.none() | st.tuples(st.integers(SMALLEST, 200), st.integers(SMALLEST, 200)),
    batch=st.integers(1, 3),
    count=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_sparing_the_network_changes_nothing(
    session: Session,
    shapes: list[tuple[int, int]],
    tile: tuple[int, int] | None,
    batch: int,
    count: int,
    seed: int,
) -> None:
    images = [islands(shape, count, seed + number) for number, shape in enumerate(shapes)]
    for spared, plain in both_ways(session, images, tile, batch):
        assert spared.probabilities is not None
        assert plain.probabilities is not None
        ordered = np.sort(plain.probabilities, axis=0)
        tied = ordered[-1] - ordered[-2] < TIE
        np.testing.assert_array_equal(spared.labels[~tied], plain.labels[~tied])
        np.testing.assert_allclose(spared.probabilities, plain.probabilities, atol=1e-5)
        assert plain.constant == 0
        assert spared.constant == plain.labels.size or count


class _Counting:
    """A session that counts what the network reads."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        real = Session.predict

        def predict(opened: Session, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
            self.shapes.append(crops.shape)
            return real(opened, crops)

        monkeypatch.setattr(Session, "predict", predict)
        self.session = session


def test_empty_slices_cost_one_call(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [islands((90, 70), 0, 0)] * 5
    expected = segment_images(session, images)[0].labels
    counting = _Counting(session, monkeypatch)
    answers = constant_tile_cache(session, batch=1, probabilities=False)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda image: segment_images(session, [image], constant_tiles=answers)[0], images)
        )
    assert counting.shapes == [(1, 1, 92, 72)]
    for result in found:
        np.testing.assert_array_equal(result.labels, expected)
        assert result.constant == 90 * 70
    found[0].labels[...] = 9
    np.testing.assert_array_equal(
        segment_images(session, images[:1], constant_tiles=answers)[0].labels, expected
    )


def test_only_the_content_and_two_halos_are_read(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((1, 400, 64), GROUND, np.uint8)
    image[:, 200:204, 10:20] = 200
    expected = segment_images(session, [image])[0].labels
    answers = constant_tile_cache(session, batch=1, probabilities=False)
    counting = _Counting(session, monkeypatch)
    result = segment_images(session, [image], constant_tiles=answers)[0]
    # 4 rows of content, 16 of halo on either side to write, 16 more to read: 68, in steps of an eighth: 104;
    # columns 8 to 20, to write 0 to 36, to read 0 to 52: 56
    assert counting.shapes == [(1, 1, 400, 64), (1, 1, 104, 56)]
    np.testing.assert_array_equal(result.labels, expected)
    assert result.constant == 400 * 64 - 36 * 36


def test_each_value_and_each_shape_has_its_own_answer(session: Session) -> None:
    images = [
        np.full((1, *shape), value, np.uint8) for value in (0, 90, 255) for shape in ((40, 52), (64, 36))
    ]
    expected = [result.labels for result in segment_images(session, images)]
    answers = constant_tile_cache(session, batch=2, probabilities=False)
    for _ in range(2):
        for image, labels in zip(images, expected, strict=True):
            found = segment_images(session, [image], batch=2, constant_tiles=answers)[0]
            np.testing.assert_array_equal(found.labels, labels)
            assert found.constant == labels.size


def test_colour_is_constant_only_in_all_channels(tmp_path: Path) -> None:
    path = onnx_models.save_model(tmp_path / "m.onnx", channels=3)
    colour = Session.open(path, provider="cpu", threads=1)
    image = np.empty((3, 44, 44), np.uint8)
    image[:] = np.array([3, 100, 200], np.uint8)[:, None, None]
    image[2, 30, 9] = 0
    almost = image.copy()
    image[2, 30, 9] = 200
    for (spared, plain), expected in zip(
        both_ways(colour, [image, almost], None, 1), (44 * 44, 0), strict=True
    ):
        np.testing.assert_array_equal(spared.labels, plain.labels)
        assert spared.constant == expected


def test_nothing_is_spared_where_it_would_not_pay() -> None:
    noise = onnx_models.random_pixels((1, 64, 64), "uint8", 3)
    assert find_background(noise, TILING, whole_only=False) is None
    content = np.full((1, 64, 64), GROUND, np.uint8)
    content[:, 30, 30] = 0  # 4 pixels of content with two halos of 16 on either side are the whole
    assert find_background(content, TILING, whole_only=False) is None


def test_providers_that_build_for_each_shape_spare_whole_tiles_only() -> None:
    image = np.full((1, 400, 64), GROUND, np.uint8)
    found = find_background(image, TILING, whole_only=True)
    assert found is not None
    assert found.foreground is None
    image[:, 200, 10] = 200
    assert find_background(image, TILING, whole_only=True) is None
    assert find_background(image, TILING, whole_only=False) is not None


@pytest.mark.parametrize("place", [(0, 0), (399, 0), (0, 63), (399, 63), (200, 30)])
def test_what_is_read_lies_on_the_stride_grid(place: tuple[int, int]) -> None:
    image = np.full((1, 400, 64), GROUND, np.uint8)
    image[:, place[0], place[1]] = 0
    found = find_background(image, TILING, whole_only=False)
    assert found is not None
    assert found.foreground is not None
    read, write = found.foreground.read, found.foreground.write
    assert all(edge % TILING.stride == 0 for edge in (read.y0, read.x0, read.y1, read.x1))
    assert read.common(write) == write
    assert write.y0 <= place[0] < write.y1
    assert write.x0 <= place[1] < write.x1


def test_a_run_reports_what_was_constant(run: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    images = [
        islands((40, 52), 0, 0),
        islands((40, 52), 0, 0),
        onnx_models.random_pixels((1, 40, 52), "uint8"),
    ]
    for number, image in enumerate(images):
        Image.fromarray(image[0]).save(folder / f"s{number}.png")
    result = run(model, folder, "-o", tmp_path / "skipped")
    assert result.exit_code == 0
    assert "66.7% of the pixels needed no network: constant regions" in result.output
    assert run(model, folder, "-o", tmp_path / "all", "--no-skip-constant").exit_code == 0
    for number in range(len(images)):
        labels = [np.array(Image.open(tmp_path / kind / f"s{number}.png")) for kind in ("skipped", "all")]
        np.testing.assert_array_equal(*labels)
    reports = [json.loads((tmp_path / kind / "report.json").read_text()) for kind in ("skipped", "all")]
    assert [report["constant_pixels"] for report in reports] == [2 * 40 * 52, 0]
    assert [report["provenance"]["skip_constant"] for report in reports] == [True, False]
    again = run(model, folder, "-o", tmp_path / "all")
    assert again.exit_code == 2
    assert "skip constant: False then, True now" in again.output
