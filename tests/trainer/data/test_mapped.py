"""Images that do not fit into memory: decoded once, mapped from files, and the same as from memory."""

from __future__ import annotations

import errno
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from matseg_runtime.source.transform import NoDataOptions
from matseg_shared.errors import DatasetError, OutputError
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data import examples, mapped
from matseg_trainer.data.class_positions import ClassPositions
from matseg_trainer.data.dataset import Batch, Step, TrainingBatches
from matseg_trainer.data.examples import Examples
from matseg_trainer.data.folder import Sample
from matseg_trainer.data.statistics import SplitStatistics

KINDS = ("grey.png", "colour.png", "plain.tif", "plain_colour.tif", "packed.tif", "white_is_zero.tif")


def saved(folder: Path, name: str) -> Sample:
    """One image with labels; some grey, some of three channels."""
    rng = np.random.default_rng(len(name))
    path = folder / name
    pixels = rng.integers(0, 200, (40, 52, 3) if "colour" in name else (40, 52), dtype=np.uint8)
    if name.endswith(".png"):
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(
            path,
            pixels,
            photometric="rgb" if "colour" in name else "miniswhite" if "white" in name else "minisblack",
            compression="zlib" if "packed" in name else None,
        )
    np.save(path.with_suffix(".npy"), rng.integers(0, 2, (40, 52), dtype=np.uint8))
    return Sample(image=path, labels=path.with_suffix(".npy"))


@pytest.mark.parametrize("name", KINDS)
def test_a_mapped_image_is_the_image_in_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = saved(tmp_path, name)
    reads: list[Path] = []
    read = examples.read_image
    monkeypatch.setattr(examples, "read_image", lambda path, *_: (reads.append(path), read(path))[1])
    in_memory = Examples([sample], n_class=2)
    in_files = Examples([sample], n_class=2, decoded=tmp_path / "decoded", in_memory=False)
    _ = in_memory[0], in_files[0]
    elsewhere = pickle.loads(pickle.dumps(in_files))
    reads.clear()
    config = VersionConfig.model_validate(
        {"model": "unet", "n_class": 2, "crop": 16, "aug": True, "oversample_classes": 0.5}
    )
    for step in (Step(1, [0, 1, 2, 3]), Step(2, [0, 1])):
        expected = TrainingBatches(in_memory, config, seed=1, stride=16)[step]
        for found in (in_files, elsewhere):
            batch = TrainingBatches(found, config, seed=1, stride=16)[step]
            assert isinstance(batch, Batch)
            assert isinstance(expected, Batch)
            assert all(map(torch.equal, expected, batch))
    assert reads == [], "each was decoded once"
    in_place = name.startswith("plain")
    assert bool(in_files.decoded_sizes) != in_place
    assert (tmp_path / "decoded").exists() != in_place, "label arrays and plain TIFFs stay where they are"


def test_no_data_are_filled_in_our_own_files_alone(tmp_path: Path) -> None:
    sample = saved(tmp_path, "plain.tif")
    before = sample.image.read_bytes(), sample.labels.read_bytes()
    options = NoDataOptions(no_data=(0.0,))
    in_memory = Examples([sample], n_class=2, no_data=options)
    in_files = Examples([sample], n_class=2, no_data=options, decoded=tmp_path / "d", in_memory=False)
    for images in (in_memory, in_files):
        _ = images[0]
        images.fill([77.0])
    assert (in_memory[0].pixels == 77).any()
    np.testing.assert_array_equal(in_files[0].pixels, in_memory[0].pixels)
    np.testing.assert_array_equal(in_files[0].labels, in_memory[0].labels)
    assert (sample.image.read_bytes(), sample.labels.read_bytes()) == before


@pytest.mark.parametrize("change", ["unlink", "cut"])
def test_an_image_that_goes_while_it_is_mapped_is_named(change: str, tmp_path: Path) -> None:
    sample = saved(tmp_path, "plain.tif")
    images = Examples([sample], n_class=2, decoded=tmp_path / "decoded", in_memory=False)
    _ = images[0]
    content = sample.image.read_bytes()
    sample.image.unlink()
    if change == "cut":
        sample.image.write_bytes(content[:300])
    with pytest.raises(
        DatasetError, match=r"plain\.tif: expected the file as it was when the training began"
    ):
        _ = images[0]


def test_a_full_disk_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = saved(tmp_path, "grey.png")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    words = r"decoded: decoded images are to be kept there.*No space left.*TMPDIR"
    with pytest.raises(OutputError, match=re.compile(words)):
        _ = Examples([sample], n_class=2, decoded=tmp_path / "decoded", in_memory=False)[0]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_statistics_in_bands_are_those_of_whole_images(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sample = Sample(image=tmp_path / "a.tif", labels=tmp_path / "a.npy")
    tifffile.imwrite(sample.image, rng.integers(0, 200, (50, 40)).astype(dtype))
    np.save(sample.labels, (rng.random((50, 40)) < 0.3).astype(np.uint8))
    found = []
    for pixels in (1 << 22, 130):
        monkeypatch.setattr(mapped, "BAND_PIXELS", pixels)
        statistics = SplitStatistics(Examples([sample], n_class=2, no_data=NoDataOptions(no_data=(3,))), 2)
        found.append((statistics.input_info(), statistics.class_shares.tolist(), statistics.no_data))
    (whole, *others), (banded, *also) = found
    assert others == also
    assert whole.histogram == banded.histogram
    np.testing.assert_allclose((banded.mean, banded.std), (whole.mean, whole.std), rtol=1e-12)


def test_positions_of_labels_count_rows() -> None:
    labels = np.full((3, 4), 255, np.uint8)
    labels[1, 2], labels[2, :2] = 7, 3
    positions = ClassPositions(labels)
    assert positions.is_partial
    assert (positions.counts[3], positions.counts[7], positions.counts[255]) == (2, 1, 9)
    drawn = {positions.draw(labels, np.random.default_rng(seed)) for seed in range(30)}
    assert drawn == {(1, 2), (2, 0), (2, 1)}
