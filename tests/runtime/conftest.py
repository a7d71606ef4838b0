"""Models, folders and a session for the runtime's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.cli.run import run_main
from matseg_runtime.inference.session import Session

# A busy machine is no failure; a failing example is printed so that it can be repeated.
settings.register_profile("matseg", deadline=None, print_blob=True)
settings.load_profile("matseg")

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-channel uint8 model of three classes."""
    return onnx_models.save_model(tmp_path_factory.mktemp("model") / "alloy_v1.onnx")


@pytest.fixture(scope="session")
def session(model: Path) -> Session:
    """The model on the CPU with one thread."""
    return Session.open(model, provider="cpu", threads=1)


@pytest.fixture
def battery() -> Path:
    """A folder of real, unlabelled slices."""
    folder = DATA / "battery_raw"
    if not folder.is_dir():
        pytest.skip(f"the real data set {folder} is not here")
    return folder


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """A folder of six small grey PNGs, s1 to s6, of two sizes."""
    folder = tmp_path / "scan"
    write_slices(folder, 6)
    return folder


def write_slices(folder: Path, count: int) -> None:
    """Grey uint8 PNGs s1.png ... of 40 x 52 and 33 x 61 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        shape = (40, 52) if number % 2 else (33, 61)
        Image.fromarray(onnx_models.random_pixels(shape, "uint8", number)).save(folder / f"s{number}.png")


@pytest.fixture
def run() -> Callable[..., Result]:
    """matseg-run, called in this process; exceptions that are not the command's own exit fail the test."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(run_main, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def expected(model: Path) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Labels of an (H, W) image straight from onnxruntime, padded here and not by the runtime."""
    import onnx

    graph = onnx.load(model)

    def labels(image: NDArray[Any]) -> NDArray[np.uint8]:
        height, width = image.shape
        below, right = -height % onnx_models.STRIDE, -width % onnx_models.STRIDE
        padded = np.pad(image, ((0, below), (0, right)), mode="reflect")
        return onnx_models.run_graph(graph, padded[None, None])[0][0, :height, :width]

    return labels
