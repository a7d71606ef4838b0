"""Models, the command, and what it must give, for inputs that could be labelled wrongly without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_models
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.cli.run import run_main

Models = Callable[..., Path]
Run = Callable[..., Result]


class Labels(Protocol):
    """Labels that `matseg-run` gives for an input, slice by slice."""

    def __call__(self, model: Path, input_: Path | str, *options: object) -> list[NDArray[np.uint8]]: ...


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """`models(dtype, channels)`: a model file, made once."""
    made: dict[tuple[str, int], Path] = {}

    def model(dtype: str = "uint8", channels: int = 1) -> Path:
        key = (dtype, channels)
        if key not in made:
            path = tmp_path_factory.mktemp("model") / f"alloy{channels}_{dtype}.onnx"
            made[key] = onnx_models.save_model(path, dtype=dtype, channels=channels)
        return made[key]

    return model


@pytest.fixture
def run() -> Run:
    """`matseg-run`, called in this process."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(run_main, [*map(str, arguments), "--provider", "cpu", "--threads", "1"])

    return call


@pytest.fixture
def labels(run: Run, tmp_path: Path) -> Labels:
    """The label images of a run that must succeed, in order."""

    def of(model: Path, input_: Path | str, *options: object) -> list[NDArray[np.uint8]]:
        out = tmp_path / f"labels{len(list(tmp_path.glob('labels*')))}"
        result = run(model, input_, "-o", out, *options)
        assert result.exit_code == 0, result.output
        return [np.array(Image.open(path)) for path in sorted(out.glob("*.png"))]

    return of
