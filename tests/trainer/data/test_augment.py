"""Random crops: image and labels move alike, and only as much as was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from matseg_trainer.data.augment import Augmentation, augment
from matseg_trainer.data.examples import IGNORED, Example


@pytest.mark.parametrize("crop", [None, 24])
def test_augmentation_moves_image_and_labels_alike(crop: int | None) -> None:
    """An image that is its own label map stays that, up to interpolation at the edges of objects."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 2, (6, 6)), np.ones((8, 8))).astype(np.uint8)
    seen = set()
    for _ in range(40):
        whole = Example(pixels=(labels * 200)[np.newaxis], labels=labels)
        view = augment(whole, rng, Augmentation(crop=crop, turn=True, warp=True))
        assert set(np.unique(view.labels)) <= {0, 1}
        assert np.mean((view.pixels[0] > 100) != (view.labels == 1)) < 0.03
        seen.add(view.labels.tobytes())
    assert len(seen) > 20


@pytest.mark.parametrize("crop", [None, 33])
@pytest.mark.parametrize("axis", [0, 1])
def test_interpolation_hits_the_label_s_own_pixel(crop: int | None, axis: int) -> None:
    """Pixels that tell their own place, labels the same: a view half a pixel off would round to others."""
    place = np.indices((60, 80))[axis]
    whole = Example(pixels=place[np.newaxis].astype(np.float32), labels=place.astype(np.uint8))
    rng = np.random.default_rng(5)
    warped = 0
    for _ in range(30):
        view = augment(whole, rng, Augmentation(crop=crop, turn=True, warp=True))
        inside = (view.labels > 0) & (view.labels < place.max())  # beyond the image's border it is reflected
        apart = (view.pixels[0] - view.labels)[inside]
        assert np.abs(apart).max() <= 0.5 + 1e-3
        assert abs(apart.mean()) < 0.05
        warped += bool(np.abs(apart).max() > 0.4)
    assert 5 < warped < 25


def test_without_augmentation_pixels_are_untouched() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65535, (1, 40, 40), dtype=np.uint16)
    whole = Example(pixels=pixels, labels=pixels[0].astype(np.uint8))
    view = augment(whole, rng, Augmentation(crop=16))
    assert view.pixels.dtype == np.uint16
    assert view.pixels.shape == (1, 16, 16)
    assert (view.pixels[0].astype(np.uint8) == view.labels).all()


@pytest.mark.parametrize("place", [(0, 0), (59, 59), (30, 7)])
def test_focused_crops_hold_the_rare_class(place: tuple[int, int]) -> None:
    """One labelled pixel in 3600: nearly half of the focused crops hold it, few of the others do."""
    labels = np.zeros((60, 60), np.uint8)
    labels[place] = 1
    whole = Example(pixels=labels[np.newaxis], labels=labels)
    rng = np.random.default_rng(0)

    def hits(share: float) -> int:
        views = (augment(whole, rng, Augmentation(crop=16, oversample_classes=share)) for _ in range(200))
        return sum(int(view.labels.any()) for view in views)

    assert hits(1.0) > 80
    assert hits(0.0) < 40


def test_turns_leave_every_pixel_as_it_is() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.permutation(1600).reshape(1, 40, 40).astype(np.uint16)
    whole = Example(pixels=pixels, labels=(pixels[0] % 7).astype(np.uint8))
    views = [augment(whole, rng, Augmentation(turn=True)) for _ in range(40)]
    for view in views:
        assert view.pixels.dtype == np.uint16
        assert (np.sort(view.pixels.ravel()) == np.arange(1600)).all()
        assert (view.labels == view.pixels[0] % 7).all()
    assert len({view.pixels.tobytes() for view in views}) == 8  # the symmetries of a square


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_crops_of_a_partly_labelled_image_are_drawn_where_its_labels_are(share: float) -> None:
    """Ten labelled pixels of 90,000: each crop has one at least, turned and warped or not."""
    labels = np.full((300, 300), IGNORED, np.uint8)
    rng = np.random.default_rng(3)
    labels[tuple(rng.integers(0, 300, (2, 8)))] = 0
    labels[0, 0] = labels[299, 5] = 1
    whole = Example(pixels=labels[np.newaxis], labels=labels)
    options = Augmentation(crop=32, turn=True, warp=True, oversample_classes=share)
    views = [augment(whole, rng, options) for _ in range(200)]
    assert all((view.labels != IGNORED).any() for view in views)
    assert {value for view in views for value in np.unique(view.labels)} == {0, 1, IGNORED}
    twice = [augment(whole, np.random.default_rng(7), options).labels for _ in range(2)]
    assert (twice[0] == twice[1]).all()


