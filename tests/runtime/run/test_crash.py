"""Killed at any moment, the same command goes on, and the result is that of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import zarr
from folders import snapshot
from PIL import Image

SLICES = 40
COMMAND = [sys.executable, "-c", "from matseg_runtime.cli.run import run_main; run_main()"]


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for a slice to take some milliseconds."""
    return onnx_models.save_model(tmp_path_factory.mktemp("model") / "slow_v1.onnx", width=16, name="slow_v1")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same slices as a folder and as a zarr volume."""
    root = tmp_path_factory.mktemp("inputs")
    volume = onnx_models.random_pixels((SLICES, 200, 220), "uint8", 1)
    (root / "folder").mkdir()
    for number, image in enumerate(volume):
        Image.fromarray(image).save(root / "folder" / f"s{number:03}.png")
    array = zarr.create_array(
        str(root / "scan.zarr"), shape=volume.shape, chunks=(8, 128, 128), dtype="uint8"
    )
    array[:] = volume
    return root


@pytest.fixture(scope="module")
def undisturbed(
    slow_model: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of an undisturbed run, made once of each command."""
    made: dict[tuple[str, ...], Path] = {}

    def of(source: str, output: str, *extra: str) -> Path:
        command = (source, output, *extra)
        if command not in made:
            made[command] = tmp_path_factory.mktemp("whole")
            target = made[command] / output
            with _start(slow_model, inputs / source, "-o", target, *extra, "--threads", 1) as process:
                printed, _ = process.communicate()
            assert process.returncode == 0, printed
        return made[command]

    return of


def _results(root: Path) -> dict[str, bytes]:
    """All files but those that tell when a run took place, and the ledger."""
    return {
        name: content
        for name, content in snapshot(root).items()
        if "report" not in name and ".lock" not in name and "done-" not in name and "job.json" not in name
    }


def _start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _wait_for_ledger(process: subprocess.Popen[str], ledger: Path, lines: int) -> bool:
    """Until so many more units are done; False when the process ended before."""
    while process.poll() is None:
        if sum(path.read_bytes().count(b"\n") for path in ledger.glob("done-*.jsonl")) >= lines:
            return True
        time.sleep(0.002)
    return False


def _lines(ledger: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in ledger.glob("done-*.jsonl"))


@pytest.mark.parametrize(
    ("source", "output", "extra"),
    [
        ("folder", "out", []),
        ("scan.zarr", "out.zarr", ["--pyramid"]),
        ("folder", "out.tif", []),
    ],
)
def test_killed_again_and_again(
    slow_model: Path,
    inputs: Path,
    tmp_path: Path,
    undisturbed: Callable[..., Path],
    source: str,
    output: str,
    extra: list[str],
) -> None:
    dice = random.Random(f"{source} {output} {extra}")
    out = tmp_path / output
    ledger = out / ".matseg" if output == "out" else out.with_name(f"{output}.matseg")
    kills = 0
    for _ in range(3):
        with _start(slow_model, inputs / source, "-o", out, *extra, "--threads", 1) as process:
            if _wait_for_ledger(process, ledger, _lines(ledger) + 1):
                time.sleep(dice.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.communicate()
    assert kills > 0
    with _start(slow_model, inputs / source, "-o", out, *extra, "--threads", 1) as last:
        printed, _ = last.communicate()
    assert last.returncode == 0, printed
    # a killed process may leave unfinished files, whose names say so, beside the label images
    found = {n: c for n, c in _results(tmp_path).items() if not Path(n).name.startswith(".matseg-")}
    assert found == _results(undisturbed(source, output, *extra))
    assert max(_times_done(ledger).values()) == 1


def _times_done(ledger: Path) -> Counter[str]:
    done: Counter[str] = Counter()
    for path in ledger.glob("done-*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            try:
                done.update(record["name"] for record in json.loads(line).get("done", []))
            except ValueError:
                continue  # torn by the kill
    return done


def test_parts_of_which_some_are_killed(
    slow_model: Path, inputs: Path, tmp_path: Path, undisturbed: Callable[..., Path]
) -> None:
    out = tmp_path / "out.zarr"
    common = [slow_model, inputs / "scan.zarr", "-o", out, "--threads", 1]
    parts = {number: _start(*common, "--part", f"{number}/4") for number in range(1, 5)}
    ledger = tmp_path / "out.zarr.matseg"
    for number in (2, 4):
        while parts[number].poll() is None and not (ledger / f"done-{number}-of-4.jsonl").exists():
            time.sleep(0.002)
        parts[number].kill()
    for part in parts.values():
        part.communicate()
    assert not out.exists()
    for number in (2, 4):
        with _start(*common, "--part", f"{number}/4") as again:
            printed, _ = again.communicate()
        assert again.returncode == 0, printed
    single = undisturbed("scan.zarr", "out.zarr") / "out.zarr"
    np.testing.assert_array_equal(
        zarr.open_array(str(out), path="0", mode="r")[:],
        zarr.open_array(str(single), path="0", mode="r")[:],
    )
    assert snapshot(out) == snapshot(single)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
def test_an_interruption_finishes_what_is_in_flight(
    slow_model: Path, inputs: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    with _start(slow_model, inputs / "folder", "-o", out, "--threads", 1) as process:
        assert _wait_for_ledger(process, out / ".matseg", 3)
        process.send_signal(getattr(signal, kind))
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130, printed
    assert "run the same command again" in printed
    assert "Traceback" not in printed
    names = {path.stem for path in out.glob("*.png")}
    assert names == set(_times_done(out / ".matseg"))
    assert 3 <= len(names) < SLICES
    assert not list(out.glob(".matseg-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[int], Path]:
    """Mounts a disk of so many kilobytes, where this user may mount."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip("mounting a small disk takes privileges that are not here")
        mounted.append(folder)
        return folder

    yield mount  # type: ignore[misc]
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="uses tmpfs")
@pytest.mark.parametrize("output", ["out", "out.zarr", "out.tif"])
def test_a_disk_that_fills_up(
    slow_model: Path,
    inputs: Path,
    small_disk: Callable[[int], Path],
    undisturbed: Callable[..., Path],
    output: str,
) -> None:
    size = 120 if output == "out" else 200
    disk = small_disk(size)
    source = "scan.zarr" if output == "out.zarr" else "folder"
    command = (slow_model, inputs / source, "-o", disk / output, "--threads", 1)
    with _start(*command) as process:
        printed, _ = process.communicate()
    assert process.returncode == 1, printed
    assert "no space is left on that disk" in printed
    assert "Traceback" not in printed
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    with _start(*command) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert _results(disk) == _results(undisturbed(source, output))
