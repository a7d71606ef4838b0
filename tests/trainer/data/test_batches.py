"""Batches of a training: order, size, padding, and the same from every number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from matseg_shared.errors import ImageError
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.dataset import Batch, BatchLoader, EpochSampler, Step, TrainingBatches
from matseg_trainer.data.examples import IGNORED, Examples
from matseg_trainer.data.folder import Dataset


def batches_of(workspace: Path, **values: object) -> TrainingBatches:
    """Batches of the five training images, for a network of stride 16 that trains on sampled pixels."""
    config = VersionConfig.model_validate({"model": "unet", "n_class": 2, **values})
    images = Examples(Dataset.open(workspace / "data" / "discs").samples("train"), n_class=2)
    return TrainingBatches(images, config, seed=3, stride=16, pixels_per_image=99)


def test_shuffle_changes_the_order_each_epoch_and_visits_all(workspace: Path) -> None:
    shuffled = batches_of(workspace, shuffle=True)
    orders = [[shuffled.image_of(epoch, position) for position in range(5)] for epoch in (1, 2, 3)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    natural = batches_of(workspace)
    assert [natural.image_of(1, position) for position in range(5)] == list(range(5))


@pytest.mark.parametrize("shuffle", [False, True])
def test_passes_over_the_images_go_on_from_epoch_to_epoch_where_the_steps_are_given(
    workspace: Path, *, shuffle: bool
) -> None:
    """Two steps of two images: five epochs show each of five images four times."""
    batches = batches_of(workspace, batch_size=2, steps=2, shuffle=shuffle)
    seen = [batches.image_of(epoch, position) for epoch in range(1, 6) for position in range(4)]
    assert all(sorted(seen[start : start + 5]) == list(range(5)) for start in range(0, 20, 5))
    assert (len({tuple(seen[start : start + 5]) for start in range(0, 20, 5)}) > 1) is shuffle


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ({"batch_size": 2, "crops_per_image": 2, "steps": 3}, [2, 2, 2]),
        ({"batch_size": 2, "crops_per_image": 2}, [2, 2, 2, 2, 2]),
        ({"batch_size": 4}, [4, 1]),
    ],
)
def test_batches_have_the_configured_size(values: dict[str, int], sizes: list[int]) -> None:
    config = VersionConfig.model_validate({"model": "unet", "n_class": 2, **values})
    sampler = EpochSampler(config, 5)
    assert [len(step.positions) for step in sampler] == sizes
    assert len(sampler) == len(sizes)
    parts = [list(EpochSampler(config, 5, rank=rank, processes=3)) for rank in range(3)]
    for whole, *shared in zip(sampler, *parts, strict=True):
        counted = [place for step in shared if step.is_counted for place in step.positions]
        assert sorted(counted) == list(whole.positions)
        assert all(step.positions for step in shared)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_load_the_same_batches(workspace: Path, workers: int) -> None:
    """Also in the second epoch, which the same processes load."""
    values = {"crop": 32, "aug": True, "shuffle": True, "oversample_classes": 0.5, "batch_size": 2}
    config = VersionConfig.model_validate({"model": "unet", "n_class": 2, **values})

    def loader(workers: int) -> BatchLoader:
        batches, sampler = batches_of(workspace, **values), EpochSampler(config, 5)
        return BatchLoader(batches, sampler, workers=workers, pin_memory=False)

    alone, helped = loader(0), loader(workers)
    for epoch in (1, 2):
        for expected, found in zip(alone.epoch(epoch), helped.epoch(epoch), strict=True):
            assert all(map(torch.equal, expected, found))
    failing = loader(workers)
    (workspace / "data" / "discs" / "train" / "images" / "slice0.png").unlink()
    with pytest.raises(ImageError, match=r"slice0\.png"):
        list(failing.epoch(1))


def test_padding_is_not_learned(workspace: Path) -> None:
    batch = batches_of(workspace, crop=56)[Step(1, [0, 1])]
    assert isinstance(batch, Batch)
    assert batch.images.shape == (2, 1, 64, 64)
    assert (batch.labels[:, 48:, :] == IGNORED).all()
    assert (batch.labels[:, :48, :56] != IGNORED).all()
    assert (batch.labels.flatten(1).gather(1, batch.pixels) != IGNORED).all()
    uncounted = batches_of(workspace, crop=56)[Step(1, [0], is_counted=False)]
    assert isinstance(uncounted, Batch)
    assert (uncounted.labels == IGNORED).all()


def test_augmented_images_that_are_not_square_form_a_batch(workspace: Path) -> None:
    batches = batches_of(workspace, aug=True)
    for epoch in range(10):
        batch = batches[Step(epoch, [0, 1, 2, 3])]
        assert isinstance(batch, Batch)
        assert batch.images.shape == (4, 1, 48, 64)
