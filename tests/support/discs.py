"""The data set `discs`, tiny: every network can learn something of it in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matseg_shared.contract.classes import write_classes
from matseg_shared.contract.metadata import ClassInfo

CONFIG = """
[discs.default]
n_class = 2
size = [48, 64]

[discs.v1]
model = "unet"
width = 4
batch_size = 2
lr = 0.01
epoch = 3
aug = true
shuffle = true
crop = 32
crops_per_image = 2
amp = "fp32"

[discs.v2]
model = "segnet"
width = 4
batch_size = 3
optimizer = "SGD"
lr = 0.01
epoch = 1
balance = true
patience = 1

[discs.v3]
model = "pixelnet"
width = 2
lr = 0.005
epoch = 1
pixels_per_image = 200
"""


def disc_image(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Dark discs in noise: (H, W) uint8 image and (H, W) uint8 labels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, dtype=np.uint8)
    for _ in range(3):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        labels |= ((y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(5, 10) ** 2).astype(np.uint8)
    image = np.where(labels == 1, 90, 150) + rng.normal(0, 15, shape)
    return image.clip(0, 255).astype(np.uint8), labels


def write_discs(root: Path, counts: dict[str, int], shape: tuple[int, int] = (48, 64)) -> None:
    """Write `data/discs` with label arrays and a class table."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("images", "labels", "labels_npy"):
            (root / "data" / "discs" / split / kind).mkdir(parents=True)
        for number in range(count):
            image, labels = disc_image(rng, shape)
            folder = root / "data" / "discs" / split
            Image.fromarray(image).save(folder / "images" / f"slice{number}.png")
            Image.fromarray(labels * 255).save(folder / "labels" / f"slice{number}_L.png")
            np.save(folder / "labels_npy" / f"slice{number}.npy", labels)
    write_classes(
        root / "data" / "discs" / "classes.toml",
        [
            ClassInfo(index=0, name="matrix", colour=(0, 0, 0), label_value=0),
            ClassInfo(index=1, name="disc", colour=(255, 255, 255), label_value=255),
        ],
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with the data set `discs` and three versions of it."""
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    write_discs(tmp_path, {"train": 5, "validate": 2, "test": 2})
    return tmp_path
