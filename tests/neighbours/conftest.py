"""Other programs' packages, in an environment of their own; and small inputs for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from ome_images import VOLUME

from matseg_runtime.cli.run import run_main

ROOT = Path(__file__).parents[2]
READERS = Path(__file__).parent / "readers"
Ask = Callable[..., Any]
Run = Callable[..., Result]


@pytest.fixture(scope="session")
def neighbours() -> Path:
    """The Python of the environment that `make neighbours` sets up; MATSEG_NEIGHBOURS names another."""
    scripts = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    python = Path(os.environ.get("MATSEG_NEIGHBOURS") or ROOT / ".venv-neighbours" / scripts)
    if not python.is_file():
        pytest.skip(f"other programs' readers are not installed ({python} is missing): make neighbours")
    return python


@pytest.fixture(scope="session")
def ask(neighbours: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Run one of the scripts in `readers/` with another program's packages; what it prints is JSON."""
    home = tmp_path_factory.mktemp("home")  # their caches and settings

    def call(script: str, *arguments: object) -> Any:
        environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home), "LOGURU_LEVEL": "ERROR"}
        done = subprocess.run(
            [str(neighbours), str(READERS / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=home,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-channel uint8 model of three classes."""
    return onnx_models.save_model(tmp_path_factory.mktemp("model") / "alloy_v1.onnx")


@pytest.fixture
def run() -> Run:
    """matseg-run, called in this process."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(run_main, [str(argument) for argument in arguments])

    return call


@pytest.fixture(scope="session")
def expected(model: Path) -> NDArray[np.uint8]:
    """Labels of `VOLUME`, straight from onnxruntime."""
    import onnx

    graph = onnx.load(model)
    height, width = VOLUME.shape[1:]
    below, right = -height % onnx_models.STRIDE, -width % onnx_models.STRIDE
    padded = np.pad(VOLUME, ((0, 0), (0, below), (0, right)), mode="reflect")
    return onnx_models.run_graph(graph, padded[:, None])[0][:, :height, :width]
