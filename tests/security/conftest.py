"""The runtime's small models and folders serve here, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_models
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-channel uint8 model of three classes."""
    return onnx_models.save_model(tmp_path_factory.mktemp("model") / "alloy_v1.onnx")


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """A folder of three small grey PNGs, s1 to s3."""
    folder = tmp_path / "scan"
    folder.mkdir()
    for number in range(1, 4):
        pixels: np.ndarray = onnx_models.random_pixels((40, 52), "uint8", number)
        Image.fromarray(pixels).save(folder / f"s{number}.png")
    return folder
