"""Make the tutorial's pictures of what `make demo` left: `python docs/pictures.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from matseg_shared.images.read import list_images, read_image

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "pictures"
WIDTH = 1000
"""Pixels, of every picture."""


def main() -> None:
    """Write `walk.png`, `curves.png` and `stack.png`."""
    TARGET.mkdir(exist_ok=True)
    for source, name in (("demo_v1_walk.png", "walk.png"), ("demo_v1.png", "curves.png")):
        with Image.open(ROOT / "plots" / source) as picture:
            _save(picture.convert("RGB"), name)
    _save(_stack(), "stack.png")


def _stack() -> Image.Image:
    """Every fourth raw slice above, its labels below."""
    raw = list_images(ROOT / "data" / "demo_raw")[0][::4]
    labels = ROOT / "data" / "demo_raw_predictions" / "demo_v1"
    above = np.concatenate([np.squeeze(read_image(path)) for path in raw], axis=1)
    shown = [Image.open(labels / f"{path.stem}.png").convert("L") for path in raw]
    below = np.concatenate([np.asarray(picture) for picture in shown], axis=1)
    return Image.fromarray(np.concatenate([above, below]).astype(np.uint8)).convert("RGB")


def _save(picture: Image.Image, name: str) -> None:
    size = (WIDTH, round(picture.height * WIDTH / picture.width))
    smaller = picture.resize(size, Image.Resampling.LANCZOS)
    smaller.quantize(128).save(TARGET / name, optimize=True)


if __name__ == "__main__":
    main()
