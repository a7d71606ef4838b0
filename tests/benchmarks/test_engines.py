"""Engines side by side, and the page of all that was measured; no time is asserted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from thoroughness import slow

from matseg_shared.errors import UsageError

FOLDER = Path(__file__).parents[2] / "benchmarks"
PEERS = """# Peers

`python benchmarks/peers.py`, 2026-11-29

- processor: one of ours

| what             | ms a slice      | x bare |
|------------------|-----------------|--------|
| bare onnxruntime | 40 (39 to 41)   | 1.00   |
| another <program> | 100 (99 to 101) | 2.50   |
"""
END_TO_END = """# End to end

`python benchmarks/end_to_end.py --model one-fast.onnx`, 2026-11-29

| what                  | script, s  | matseg-run, s   | before and after the slices, s |
|-----------------------|------------|-----------------|--------------------------------|
| zarr to zarr, 10 slices  | 9 (8 to 9) | 9 (8 to 9)      | 1                              |
| zarr to zarr, 100 slices | 2 (2 to 2) | 2.5 (2.4 to 2.6) | 0.5                            |
"""


@pytest.fixture(scope="module")
def engines() -> ModuleType:
    """The benchmark, which imports others by their plain names."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module("engines")


def comparison(engines: ModuleType) -> object:
    row = engines.EngineRow
    return engines.Comparison(
        date="2026-11-29",
        machine=["processor: one of ours"],
        size=864,
        threads=2,
        images={"validate": 2, "test": 0},
        rows=[
            row(
                name=engines.FP32,
                one=[40.0, 42.0],
                each=[39.0, 60.0],
                faster=1.0,
                mean_iou={"validate": 0.98},
            ),
            row(name=engines.OURS, one=[12.0, 14.0], faster=3.2, mean_iou={"validate": 0.979}, unlike=1e-4),
            row(name="worse", one=[10.0, 10.0], faster=4.1, mean_iou={"validate": 0.977}, unlike=1e-2),
            row(name="OpenVINO, fp32", left_out="it has no bf16"),
        ],
        operations=12e9,
        rates={"fp32": 500e9, "int8": 2000e9},
    )


def test_engines_are_judged_by_one_gate(engines: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    engines.render({"zoo:one": comparison(engines)}, None)
    rows = {name: cells for name, *cells in table_rows(capsys.readouterr().out)}
    assert rows[engines.OURS] == ["13 (12 to 14)", "", "3.20", "0.9790", "", "kept", "1.0e-04"]
    assert rows["worse"][5] == "FAILED"
    assert rows["OpenVINO, fp32"][0] == "left out: it has no bf16"
    assert engines.better(comparison(engines).rows[0]) == [40.0, 42.0]  # type: ignore[attr-defined]


def test_labels_are_compared_without_padding(engines: ModuleType, tmp_path: Path) -> None:
    """Each engine's labels are held to the truth and to those of fp32, per split."""
    truth = {"validate_0": np.zeros((3, 5), np.uint8), "test_0": np.ones((4, 4), np.uint8)}
    truth["validate_0"][0] = 1
    files = engines.EngineFiles(tmp_path)
    padded = {
        name: np.pad(labels, [(0, 8 - len(labels)), (0, 8 - labels.shape[1])])[np.newaxis]
        for name, labels in truth.items()
    }
    np.savez(engines._labels(files, engines.ENGINES[0]), **padded)
    padded["validate_0"][0, 0, 0] = 0
    np.savez(engines._labels(files, engines.ENGINES[1]), **padded)
    names = [engine.name for engine in engines.ENGINES]
    outcomes = {
        f"{names[0]}/one": engines.Outcome(milliseconds=[5.0]),
        f"{names[1]}/one": engines.Outcome(milliseconds=[2.0]),
        f"{names[1]}/each": engines.Outcome(milliseconds=[1.0]),
        f"{names[2]}/one": engines.Outcome(left_out="cannot be had"),
    }
    first, second, third = engines._rows(outcomes, files, truth)
    assert (first.unlike, first.mean_iou) == (0.0, {"validate": 1.0, "test": 1.0})
    assert second.unlike == pytest.approx(1 / 31)
    assert second.mean_iou["validate"] == pytest.approx((4 / 5 + 10 / 11) / 2)
    assert (first.faster, second.faster) == (1.0, 5.0)
    assert third.left_out == "cannot be had"


def test_the_page_puts_all_side_by_side(engines: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "engines.json"
    done = overview(tmp_path)
    assert done.returncode == 2
    assert "expected engines.json" in done.stderr
    results.write_text(json.dumps({"zoo:one": engines.asdict(comparison(engines))}))
    done = overview(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Not measured: python benchmarks/peers.py" in done.stdout
    (tmp_path / "peers.md").write_text(PEERS)
    (tmp_path / "end_to_end.md").write_text(END_TO_END)
    done = overview(tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    numbers = {name: [float(cell) for cell in cells] for name, *cells in rows if name != "what"}
    assert numbers["limit, int8"] == [6, 6, 0, 0, 0]
    assert numbers[engines.OURS] == [13, 6, 7, 0, 0]
    assert numbers["another <program>"] == [100, 24, 16, 60, 0]
    assert numbers["a short script, zarr to zarr, 100 slices"] == [20, 6, 7, 7, 0]
    assert numbers["matseg-run, zarr to zarr, 100 slices"] == [25, 6, 7, 7, 5]
    page = (tmp_path / "overview.html").read_text()
    assert "another &lt;program&gt;" in page
    assert "width: 60.0%" in page
    assert done.stdout.startswith((tmp_path / "overview.md").read_text())
    results.write_text("[1]")
    with pytest.raises(UsageError, match=r"measurements of benchmarks/engines\.py"):
        engines.load(results)


def table_rows(text: str) -> list[list[str]]:
    """Cells of the rows of all tables, headers included."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def overview(results: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "overview.py"), str(results)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@slow
def test_engines(tmp_path: Path) -> None:
    """The demo's model and its data, in onnxruntime and torch; nothing is installed."""
    command = [sys.executable, str(FOLDER / "engines.py"), "--quick", "--without-openvino"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path / "engines.json"), "--scratch", str(tmp_path / "scratch")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "engines.json").read_text())["zoo:dendrites"]["rows"]
    measured = {row["name"]: row for row in rows if row["one"]}
    assert len(measured) == 4
    assert all(row["mean_iou"]["validate"] > 0.9 for row in measured.values())
    assert measured["torch eager, fp32"]["unlike"] < 1e-4
