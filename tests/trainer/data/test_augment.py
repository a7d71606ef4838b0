"""Random crops: image and labels move alike, and only as much as was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from matseg_trainer.data.augment import Augmentation, augment
from matseg_trainer.data.examples import Example


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
