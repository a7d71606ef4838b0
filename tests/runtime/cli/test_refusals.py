"""Options that exclude each other are refused before a model or an input is looked for."""

from __future__ import annotations

import itertools

import pytest
from click.testing import CliRunner

from matseg_runtime.cli.run import run_main

VALUES = {
    "--watch": (),
    "--finish": (),
    "--overwrite": (),
    "--pyramid": (),
    "--probabilities": (),
    "--quantify": (),
    "--dask": ("tcp://localhost:1",),
    "--part": ("1/2",),
    "--label": ("phases",),
    "--output": ("out",),
    "--until": ("3",),
    "--idle": ("3",),
    "--uncertain": ("2",),
    "--uncertain-crop": ("32",),
    "--uncertain-spacing": ("2",),
    "--connectivity": ("4",),
}
EXCLUDED = {
    frozenset(pair)
    for first, *others in (
        ("--watch", "--dask", "--part", "--finish"),
        ("--dask", "--part"),
        ("--overwrite", "--finish"),
        ("--label", "--output", "--pyramid", "--probabilities"),
    )
    for pair in itertools.product((first,), others)
}
NEEDED = {
    "--until": "--watch",
    "--idle": "--watch",
    "--uncertain-crop": "--uncertain",
    "--uncertain-spacing": "--uncertain",
    "--connectivity": "--quantify",
}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(VALUES, 2)))
def test_only_what_cannot_be_combined_is_refused(first: str, second: str) -> None:
    words = [first, *VALUES[first], second, *VALUES[second]]
    result = CliRunner().invoke(run_main, ["nowhere.onnx", "nowhere", *words])
    assert result.exit_code == 2
    told = result.stderr.splitlines()[-1]
    alone = [name for name in (first, second) if name in NEEDED and NEEDED[name] not in (first, second)]
    if frozenset((first, second)) in EXCLUDED:
        assert told.endswith("cannot be combined; leave one of them out")
        assert first in told
        assert second in told
    elif alone:
        assert told in [f"Error: {name} applies with {NEEDED[name]} only" for name in alone]
    else:
        assert "cannot be combined" not in told
        assert "applies with" not in told


def test_one_part_of_one_is_the_whole() -> None:
    result = CliRunner().invoke(run_main, ["nowhere.onnx", "nowhere", "--dask", "a", "--part", "1/1"])
    assert "cannot be combined" not in result.stderr
