"""Every benchmark runs at a tiny size and prints its table; no time is asserted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import onnx_models
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ("--repeats", "1", "--slices", "4")


@pytest.fixture(scope="session")
def common() -> ModuleType:
    """The module that all benchmarks share, which is no package's."""
    spec = importlib.util.spec_from_file_location("benchmarks_common", FOLDER / "_common.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a benchmark as a reader does."""
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table_rows(text: str) -> list[list[str]]:
    """Cells of the rows of the only table, without its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_startup(tmp_path: Path) -> None:
    done = call("startup.py", *TINY, "--size", 48, "--scratch", tmp_path, "--save", tmp_path / "report.md")
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert [row[0] for row in rows] == ["python -c pass", "matseg-run --help", "start to first label image"]
    assert "`python benchmarks/startup.py --repeats 1 --slices 4 --size 48`" in done.stdout
    assert "processor: " in done.stdout
    assert (tmp_path / "report.md").read_text() == done.stdout.rstrip() + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"], "inputs and outputs are left behind"


def test_end_to_end(tmp_path: Path) -> None:
    done = call("end_to_end.py", *TINY, "--size", 51, "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert [row[0].split(",")[0] for row in rows] == [
        "bare session",
        "bare session",
        "matseg-run",
        "matseg-run",
    ]
    assert rows[0][3] == "1.000"
    assert done.stdout.count(f": 0 of {4 * 51 * 51} pixels labelled differently") == 2


def test_end_to_end_on_images_of_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 36), (100 + number,) * 3).save(images / f"{number}.png")
    done = call("end_to_end.py", *TINY, "--images", images)
    assert done.returncode == 0, done.stderr
    assert "4 slices (from images) of 36 x 40 pixels" in done.stdout
    Image.new("L", (40, 37), 100).save(images / "3.png")
    refused = call("end_to_end.py", *TINY, "--images", images)
    assert refused.returncode == 2
    assert "3.png: expected (36, 40) uint8 pixels like the first image" in refused.stderr


def test_parts(tmp_path: Path) -> None:
    done = call("parts.py", "--repeats", 1, "--slices", 18, "--size", 48, "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    confinable = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) >= 2
    kinds = ["a core each", "one thread each"] if confinable else ["one thread each"]
    rows = [row[:2] for row in table_rows(done.stdout)]
    assert rows == [[sink, kind] for sink in ("PNG folder", "zarr") for kind in kinds]
    assert done.stdout.count("labels of the whole and of the parts are equal") == 2


def test_kills(tmp_path: Path) -> None:
    """A few real kills for each sink; any difference from the undisturbed run would fail it."""
    model = onnx_models.save_model(tmp_path / "model.onnx")
    scan = tmp_path / "scan"
    scan.mkdir()
    for number in range(12):
        Image.fromarray(onnx_models.random_pixels((64, 64), "uint8", number)).save(scan / f"s{number}.png")
    done = call("kills.py", model, scan, "--kills", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 failure(s)") == 3


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not account for memory")
@pytest.mark.parametrize("extra", [(), ("--full",)])
def test_memory(tmp_path: Path, extra: tuple[str, ...]) -> None:
    volumes = ("--small", "50KB", "--large", "500KB", "--size", 64)
    done = call("memory.py", *TINY, *volumes, *extra, "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    labelled = [row[:3] for row in table_rows(done.stdout)]
    assert labelled == (
        [["50KB", "12", "12"], ["500KB", "122", "122"]]
        if extra
        else [["50KB", "12", "4"], ["500KB", "122", "4"]]
    )


def test_memory_needs_volumes_of_enough_slices(tmp_path: Path) -> None:
    if not hasattr(os, "wait4"):
        pytest.skip("this system does not account for memory")
    done = call("memory.py", "--slices", 40, "--small", "50KB", "--size", 64, "--scratch", tmp_path)
    assert done.returncode == 2
    assert "at least the 40 to label" in done.stderr


def test_peers_without_their_environments(tmp_path: Path) -> None:
    done = call("peers.py", *TINY, "--size", 70, "--tile", 48, "--without-peers", "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert len(rows) == 3
    assert [row[4:6] for row in rows] == [["0", "0"]] * 3, "tiles must label as whole slices do"


def test_a_peer_that_cannot_be_installed_is_left_out(tmp_path: Path) -> None:
    blocked = tmp_path / "environments"
    blocked.mkdir()
    (blocked / "bioimageio").write_text("a file where its folder should be")
    # an index that does not exist, and none of the machine's own
    environment = {
        **os.environ,
        "PIP_INDEX_URL": (tmp_path / "no-index").as_uri(),
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }
    command = [sys.executable, str(FOLDER / "peers.py"), *TINY, "--size", "70", "--tile", "48"]
    done = subprocess.run(
        [*command, "--environments", str(blocked), "--scratch", str(tmp_path / "scratch")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "left out: monai cannot be installed here: " in done.stdout
    assert "left out: bioimageio cannot be installed here: " in done.stdout
    assert len(table_rows(done.stdout)) == 3


def test_statistics(common: ModuleType) -> None:
    assert common.median([3.0, 1.0, 2.0]) == 2.0
    assert common.paired_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0
    assert common.spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert common.spread([1234.5]) == "1234 (1234 to 1234)"
    assert common.verdict(1.2, 1.05) == "at most 1.05: MISSED"
    assert common.verdict(1.9, 1.8, at_least=True) == "at least 1.8: met"
    assert common.markdown_table(["a", "bb"], [["ccc", "d"]]) == "| a   | bb |\n|-----|----|\n| ccc | d  |"


def test_contestants_take_turns(common: ModuleType) -> None:
    turns: list[str] = []
    contestants = {name: (lambda name=name: turns.append(name)) for name in "AB"}
    outcomes = common.interleaved(contestants, 2)
    assert "".join(turns) == "ABABAB"
    assert {name: len(entries) for name, entries in outcomes.items()} == {"A": 2, "B": 2}


def test_a_busy_machine_is_told(common: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "busy_cores", lambda: 1.5)
    assert "others kept 1.5 cores busy" in common.busy_warning("now")
    monkeypatch.setattr(common, "busy_cores", lambda: 0.05)
    assert common.busy_warning("now") is None
