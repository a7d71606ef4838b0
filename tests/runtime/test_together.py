"""Options that meet: each is tested by itself elsewhere, here are pairs of them that once went wrong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from click.testing import Result

from matseg_runtime.intake import Window

Run = Callable[..., Result]
VOLUME = onnx_models.random_pixels((6, 40, 52), "uint8", 1)


def test_a_window_that_differs_in_the_seventh_digit_is_another_job(
    run: Run, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "scan.npy", VOLUME.astype(np.float32) * 1000)
    command = (model, tmp_path / "scan.npy", "-o", tmp_path / "out", "--window")
    assert run(*command, "0,255000.4").exit_code == 0
    again = run(*command, "0,255000.3")
    assert again.exit_code == 2, "half of the labels would be of another window"
    assert "window: 0,255000.4 then, 0,255000.3 now" in again.output
    assert run(*command, "0.0,2.550004e5").exit_code == 0, "the same numbers are the same job"


@pytest.mark.parametrize(("text", "shown"), [("0,4095", "0,4095"), ("-0.001,4e-3", "-0.001,0.004")])
def test_a_window_is_shown_as_short_as_before(text: str, shown: str) -> None:
    assert str(Window.parse(text)) == shown


def test_a_voxel_size_that_differs_in_the_seventh_digit_is_another_job(
    run: Run, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    command = (model, tmp_path / "scan.npy", "-o", tmp_path / "a.tif", "--voxel-size")
    assert run(*command, "0.6500001um").exit_code == 0
    assert run(*command, "0.6500002um").exit_code == 2
