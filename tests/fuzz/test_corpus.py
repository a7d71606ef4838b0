"""A small corpus of mutated inputs through the real commands; `make fuzz` runs a large one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fuzzing.drive import corpus, try_cases
from fuzzing.seeds import make_seeds
from fuzzing.targets import TARGETS
from thoroughness import THOROUGH

CASES = 500 if THOROUGH else 200
SEED = 0

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is limited and measured with what Linux offers"
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "seeds"
    make_seeds(root)
    return root


def test_mutated_inputs_end_in_a_sentence_or_in_labels(seeds: Path, tmp_path: Path) -> None:
    cases = corpus(CASES, SEED)
    outcomes = list(try_cases(cases, seeds, tmp_path))
    failures = [
        f"python -m fuzzing --replay {outcome.kind}:{outcome.number}\n" + "\n".join(outcome.findings)
        for outcome in outcomes
        if outcome.findings
    ]
    assert not failures, "\n\n".join(failures)
    assert len(outcomes) == len(cases)
    assert {outcome.kind for outcome in outcomes} == set(TARGETS)
    # a corpus that is always refused at the door would show nothing
    accepted = {outcome.kind for outcome in outcomes if {0, 4} & set(outcome.codes)}
    assert accepted >= {
        "png",
        "jpeg",
        "bmp",
        "tiff",
        "channels",
        "npy",
        "zarr",
        "hdf5",
        "formats",
        "onnx",
        "metadata",
        "export",
        "records",
    }
    refused = {outcome.kind for outcome in outcomes if {2, 4} & set(outcome.codes)}
    assert refused == set(TARGETS)
    assert "MATSEG_FUZZ_CANARY" not in os.environ