def test_nothing_is_labelled_outside_of_a_partly_labelled_image() -> None:
    """A fully labelled image is reflected at its border; where a part has no label, nor has what lies outside."""
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 40), np.uint8)
    options, seeds = Augmentation(warp=True), range(40)

    def views() -> list[Example]:
        whole = Example(pixels=np.full((1, 40, 40), 7, np.uint8), labels=labels)
        return [augment(whole, np.random.default_rng(seed), options) for seed in seeds]

    assert all(not view.labels.any() for view in views())
    labels[20, 20] = IGNORED
    shares = [np.mean(view.labels == IGNORED) for view in views()]
    assert max(shares) > 0.1  # some are made smaller, with the outside all around
    assert all(np.allclose(view.pixels, 7) for view in views())
    labels[rng.random(labels.shape) < 0.5] = IGNORED
    labels[rng.random(labels.shape) < 0.2] = 1
    assert {value for view in views() for value in np.unique(view.labels)} == {0, 1, IGNORED}


def test_elastic_warps_move_image_and_labels_alike() -> None:
    place = np.indices((96, 96))[0]
    whole = Example(pixels=place[np.newaxis].astype(np.float32), labels=place.astype(np.uint8))
    rng = np.random.default_rng(2)
    moved = 0
    for _ in range(20):
        view = augment(whole, rng, Augmentation(crop=48, elastic=6.0))
        inside = (view.labels > 0) & (view.labels < place.max())
        assert np.abs((view.pixels[0] - view.labels)[inside]).max() <= 0.5 + 1e-3
        bent = np.diff(view.pixels[0], axis=1)[
            inside[:, 1:]
        ]  # rows of the source stay rows unless they are bent
        moved += bool(np.abs(bent).max() > 0.01)
    assert 4 < moved < 16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_values_change_as_much_as_was_asked(dtype: type) -> None:
    """Mean and contrast move within the bounds, labels and place do not, integers keep their range."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(100, 20, (2, 64, 64)).astype(dtype)
    whole = Example(pixels=pixels, labels=(pixels[0] > 100).astype(np.uint8))
    spread = pixels.std(axis=(1, 2))
    brightness, contrast = [], []
    for _ in range(60):
        view = augment(whole, rng, Augmentation(intensity=0.5))
        assert view.pixels.dtype == np.float32
        assert (view.labels == whole.labels).all()
        brightness.append((view.pixels.mean(axis=(1, 2)) - pixels.mean(axis=(1, 2))) / spread)
        contrast.append(np.log(view.pixels.std(axis=(1, 2)) / spread))
    for drawn in (brightness, contrast):
        assert 0.4 < np.abs(drawn).max() < 0.51


def test_blur_smooths_and_noise_roughens() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(100, 20, (1, 128, 128)).astype(np.float32)
    whole = Example(pixels=pixels, labels=np.zeros((128, 128), np.uint8))
    blurred = [augment(whole, rng, Augmentation(blur=2.0)).pixels.std() for _ in range(20)]
    assert min(blurred) < 5
    assert max(blurred) <= pixels.std() + 0.1
    added = [np.std(augment(whole, rng, Augmentation(noise=0.5)).pixels - pixels) for _ in range(20)]
    assert 8 < max(added) < 10.5
    assert min(added) < 3
    dark = Example(pixels=np.zeros((1, 32, 32), np.uint8), labels=np.zeros((32, 32), np.uint8))
    dark.pixels[0, :16] = 255
    noisy = augment(dark, rng, Augmentation(noise=1.0)).pixels
    assert noisy.min() == 0
    assert noisy.max() == 255
