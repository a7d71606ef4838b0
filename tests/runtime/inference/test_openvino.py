"""The provider openvino on this machine; it needs an environment of its own, with the extra `openvino`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from click.testing import Result
from PIL import Image
from segmenting import segment_image

from matseg_runtime.inference.providers import installed_runtimes
from matseg_runtime.inference.session import Session

Run = Callable[..., Result]

pytestmark = pytest.mark.skipif(
    "onnxruntime-openvino" not in installed_runtimes(),
    reason="onnxruntime-openvino is not installed here; it needs an environment of its own",
)


def test_it_is_taken_when_it_is_asked_for_and_the_self_test_passes(model: Path) -> None:
    assert Session.open(model, threads=2).provider == "cpu"
    session = Session.open(model, provider="openvino", threads=2)
    assert session.provider == "openvino"
    assert session.require_self_test().mismatches == 0


@pytest.mark.parametrize("streams", [1, 2])
def test_a_run_gives_the_labels_of_the_cpu(
    run: Run, model: Path, session: Session, slices: Path, tmp_path: Path, streams: int
) -> None:
    out = tmp_path / "out"
    result = run(model, slices, "-o", out, "--provider", "openvino", "--threads", streams)
    assert result.exit_code == 0, result.output
    assert "on openvino" in result.output
    for path in sorted(slices.iterdir()):
        image = np.array(Image.open(path))[np.newaxis]
        expected, probabilities = segment_image(session, image, probabilities=True)
        best = np.sort(probabilities, axis=0)
        decided = best[-1] - best[-2] > 1e-3
        found = np.array(Image.open(out / path.name))
        np.testing.assert_array_equal(found[decided], expected[decided])


def test_tiles_are_the_whole(model: Path) -> None:
    session = Session.open(model, provider="openvino", threads=2, streams=2)
    image = onnx_models.random_pixels((1, 90, 101), "uint8", 4)
    whole, probabilities = segment_image(session, image, probabilities=True)
    best = np.sort(probabilities, axis=0)
    decided = best[-1] - best[-2] > 1e-3
    tiled = segment_image(session, image, tile=(44, 64), batch=2)
    np.testing.assert_array_equal(tiled[decided], whole[decided])
