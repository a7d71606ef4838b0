"""docs/contract.md: its program gives the labels of matseg-run, and the schema beside it is the code's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from click.testing import Result
from PIL import Image

from docs.metadata_schema import metadata_schema
from matseg_runtime.inference.session import TIE_MARGINS

DOCS = Path(__file__).parents[2] / "docs"
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    """Names that the page's program defines."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "contract.md").read_text(encoding="utf-8"), re.DOTALL
    )
    defined: dict[str, Any] = {}
    exec(compile(code, "contract.md", "exec"), defined)
    return defined


@pytest.mark.parametrize("shape", [(101, 87), (36, 140), (3, 1)])
@pytest.mark.parametrize("edge", [1, 48, 512])
def test_the_program_labels_as_matseg_run_does(
    shape: tuple[int, int], edge: int, program: dict[str, Any], run: Run, model: Path, tmp_path: Path
) -> None:
    pixels = onnx_models.random_pixels(shape, "uint8", 5)
    (tmp_path / "raw").mkdir()
    Image.fromarray(pixels).save(tmp_path / "raw" / "a.png")
    done = run(model, tmp_path / "raw", "-o", tmp_path / "out", "--threads", 1)
    assert done.exit_code == 0, done.output
    session, document = program["load"](str(model))
    labels = program["label"](session, document, pixels[None], edge=edge)
    np.testing.assert_array_equal(labels, np.array(Image.open(tmp_path / "out" / "a.png")))


def test_the_program_notices_a_machine_that_computes_otherwise(
    program: dict[str, Any], tmp_path: Path
) -> None:
    graph = onnx_models.build_graph()
    test = onnx_models.self_test_of(graph, 1, "uint8")
    test.labels[0, 3, 3] = (test.labels[0, 3, 3] + 1) % 3
    test.margin[0, 3, 3] = 0.5
    properties = onnx_models.encode(onnx_models.build_metadata(), test)
    model = onnx_models.save(graph, properties, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="other labels"):
        program["load"](str(model))


def test_the_page_knows_what_rounding_explains() -> None:
    (said,) = re.findall(r"rounding = (\{.*?\})", (DOCS / "contract.md").read_text(encoding="utf-8"))
    assert json.loads(said) == TIE_MARGINS


def test_the_schema_is_the_codes() -> None:
    """Mend a failure by: python docs/metadata_schema.py > docs/model-metadata.schema.json"""
    stored = (DOCS / "model-metadata.schema.json").read_text(encoding="utf-8")
    assert stored == metadata_schema()
    tiling = json.loads(stored)["$defs"]["TilingInfo"]["properties"]
    assert "dropped" in tiling["halo"]["description"]
