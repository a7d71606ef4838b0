"""The examples for notebooks, run from top to bottom in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path) -> str:
    """Output of an example of docs/examples."""
    settings = {"MATSEG_ZOO": str(ROOT / "models_zoo"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / name)],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_labelling(tmp_path: Path) -> None:
    assert "1 slices labelled in labelled" in run("label.py", tmp_path)
    labels = np.asarray(Image.open(tmp_path / "labelled" / "s1.png"))
    assert labels[100, 150] == 1  # the disc that the example draws
    assert abs((labels == 1).mean() - np.pi * 60**2 / labels.size) < 0.01
    assert np.asarray(Image.open(tmp_path / "labels.png")).shape == (200, 300, 3)


def test_training(tmp_path: Path) -> None:
    printed = run("train.py", tmp_path)
    share = float(printed.split(" of the pixels are right")[0].splitlines()[-1])
    assert share > 0.85
    assert (tmp_path / "demo.onnx").is_file()


def test_the_examples_are_on_the_python_page() -> None:
    lines = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines()
    for path in (ROOT / "docs" / "examples").glob("*.py"):
        assert f'--8<-- "examples/{path.name}"' in lines
