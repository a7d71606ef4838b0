"""Labelling slices while they are being written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import tifffile
from click.testing import Result
from PIL import Image

from matseg_runtime.source.watch import WatchOptions, WatchSource
from matseg_shared.errors import UsageError

Run = Callable[..., Result]
QUICK = 0.02


def _image(number: int) -> np.ndarray:
    return onnx_models.random_pixels((40, 48), "uint8", number)


def _write(folder: Path, number: int) -> None:
    tifffile.imwrite(folder / f"s{number}.tif", _image(number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to watch."""
    path = tmp_path / "live"
    path.mkdir()
    return path


def _options(**options: object) -> WatchOptions:
    return WatchOptions(poll_seconds=QUICK, **options)  # type: ignore[arg-type]


def test_a_half_written_image_waits_until_it_is_whole(folder: Path, tmp_path: Path) -> None:
    _write(tmp_path, 1)
    content = (tmp_path / "s1.tif").read_bytes()
    source = WatchSource(folder, _options(until=1))
    (folder / "s1.tif").write_bytes(content[: len(content) // 2])
    arrived: list[str] = []
    thread = threading.Thread(target=lambda: arrived.extend(item.name for item in source.arrivals()))
    thread.start()
    time.sleep(10 * QUICK)
    assert arrived == []
    (folder / "s1.tif").write_bytes(content)
    thread.join(timeout=5)
    assert arrived == ["s1"]
    np.testing.assert_array_equal(source.read(0, 1)[0], _image(1))


def test_until_idle_and_stop_end_it(folder: Path) -> None:
    for number in range(5):
        _write(folder, number)
    assert len(list(WatchSource(folder, _options(until=3)).arrivals())) == 3
    started = time.monotonic()
    assert len(list(WatchSource(folder, _options(idle_seconds=0.2)).arrivals())) == 5
    assert 0.2 <= time.monotonic() - started < 5
    source = WatchSource(folder, _options())
    arrivals = source.arrivals()
    assert next(arrivals).name == "s0"
    source.stop()
    assert len(list(arrivals)) <= 4


def test_what_never_becomes_whole_is_handed_out_in_the_end(folder: Path) -> None:
    _write(folder, 0)
    (folder / "s1.tif").write_bytes(b"II*\x00 cut short")
    source = WatchSource(folder, _options(idle_seconds=0.2))
    assert [item.name for item in source.arrivals()] == ["s0", "s1"]


def test_equal_names_and_other_files_are_skipped(folder: Path) -> None:
    _write(folder, 0)
    Image.fromarray(_image(1)).save(folder / "s0.png")
    (folder / "log.txt").write_text("beam on")
    source = WatchSource(folder, _options(idle_seconds=0.2))
    assert len(list(source.arrivals())) == 1
    reasons = {entry.path.name: entry.reason for entry in source.skipped}
    assert reasons["log.txt"] == "not an image file (.txt)"
    assert "has the same name and came first" in "".join(reasons.values())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder to watch"):
        WatchSource(tmp_path / "none", _options())


def test_a_run_labels_what_comes(run: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    def write_slowly() -> None:
        for number in range(6):
            _write(folder, number)
            time.sleep(0.05)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    out = tmp_path / "out"
    result = run(model, folder, "-o", out, "--watch", "--until", 6)
    writer.join()
    assert result.exit_code == 0, result.output
    assert "6 of 6 slices labelled" in result.output
    plain = tmp_path / "plain"
    assert run(model, folder, "-o", plain).exit_code == 0
    for number in range(6):
        assert (out / f"s{number}.png").read_bytes() == (plain / f"s{number}.png").read_bytes()
    _write(folder, 6)
    (folder / "s7.tif").write_bytes(b"II*\x00 cut short")
    result = run(model, folder, "-o", out, "--watch", "--idle", "0.3")
    assert result.exit_code == 4, result.output
    assert "1 of 8 slices labelled in this run, 6 before" in result.output
    assert [entry["name"] for entry in json.loads((out / "report.json").read_text())["set_aside"]] == ["s7"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "--part", "1/2"], "--watch and --part cannot be combined"),
        (["--watch", "--range", "1:2"], "--range does not apply"),
        (["--watch", "--idle", "0.1"], "no whole image has been written there"),
        (["--until", "3"], "--until applies with --watch only"),
        (["--watch", "--idle", "0"], "--idle"),
    ],
)
def test_wrong_use(run: Run, model: Path, folder: Path, arguments: list[str], message: str) -> None:
    result = run(model, folder, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_no_volume_of_a_growing_folder(run: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    _write(folder, 0)
    result = run(model, folder, "-o", tmp_path / "a.zarr", "--watch", "--until", "1")
    assert result.exit_code == 2
    assert "not one zarr" in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_ctrl_c_is_a_proper_end(model: Path, folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        _write(folder, number)
    code = "from matseg_runtime.cli import run_main; run_main()"
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(model), str(folder), "-o", str(out), "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while len(list(out.glob("s*.png"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0, printed
    assert "3 of 3 slices labelled" in printed
    assert (out / "phase_fractions.csv").exists()
