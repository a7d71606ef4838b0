"""The same run on another day, by another user, elsewhere on the disk, with other threads: equal byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from folders import snapshot

DAYS = 400
_ANOTHER_DAY = """
import datetime, sys, time
SHIFT = int(sys.argv.pop(1)) * 86400

for name, unit in (("time", 1), ("time_ns", 10**9)):
    setattr(time, name, lambda clock=getattr(time, name), unit=unit: clock() + SHIFT * unit)
for name in ("localtime", "gmtime"):
    setattr(time, name, lambda at=None, clock=getattr(time, name): clock(time.time() if at is None else at))

class Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=SHIFT)
    utcnow = today = now

datetime.datetime = Datetime
from matseg_runtime.cli.run import run_main
run_main()
"""
"""The command, with every clock that Python code can read set ahead."""

_TELLS_OF_THE_RUN = ("report", ".lock", "origin.json")
"""Reports and the page's record say when, where and how fast; nothing else may."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and a volume with a size in space."""
    import tifffile

    root = tmp_path_factory.mktemp("inputs")
    volume = onnx_models.random_pixels((5, 60, 72), "uint8", 3)
    np.putmask(
        volume, np.broadcast_to(np.arange(72) < 40, volume.shape) & (np.arange(5) == 2)[:, None, None], 7
    )
    size = {"axes": "ZYX", "spacing": 0.5, "unit": "um"}
    tifffile.imwrite(root / "scan.tif", volume, imagej=True, resolution=(2, 2), metadata=size)
    return onnx_models.save_model(root / "alloy_v1.onnx"), root / "scan.tif"


def _run(days: int, folder: Path, inputs: tuple[Path, Path], output: str, *more: str) -> dict[str, bytes]:
    """Results of one run in circumstances of its own."""
    folder.mkdir()
    elsewhere = {
        "TZ": "Asia/Kolkata" if days else "America/Lima",
        "PYTHONHASHSEED": str(days),
        "LC_ALL": "C.UTF-8" if days else "C",
        "HOME": str(folder),
    }
    command = [sys.executable, "-c", _ANOTHER_DAY, str(days), *map(str, inputs), "-o", str(folder / output)]
    done = subprocess.run(
        [*command, *more, "--threads", "2" if days else "1"],
        env={**os.environ, **elsewhere},
        cwd=folder,
        umask=0o077 if days else 0o022,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: _comparable(name, content, folder)
        for name, content in snapshot(folder).items()
        if not any(word in name for word in _TELLS_OF_THE_RUN)
    }


def _comparable(name: str, content: bytes, folder: Path) -> bytes:
    """A document may say where its labels lie, and a ledger's lines come in the order in which slices were done."""
    content = content.replace(str(folder).encode(), b"<folder>")
    return b"\n".join(sorted(content.split(b"\n"))) if name.endswith(".jsonl") else content


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("labels", ("--probabilities", "--quantify")),
        ("labels", ("--format", "tiff")),
        ("labels.tif", ("--quantify",)),
        ("labels.zarr", ("--pyramid",)),
        ("labels.zarr", ("--shards",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_run_on_another_day_is_the_same(
    tmp_path: Path, inputs: tuple[Path, Path], output: str, more: tuple[str, ...]
) -> None:
    first = _run(0, tmp_path / "first", inputs, output, *more)
    again = _run(DAYS, tmp_path / "again", inputs, output, *more)
    assert len(first) > 3
    assert {name for name in first if first[name] != again.get(name)} == set()
    assert first.keys() == again.keys()


def test_the_clock_is_set_ahead(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    """Or the comparison would be one of two runs on the same day."""
    import json

    for days in (0, DAYS):
        _run(days, tmp_path / str(days), inputs, "labels")
    years = [
        json.loads((tmp_path / str(days) / "labels" / "report.json").read_text())["started"]
        for days in (0, DAYS)
    ]
    assert years[0][:4] < years[1][:4]
