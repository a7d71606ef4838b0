"""Statistics of a training set, gathered before the first epoch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tifffile

from matseg_shared.contract.classes import UNLABELLED
from matseg_trainer.data import examples
from matseg_trainer.data.examples import Examples
from matseg_trainer.data.folder import Sample
from matseg_trainer.data.statistics import SplitStatistics, representative_crop


def saved_examples(folder: Path, images: list[np.ndarray]) -> Examples:
    """Images (H, W, 3) as TIFF files with labels that are all of the first class."""
    samples = []
    for number, pixels in enumerate(images):
        sample = Sample(image=folder / f"{number}.tif", labels=folder / f"{number}.npy")
        tifffile.imwrite(sample.image, pixels, photometric="rgb")
        np.save(sample.labels, np.zeros(pixels.shape[:2], np.uint8))
        samples.append(sample)
    return Examples(samples, n_class=2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_normalisation_is_that_of_all_pixels(dtype: str, tmp_path: Path) -> None:
    """Images of several sizes; far from zero; a channel that is constant is not divided by a rounding."""
    rng = np.random.default_rng(0)
    images = []
    for shape in ((20, 31, 3), (7, 5, 3)):
        pixels = rng.integers(0, 200, shape).astype(dtype)
        pixels[..., 1] = 0.1 if dtype == "float32" else 37
        if dtype == "float32":
            pixels[..., 2] = 30_000_000 + 2 * pixels[..., 2]
        images.append(pixels)
    everything = np.concatenate([pixels.reshape(-1, 3) for pixels in images]).T.astype(np.float64)
    info = SplitStatistics(saved_examples(tmp_path, images), 2).input_info()
    np.testing.assert_allclose(info.mean, everything.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(info.std, [everything[0].std(), 1.0, everything[2].std()], rtol=1e-9)
    expected = np.histogram(everything, bins=256, range=(everything.min(), everything.max()))[0]
    assert info.histogram.counts == tuple(expected.tolist())


@pytest.mark.parametrize(("dtype", "passes"), [("uint8", 1), ("float32", 2)])
def test_images_beyond_the_cache_are_read_once_before_the_first_step(
    dtype: str, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice where they are float: the bins of the histogram need the whole range."""
    monkeypatch.setattr(examples, "CACHE_BYTES", 0)
    reads: list[Path] = []
    read = examples.read_image
    monkeypatch.setattr(examples, "read_image", lambda path, *_: (reads.append(path), read(path))[1])
    images = [np.random.default_rng(n).integers(0, 200, (40, 40, 3)).astype(dtype) for n in range(3)]
    beyond = saved_examples(tmp_path, images)
    statistics = SplitStatistics(beyond, 2)
    statistics.input_info()
    assert len(reads) == 3 * passes
    reads.clear()
    representative_crop(beyond, statistics.shapes, 16)
    assert len(reads) == len(set(reads))


def test_unlabelled_pixels_are_in_no_share_and_the_chosen_crop_has_labels(tmp_path: Path) -> None:
    beyond = saved_examples(tmp_path, [np.full((300, 300, 3), n, np.uint8) for n in range(2)])
    labels = np.full((300, 300), UNLABELLED, np.uint8)
    labels[100, 100:200] = 0
    labels[120, 100:150] = 1
    np.save(beyond.samples[0].labels, labels)
    labels[100] = UNLABELLED
    np.save(beyond.samples[1].labels, labels)
    samples = [dataclasses.replace(sample, unlabelled=True) for sample in beyond.samples]
    partly = Examples(samples, n_class=2)
    statistics = SplitStatistics(partly, 2)
    assert statistics.class_shares.tolist() == [0.5, 0.5]
    assert statistics.labelled_share == pytest.approx(200 / 180_000)
    crop = representative_crop(partly, statistics.shapes, 16)
    assert crop.max() == 0, "both classes are labelled in the first image only"
