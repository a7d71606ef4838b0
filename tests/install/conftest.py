"""The built wheel, installed into environments of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import onnx_models
import pytest
from environments import Environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout by `make wheel`."""
    out = tmp_path_factory.mktemp("wheel") / "dist"
    command = ["make", "--directory", str(ROOT), "wheel", f"PYTHON={sys.executable}", f"DIST={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("matseg-*.whl")
    return built


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The wheel with all that its extra `cpu` needs, as docs/facility.md collects it for machines without internet."""
    folder = tmp_path_factory.mktemp("facility") / "wheelhouse"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest"]
    done = subprocess.run(
        [*command, str(folder), f"{wheel}[cpu]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Environment]:
    """Make an empty virtual environment."""

    def make() -> Environment:
        made = Environment(folder=tmp_path_factory.mktemp("environment"))
        venv.create(made.folder, with_pip=True, symlinks=sys.platform != "win32")
        return made

    return make


@pytest.fixture(scope="session")
def with_cpu(environment: Callable[[], Environment], wheelhouse: Path) -> Environment:
    """A facility's installation, without any package index."""
    made = environment()
    made.type("pip install --quiet --no-index --find-links wheelhouse 'matseg[cpu]'", wheelhouse.parent)
    return made


@pytest.fixture(scope="session")
def bare(environment: Callable[[], Environment], wheel: Path) -> Environment:
    """The wheel without any extra, so without onnxruntime."""
    made = environment()
    made.call("python", "-m", "pip", "install", "--quiet", wheel)
    return made


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file."""
    return onnx_models.save_model(tmp_path_factory.mktemp("model") / "alloy_v1.onnx")
