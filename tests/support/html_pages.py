"""Inputs for pages, with markup in names, and ways to look into pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_models
from PIL import Image

from matseg_shared.contract.classes import write_classes
from matseg_shared.contract.metadata import ClassInfo

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE = 60_000
"""Milliseconds after which a busy machine is no excuse."""
HOSTILE_STEM = "<img src=x onerror=hacked=1>"
HOSTILE_CLASS = "</script><script>hacked=2</script>"


class OpenPage:
    """A page with everything it asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def require_quiet(self, path: Path) -> None:
        """Nothing but the file itself was asked for, and nothing went wrong."""
        others = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        assert others == [path.as_uri()], others
        assert self.complaints == [], self.complaints
        assert self.page.evaluate("typeof hacked") == "undefined"


def write_slices(folder: Path, count: int = 5) -> Path:
    """Grey PNGs of 40 x 52 pixels, the third with markup for a name, the last broken."""
    folder.mkdir(parents=True)
    for number in range(count):
        stem = HOSTILE_STEM if number == 2 else f"s{number}"
        pixels = onnx_models.random_pixels((40, 52), "uint8", number)
        Image.fromarray(pixels).save(folder / f"{stem}.png")
    (folder / "z_broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    return folder


def write_labelled(root: Path, stems: Sequence[str]) -> None:
    """A data set whose test split has images of 48 x 64 pixels with label arrays of two classes."""
    for kind in ("images", "labels_npy"):
        (root / "test" / kind).mkdir(parents=True)
    for number, stem in enumerate(stems):
        pixels = onnx_models.random_pixels((48, 64), "uint8", number)
        Image.fromarray(pixels).save(root / "test" / "images" / f"{stem}.png")
        np.save(root / "test" / "labels_npy" / f"{stem}.npy", (pixels > 120).astype(np.uint8))
    classes = [
        ClassInfo(index=0, name="matrix", colour=(0, 0, 0), label_value=0),
        ClassInfo(index=1, name="disc", colour=(255, 255, 255), label_value=255),
    ]
    write_classes(root / "classes.toml", classes)


def page_data(path: Path) -> dict[str, Any]:
    """The JSON that a page carries for its scripts."""
    text = path.read_text(encoding="utf-8")
    start = text.index('id="data">') + len('id="data">')
    data: dict[str, Any] = json.loads(text[start : text.index("</script>", start)])
    return data


def noise(shape: tuple[int, int], most: int, seed: int) -> np.ndarray:
    """Pixels that no compression makes smaller."""
    return np.random.default_rng(seed).integers(0, most, shape, dtype=np.uint8)
