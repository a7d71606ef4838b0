"""`import matseg_runtime`: open a model, segment an array, run a job."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from numpy.typing import NDArray
from PIL import Image

import matseg_runtime
from matseg_shared.errors import ImageError, ProviderError, UsageError

Expected = Callable[[NDArray[Any]], NDArray[np.uint8]]


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, matseg_runtime\n"
        "heavy = {'zarr', 'onnxruntime', 'pydantic', 'numpy', 'tifffile', 'PIL', 'click', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_array_gets_the_labels_that_the_command_gives(model: Path, expected: Expected) -> None:
    found = matseg_runtime.open_model(model, threads=1)
    assert [item.name for item in found.model.metadata.classes] == ["phase 0", "phase 1", "phase 2"]
    image = onnx_models.random_pixels((45, 61), "uint8", 4)
    labels = matseg_runtime.segment(found, image)
    assert (labels.shape, labels.dtype) == ((45, 61), np.uint8)
    np.testing.assert_array_equal(labels, expected(image))
    deep = image.astype(np.uint16) * 257
    with pytest.raises(ImageError, match=r"the image: has uint16 pixels, this model takes uint8.*--window"):
        matseg_runtime.segment(found, deep)
    with pytest.raises(ImageError, match=r"the image: holds no pixels: its shape is \(0, 64\)"):
        matseg_runtime.segment(found, np.zeros((0, 64), np.uint8))
    np.testing.assert_array_equal(matseg_runtime.segment(found, deep, window=(0, 65535)), labels)


def test_a_model_that_gives_other_labels_here_is_refused(tmp_path: Path) -> None:
    from matseg_shared.contract.onnx_properties import SelfTest, encode

    graph = onnx_models.build_graph()
    test = onnx_models.self_test_of(graph, 1, "uint8")
    wrong = SelfTest(image=test.image, labels=(test.labels + 1) % 3, margin=np.ones_like(test.margin))
    path = onnx_models.save(graph, encode(onnx_models.build_metadata(), wrong), tmp_path / "m.onnx")
    with pytest.raises(ProviderError, match="its self-test fails"):
        matseg_runtime.open_model(path)


def test_a_run_goes_on_where_it_stopped_and_says_what_it_did(
    model: Path, slices: Path, tmp_path: Path, expected: Expected
) -> None:
    summary = matseg_runtime.run_job(model, slices, tmp_path / "out", threads=1)
    assert (summary.labelled, summary.report.slices, summary.is_final) == (6, 6, True)
    labels = np.array(Image.open(tmp_path / "out" / "s3.png"))
    np.testing.assert_array_equal(labels, expected(np.array(Image.open(slices / "s3.png"))))
    again = matseg_runtime.run_job(str(model), str(slices), str(tmp_path / "out"))
    assert (again.labelled, again.report.labelled) == (0, 6)
    assert sum(item.fraction for item in again.report.phase_fractions) == pytest.approx(1)
    with pytest.raises(UsageError, match="there is no such input"):
        matseg_runtime.run_job(model, tmp_path / "nothing")
