"""The data set `discs`, tiny: every network can learn something of it in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matseg_shared.contract.classes import UNLABELLED, read_legend, write_classes, write_legend
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


def write_workspace(root: Path) -> Path:
    """Write the data set `discs` and three versions of it."""
    (root / "config.toml").write_text(CONFIG, encoding="utf-8")
    write_discs(root, {"train": 5, "validate": 2, "test": 2})
    return root


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with the data set `discs` and three versions of it."""
    return write_workspace(tmp_path)


def unlabel(root: Path, share: float = 0.1) -> None:
    """Leave labels in a share of the 4 x 4 blocks only, as strokes do: in label images 128 says that there are none."""
    rng = np.random.default_rng(1)
    for array in sorted(root.glob("*/labels_npy/*.npy")):
        labels = np.load(array)
        rows, columns = labels.shape
        blank = np.kron(rng.random((-(-rows // 4), -(-columns // 4))) >= share, np.ones((4, 4), bool))[
            :rows, :columns
        ]
        picture = array.parent.parent / "labels" / f"{array.stem}_L.png"
        Image.fromarray(np.where(blank, 128, labels * 255).astype(np.uint8)).save(picture)
        np.save(array, np.where(blank, UNLABELLED, labels).astype(np.uint8))
    legend = read_legend(root / "classes.toml")
    write_legend(root / "classes.toml", dataclasses.replace(legend, unlabelled=(128,)))
