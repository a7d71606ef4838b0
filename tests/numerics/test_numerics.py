"""However a model of the zoo is run on this machine, its labels are the same; see docs/dev/numerics.md."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from matseg_runtime.model.file import choose_model
from matseg_runtime.model.zoo import ZooModel, read_index

FOLDER = Path(__file__).parents[2] / "benchmarks"
ROUNDED = {"patchunet": 1e-3, "unet": 1e-3, "effunet": 5e-3}
"""Share of the pixels of an int8 model that halves rounded the other way decide, by network. Those of the 51 layers
of an effunet add up to 0.36 % on sandstone, where each of both ways differs from fp32 in 0.2 %."""


@pytest.fixture(scope="module")
def numerics() -> ModuleType:
    """The comparison that a reader can rerun."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module("numerics")


@pytest.mark.parametrize("model", read_index().models, ids=lambda model: model.name)
def test_every_way_gives_the_same_labels(numerics: ModuleType, model: ZooModel) -> None:
    found = {item.way: item for item in numerics.compare(choose_model(f"zoo:{model.name}")[0])}
    assert len(found) >= 8
    as_in_the_file = found.pop(numerics.AS_IN_THE_FILE)
    assert {way: item.others - item.ties for way, item in found.items()} == dict.fromkeys(found, 0)
    if model.precision == "int8":
        assert {item.others for item in found.values()} == {0}
        assert max(item.largest for item in found.values()) == 0
        # roundings of halves, not another function
        assert as_in_the_file.others < ROUNDED[model.network] * as_in_the_file.pixels
    else:
        assert as_in_the_file.is_right


def test_what_rounding_does_not_explain_is_wrong(numerics: ModuleType) -> None:
    item = numerics.Difference(model="m", precision="fp32", way="w", pixels=9, others=2, ties=1, largest=0.5)
    assert not item.is_right
