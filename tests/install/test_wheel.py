"""The wheel works where torch has never been, and says what is missing where something is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx_models
import pytest
from environments import Environment
from PIL import Image
from thoroughness import slow

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.install


def documented(source: str) -> str:
    """The line of docs/facility.md that installs from a source."""
    lines = (ROOT / "docs" / "facility.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("pip install ") and source in line)
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three slices of 48 x 64 pixels."""
    slices = tmp_path / "scan"
    slices.mkdir()
    for number in range(3):
        Image.fromarray(onnx_models.random_pixels((48, 64), "uint8", number)).save(slices / f"s{number}.png")
    return slices


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "matseg_shared",
        "matseg_runtime",
        "matseg_trainer",
    }


def test_a_folder_is_segmented_without_torch(with_cpu: Environment, model: Path, folder: Path) -> None:
    absent = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'scipy') if u.find_spec(n)])"
    assert with_cpu.call("python", "-c", absent).stdout.strip() == "[]"
    done = with_cpu.call("matseg-run", model, folder, "--provider", "cpu")
    assert "3 of 3 slices labelled" in done.stdout
    graph = onnx.load(model)
    for number in range(3):
        pixels = np.array(Image.open(folder / f"s{number}.png"))
        labels = np.array(Image.open(folder.parent / "scan_predictions" / "alloy_v1" / f"s{number}.png"))
        np.testing.assert_array_equal(labels, onnx_models.run_graph(graph, pixels[None, None])[0][0])


def test_inspect_and_verify_there(with_cpu: Environment, model: Path) -> None:
    assert "alloy_v1" in with_cpu.call("matseg-inspect", model).stdout
    assert "passed on cpu" in with_cpu.call("matseg-verify", model).stdout


def test_the_overview_and_completion_work_there(with_cpu: Environment) -> None:
    assert "torch        not installed" in with_cpu.call("matseg", "--version").stdout
    assert "matseg-prep demo demo" in with_cpu.call("matseg").stdout
    assert "_MATSEG_RUN_COMPLETE" in with_cpu.call("matseg", "completion", "bash").stdout


def test_the_wheel_knows_the_zoo_and_carries_no_model(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "matseg_runtime/zoo_index.json" in names
    assert not [name for name in names if name.endswith(".onnx")]


def test_models_of_the_zoo_are_named_or_found_there(
    with_cpu: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("MATSEG_ZOO", raising=False)
    assert "zoo:dendrites" in with_cpu.call("matseg-inspect", "zoo:").stdout
    done = with_cpu.call("matseg-verify", "zoo:dendrites", check=False)
    assert done.returncode == 2
    assert "its file is not on this machine; copy models_zoo/dendrites/model.onnx" in done.stderr
    assert "Traceback" not in done.stderr
    monkeypatch.setenv("MATSEG_ZOO", str(ROOT / "models_zoo"))
    assert "passed on cpu" in with_cpu.call("matseg-verify", "zoo:dendrites").stdout


def test_cuda_is_refused_with_the_remedy(with_cpu: Environment, model: Path, folder: Path) -> None:
    done = with_cpu.call("matseg-run", model, folder, "--provider", "cuda", check=False)
    assert done.returncode == 3
    assert re.search(r"pip install --no-index --find-links WHEELHOUSE 'matseg\[cuda1[23]\]'", done.stderr)
    assert "Traceback" not in done.stderr
    assert not (folder.parent / "scan_predictions").exists()


def test_without_onnxruntime_a_wheel_says_how_to_add_it(
    bare: Environment, wheel: Path, model: Path, folder: Path
) -> None:
    done = bare.call("matseg-run", model, folder, check=False)
    assert done.returncode == 3
    assert "`cuda13` or `cuda12`" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Usage: matseg-run" in bare.call("matseg-run", "--help").stdout
    line = f"pip install '{wheel}[cpu]'"
    assert line in done.stderr
    bare.type(line, folder)
    assert "passed on cpu" in bare.call("matseg-verify", model).stdout
    bare.type(documented("dist/"), wheel.parents[1])


def test_a_clone_is_installed_as_typed_and_says_how_to_add_to_it(bare: Environment, model: Path) -> None:
    bare.call("python", "-m", "pip", "uninstall", "--yes", "matseg", "onnxruntime")
    bare.type(documented("'.[cpu]'"), ROOT)
    assert "passed on cpu" in bare.call("matseg-verify", model).stdout
    assert f"pip install '{ROOT}[train]' to train" in bare.call("matseg", "--version").stdout


def test_both_onnxruntimes_are_told_apart(with_cpu: Environment, model: Path, folder: Path) -> None:
    second = with_cpu.packages / "onnxruntime_gpu-1.99.0.dist-info"
    second.mkdir()
    metadata = second / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.99.0\n")
    try:
        done = with_cpu.call("matseg-run", model, folder, check=False)
    finally:
        metadata.unlink()
        second.rmdir()
    assert done.returncode == 3
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu" in done.stderr


@slow
@pytest.mark.parametrize(
    ("extra", "cuda", "least"),
    [("cuda12", "12", (1, 21)), ("cuda13", "13", (1, 28)), ("cuda", "13", (1, 28))],
)
@pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's wheels are for Linux and Windows")
def test_extras_for_gpus_take_one_cuda(
    wheel: Path, tmp_path: Path, extra: str, cuda: str, least: tuple[int, int]
) -> None:
    """Let pip say what it would install: an onnxruntime-gpu for it, with its libraries, and no other onnxruntime."""
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
    ]
    done = subprocess.run(
        [*command, str(report), f"{wheel}[{extra}]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {
        item["metadata"]["name"]: item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    assert [name for name in found if name.startswith("onnxruntime")] == ["onnxruntime-gpu"]
    major, minor, *_ = (int(part) for part in found["onnxruntime-gpu"].split("."))
    assert (major, minor) >= least
    assert f"nvidia-cudnn-cu{cuda}" in found
    runtime = "nvidia-cuda-runtime" if cuda == "13" else "nvidia-cuda-runtime-cu12"
    assert found[runtime].startswith(f"{cuda}.")
