"""Make the tutorial's pictures of what `make demo` left: `python docs/pictures.py`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from matseg_shared.images.read import list_images, read_image
from matseg_trainer.data.folder import load_array
from matseg_trainer.evaluate.document import read_evaluation

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "pictures"
WIDTH = 1000
"""Pixels, of every picture."""


def main() -> None:
    """Write `walk.png`, `curves.png` and `stack.png`."""
    TARGET.mkdir(exist_ok=True)
    _save(_walk(), "walk.png")
    with Image.open(ROOT / "plots" / "demo_v1.png") as picture:
        _save(picture.convert("RGB"), "curves.png")
    _save(_stack(), "stack.png")


def _walk() -> Image.Image:
    """One row per test slice: image, label, prediction, overlay."""
    folder = ROOT / "log"
    document = read_evaluation(folder / "demo_v1_test.json")
    figure = Figure(figsize=(12, 3.2 * len(document.images)), layout="constrained")
    rows = figure.subplots(len(document.images), 4, squeeze=False)
    for row, image in zip(rows, document.images, strict=True):
        pictures = {
            image.stem: read_image(folder / image.image),
            "label": load_array(folder / image.array, 2) * 255,
            "prediction": read_image(folder / image.prediction),
            "overlay: green too much, pink missed": read_image(folder / str(image.overlay)),
        }
        for axes, (title, pixels) in zip(row, pictures.items(), strict=True):
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(title, fontsize="medium")
            axes.axis("off")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return Image.open(stream).convert("RGB")


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
