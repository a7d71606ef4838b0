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
    """The wheel, built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("matseg-*.whl")
    return built


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The wheel with all that its extra `cpu` needs, as docs/facility.md collects it for machines without internet."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest"]
    done = subprocess.run(
        [*command, str(folder), f"{wheel}[cpu]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Callable[[str], Environment]:
    """Install the wheel, with extras such as `[cpu]`, into a fresh environment."""

    def into_fresh_environment(extras: str) -> Environment:
        environment = Environment(folder=tmp_path_factory.mktemp("environment"))
        venv.create(environment.folder, with_pip=True, symlinks=sys.platform != "win32")
        environment.call("python", "-m", "pip", "install", "--quiet", f"{wheel}{extras}")
        return environment

    return into_fresh_environment


@pytest.fixture(scope="session")
def with_cpu(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Environment:
    """What a facility installs, without any package index."""
    environment = Environment(folder=tmp_path_factory.mktemp("environment"))
    venv.create(environment.folder, with_pip=True, symlinks=sys.platform != "win32")
    offline = ("--no-index", "--find-links", wheelhouse)
    environment.call("python", "-m", "pip", "install", "--quiet", *offline, "matseg[cpu]")
    return environment


@pytest.fixture(scope="session")
def bare(install: Callable[[str], Environment]) -> Environment:
    """The base install, without onnxruntime."""
    return install("")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file."""
    return onnx_models.save_model(tmp_path_factory.mktemp("model") / "alloy_v1.onnx")
