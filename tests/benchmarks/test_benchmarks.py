"""Every benchmark runs at a tiny size and prints its table; no time is asserted."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import onnx_models
import pytest
import tifffile
from discs import write_discs
from PIL import Image
from published_weights import vgg16
from scipy import ndimage
from thoroughness import slow

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import UsageError
from matseg_trainer.evaluate.document import read_evaluation
from matseg_trainer.evaluate.overlay import FALSE_NEGATIVE, FALSE_POSITIVE
from models_zoo.build.commands import run_command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
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


def load_benchmark(name: str) -> ModuleType:
    """A module of the benchmarks, which import one another by their plain names."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


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
    done = call("end_to_end.py", *TINY, "--slices", 18, "--size", 51, "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    kinds = ("PNG folder to PNG folder", "zarr to zarr")
    rows = table_rows(done.stdout)
    assert [row[0] for row in rows] == [f"{kind}, {count} slices" for count in (4, 18) for kind in kinds]
    assert done.stdout.count(f": 0 of {4 * 51 * 51} pixels labelled differently") == 2
    assert done.stdout.count(f": 0 of {18 * 51 * 51} pixels labelled differently") == 2


def test_end_to_end_on_images_of_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 36), (100 + number,) * 3).save(images / f"{number}.png")
    done = call("end_to_end.py", *TINY, "--images", images)
    assert done.returncode == 0, done.stderr
    assert "Slices (from images) of 36 x 40 pixels" in done.stdout
    Image.new("L", (40, 37), 100).save(images / "3.png")
    refused = call("end_to_end.py", *TINY, "--images", images)
    assert refused.returncode == 2
    assert "3.png: expected (36, 40) uint8 pixels like the first image" in refused.stderr


def test_context(tmp_path: Path) -> None:
    done = call(
        "context.py", "--repeats", 1, "--slices", 5, "--size", 48, "--width", 4, "--scratch", tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = [row[0] for row in table_rows(done.stdout)]
    assert rows == ["memory, stacked", "zarr, with context", "PNG folder, with context"]
    assert "Labels are equal." in done.stdout


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


def test_kills_of_a_consensus(tmp_path: Path) -> None:
    model = onnx_models.save_model(tmp_path / "model.onnx")
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((20, 36, 34), "uint8", 1))
    done = call("kills.py", model, tmp_path / "scan.npy", "--kills", 2, "--consensus")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failure(s)" in done.stdout


def test_consensus(tmp_path: Path) -> None:
    done = call("consensus.py", "--repeats", 1, "--slices", 20, "--size", 36, "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert [row[0] for row in rows] == ["one pass", "--consensus 0,1,2"]
    assert "at most 3.6" in rows[1][3]
    assert "at most 1.1" in rows[1][6]


@slow
def test_soak(tmp_path: Path) -> None:
    """Some seconds of the hour: files written in every way, kills, and each label that of a clean run."""
    done = call("soak.py", "--seconds", 12, "--rate", 4, "--life", 6, "--scratch", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    rows = {row[0]: row for row in table_rows(done.stdout)}
    for run in ("steady", "disturbed"):
        assert int(rows[run][1]) > 10
        assert rows[run][-1] == "0"


def test_strokes_are_drawn_inside_their_classes() -> None:
    strokes = load_benchmark("strokes")
    y, x = np.mgrid[:120, :160]
    labels = np.where((y - 60) ** 2 + (x - 40) ** 2 < 900, 1, 0).astype(np.uint8)
    labels[:, 100] = 2  # thinner than a brush
    drawn, again = (strokes.draw_strokes(labels, 0.1, np.random.default_rng(3)) for _ in range(2))
    known = drawn != UNLABELLED
    assert (drawn == again).all()
    assert (drawn[known] == labels[known]).all()
    assert known.sum() == 1920
    counts = np.bincount(drawn[known], minlength=3)
    assert counts[2] == 60, "half of a small class, and the rest of its part for the others"
    assert counts[:2].tolist() == [930, 930]
    _, count = ndimage.label(known, np.ones((3, 3)))
    assert count < 200, "lines, not single pixels"
    assert (drawn != strokes.draw_strokes(labels, 0.1, np.random.default_rng(4))).any()


@slow
def test_strokes(tmp_path: Path) -> None:
    write_discs(tmp_path, {"train": 2, "validate": 1, "test": 1}, (280, 290))
    (tmp_path / "data" / "discs").rename(tmp_path / "data" / "tomography")
    words = ("--data", tmp_path / "data", "--work", tmp_path / "work", "--set", "tomography", "--epochs", 1)
    done = call("strokes.py", *words, "--images", 1, "--share", 0.1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row[:3] for row in table_rows(done.stdout)] == [["tomography", "1", "10.00%"]] * 2


def test_regions_3d() -> None:
    """Memory of twice as many slices is printed beside that of half of them."""
    done = call("regions_3d.py", "--shape", "6,40,50", "--shape", "12,40,50", "--workers", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table_rows(done.stdout)
    assert [row[0] for row in rows] == ["6 x 40 x 50", "12 x 40 x 50"]
    assert int(rows[1][1]) > int(rows[0][1]) > 10


def test_labels_of_volumes_are_compared_with_the_truth() -> None:
    volumes = load_benchmark("_volumes")
    truth = np.zeros((12, 20, 20), np.uint8)
    truth[:, :, 10:] = 1
    same = volumes.figures(truth, truth)
    assert (same.mean_iou, same.displacement, same.flips, same.surface) == (1.0, 0.0, 0.0, 1.0)
    moved = np.roll(truth, 2, axis=2)
    moved[:, :, :2] = 0
    found = volumes.figures(truth, moved)
    assert found.displacement == 1.5, "the boundary is two voxels thick: those in between are one apart"
    assert found.mean_iou == pytest.approx((10 / 12 + 8 / 10) / 2)
    flickering = truth.copy()
    flickering[5] = 1 - flickering[5]
    assert volumes.figures(truth, flickering).flips == pytest.approx(1 / 10)
    assert volumes.figures(truth, flickering).surface > 1.2


def test_simulated_scans_show_their_labels(tmp_path: Path) -> None:
    volumes = load_benchmark("_volumes")
    labels = np.kron(np.random.default_rng(0).integers(0, 2, (6, 5, 5)), np.ones((5, 8, 8))) * 255
    tifffile.imwrite(tmp_path / "balls.tif", labels.astype(np.uint8), photometric="minisblack")
    case = volumes.simulated(tmp_path / "balls.tif", (12, 32), 0)
    assert case.name == "balls"
    for grey, truth in (case.train, case.test):
        assert grey.shape == truth.shape == (12, 32, 32)
        assert set(np.unique(truth)) == {0, 1}
        assert 15 < float(grey[truth == 1].mean()) - float(grey[truth == 0].mean()) < 35
    np.save(tmp_path / "a.npy", labels)
    tifffile.imwrite(tmp_path / "many.tif", np.arange(4000, dtype=np.uint16).reshape(10, 20, 20))
    with pytest.raises(UsageError, match="expected a volume of 2 to 8 classes, found 3 axes and 4000"):
        volumes.simulated(tmp_path / "many.tif", (12, 32), 0)


@slow
def test_volumes(tmp_path: Path) -> None:
    """Every arm, tiny; what is done is not done again."""
    words = (
        "--work",
        tmp_path,
        "--edge",
        48,
        "--depth",
        12,
        "--slices",
        2,
        "--steps",
        10,
        "--seeds",
        2,
        "--width",
        2,
        "--picture",
        tmp_path / "gain.png",
    )
    done = call("volumes.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row[0]: row for row in table_rows(done.stdout)}
    assert {"one slice", "one slice, ensemble"} <= set(rows)
    assert rows["one slice"][1] == "2"
    assert rows["one slice, ensemble"][1] == "1"
    with Image.open(tmp_path / "gain.png") as picture:
        assert picture.width > 1000
    assert call("volumes.py", *words).stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]


def test_mutated_models(tmp_path: Path) -> None:
    """One process of mutations; a crash, or a file that onnx sees more in, would fail it."""
    model = onnx_models.save_model(tmp_path / "model.onnx")
    done = call("mutated_models.py", model, "--seconds", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("300 mutations: ")
    assert "0 processes crashed" in done.stdout


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


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not account for memory")
def test_memory_of_containers(tmp_path: Path) -> None:
    words = (
        "--repeats",
        1,
        "--slices",
        49,
        "--size",
        32,
        "--only",
        "HDF5",
        "--only",
        "PNG",
        "--memory",
        "2GB",
    )
    done = call("memory_inputs.py", *words, "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout)
    assert [row[:2] for row in rows] == [
        ["HDF5, gzip, a layer of 48 slices in one chunk", "2GB"],
        ["HDF5, gzip, 48 x 256 x 256", "2GB"],
        ["PNG folder", "2GB"],
    ]
    assert all("met" in row[3] for row in rows)


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


def test_a_peer_that_cannot_be_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bioimageio").write_text("a file where its folder should be")
    # an index that does not exist, and none of the machine's own
    for name, value in {
        "PIP_INDEX_URL": (tmp_path / "no-index").as_uri(),
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    make = venv.create  # without a pip of its own, which takes long
    monkeypatch.setattr(venv, "create", lambda folder, **_: make(folder, system_site_packages=True))
    report = load_benchmark("_common").Report()
    assert load_benchmark("peers")._environments(report, tmp_path) == {}
    said = "\n".join(report.lines)
    assert "left out: monai cannot be installed here: " in said
    assert "left out: bioimageio cannot be installed here: " in said


def test_networks_and_their_table(tmp_path: Path) -> None:
    """A part is measured, kept, and printed again beside those of later runs."""
    results = tmp_path / "networks.json"
    done = call("networks.py", "--quick", "--only", "unet", "--threads", 1, "--results", results)
    assert done.returncode == 0, done.stderr
    rows = {row[0]: row for row in table_rows(done.stdout)}
    assert list(rows) == [
        "torch eager fp32, image by image (the guide's way)",
        "torch, bf16 autocast",
        *(
            f"ONNX {kind}, {how}"
            for kind in ("fp32", "int8")
            for how in ("one call on all threads", "a call on each thread")
        ),
    ]
    assert all(float(row[3]) > 0 for row in rows.values()), "a way was left out"
    document = json.loads(results.read_text())
    assert document["sections"]["unet"]["operations"] > 1e6
    document["sections"]["segnet"] = {**document["sections"]["unet"], "title": "an earlier run's"}
    document["rates"] = {"1": {"fp32": 1e9, "int8": 2e9}}
    results.write_text(json.dumps(document))
    module = load_benchmark("_measured")
    measured = module.load(results)
    report = load_benchmark("_common").Report()
    module.print_section(report, measured.sections["segnet"], measured.rates["1"])
    text = "\n".join(report.lines)
    assert "an earlier run's" in text
    limit = float(table_rows(text)[0][5])
    row = measured.sections["segnet"].rows[0]
    assert limit == pytest.approx(
        row.milliseconds[0] / (document["sections"]["unet"]["operations"] / 1e6), rel=0.05
    )
    results.write_text('{"sections": 3}')
    with pytest.raises(UsageError, match=r"expected the measurements of benchmarks/networks\.py"):
        module.load(results)


def test_the_naive_pixelnet_is_ours() -> None:
    """The network that PixelNet is compared with computes the same function."""
    import torch

    module = load_benchmark("_full_width")
    images = torch.randn(1, 1, 48, 32, generator=torch.Generator().manual_seed(0))
    network = module.settled_network("pixelnet", 2, images)
    with torch.inference_mode():
        torch.testing.assert_close(module.naive_pixelnet(network, images, pixels=500), network(images))


def test_profile_of_a_graph(tmp_path: Path) -> None:
    model = onnx_models.save_model(tmp_path / "model.onnx")
    done = call("profile_graph.py", model, "--size", 48, "--runs", 1, "--threads", 1)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stdout.partition("| layer")[0])
    assert any("Conv" in row[0] for row in rows)
    assert sum(float(row[3].rstrip("%")) for row in rows) == pytest.approx(100, abs=len(rows) * 0.06)
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    refused = call("profile_graph.py", tmp_path / "other.onnx")
    assert refused.returncode == 2
    assert "other.onnx: expected an ONNX file" in refused.stderr


def test_gpu_with_the_cpu_in_its_place(tmp_path: Path) -> None:
    done = call("gpu.py", "--dry", "--only", "ways", "--only", "failures", "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "DRY: the CPU stands for the GPU" in done.stdout
    rows = {row[1]: row for row in table_rows(done.stdout)}
    assert float(rows["as matseg-run does"][2]) > 0
    assert rows["CUDA graph"][8] == "left out: an option of the CUDA provider"
    assert float(rows["patchunet fp32, 4 of 128 x 128 pixels"][2]) > 0
    assert "exit code 3: Error: " in rows["an unknown GPU"][8]
    assert rows["a GPU whose memory another job has"][8] == "left out: needs a GPU"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('{\"milliseconds\": 1.5}', flush=True); import time; time.sleep(60)", "not done after 1 s"),
        ("print('{\"milliseconds\": 1.5}'); raise SystemExit('CUDA is lost')", "CUDA is lost"),
    ],
)
def test_gpu_rows_before_a_failure_count(program: str, reason: str) -> None:
    gpu = load_benchmark("gpu")
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert gpu._rows(process, 1.0) == [{"milliseconds": 1.5}, {"left_out": reason}]


def test_front(tmp_path: Path) -> None:
    points = tmp_path / "front.json"
    base = {"network": "net", "way": "ONNX fp32"}
    entries = [
        {**base, "iou": 0.9, "milliseconds": 100.0},
        {**base, "iou": 0.8, "section": "unet", "row": "none"},
        {**base, "milliseconds": 5.0},
    ]
    points.write_text(json.dumps({"measure": "mean IoU", "points": entries}))
    command = (
        "front.py",
        "--points",
        points,
        "--measured",
        tmp_path / "none.json",
        "--out",
        tmp_path / "f.png",
    )
    done = call(*command)
    assert done.returncode == 0, done.stderr
    assert "mean IoU 0.9000, 7.26 Mpixel/s" in done.stdout
    assert "no time for it in none.json" in done.stdout
    assert "no accuracy for it in front.json" in done.stdout
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > 500
    points.write_text(json.dumps({"measure": "mean IoU", "points": [{**base, "way": "by hand"}]}))
    refused = call(*command)
    assert refused.returncode == 2
    assert "found by hand" in refused.stderr
    front = load_benchmark("front")
    assert front.front_of([(1, 0.9), (2, 0.95), (3, 0.8), (0.5, 0.94)]) == [(2, 0.95), (3, 0.8)]
    near = front.label_offsets([(0.5, 0.5), (0.52, 0.5), (0.9, 0.5)])
    assert near[0] != near[1]
    assert near[0] == near[2]
    assert front.label_offsets([(0.5, 0.5), (0.5, 0.53)])[0] < 0  # above it lies a mark


def test_worst(tmp_path: Path) -> None:
    shutil.copy(ROOT / "config.toml", tmp_path)
    model = ROOT / "models_zoo" / "dendrites" / "model.onnx"
    for command in (
        ["matseg-prep", "demo", "demo", "--train", 1, "--validate", 1, "--raw", 0],
        ["matseg-evaluate", "demo", "v1", "--model", model, "--no-report"],
    ):
        run_command([str(word) for word in command], tmp_path)
    log, picture = tmp_path / "log" / "demo_v1_test_onnx.json", tmp_path / "worst.png"
    done = call("worst.py", log, "--out", picture, "--count", 3, "--edge", 64)
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as image:
        assert image.width > 2 * 300
    worst, document = load_benchmark("worst"), read_evaluation(log)
    first = document.worst_first[0]
    region = first.disagreement.largest_region
    assert region is not None
    square = worst.worst_square(document, first, log.parent, 64)
    assert square.shape == (64, 64, 3)
    mark = FALSE_POSITIVE if region.predicted == 1 else FALSE_NEGATIVE
    assert (square == mark).all(axis=-1).sum() >= region.pixels / 2
    whole = worst.worst_square(document, first, log.parent, 10_000)
    wrong = (whole == FALSE_POSITIVE).all(axis=-1) | (whole == FALSE_NEGATIVE).all(axis=-1)
    assert wrong.sum() == first.disagreement.wrong_pixels
    (log.parent / first.prediction).unlink()
    refused = call("worst.py", log, "--out", picture)
    assert refused.returncode == 2
    assert Path(first.prediction).name in refused.stderr


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


def test_weights_of_hed_are_those_of_vgg16(tmp_path: Path) -> None:
    """Names are torchvision's, axes are torch's, and the first layer takes red before blue, of deviation 1."""
    hed = load_benchmark("hed_weights")
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "hed.h5", "w") as file:
        for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
            for name in ("conv2d", "conv2d_1", "conv2d_2")[:depth]:
                file[f"block{block}/layers/{name}/vars/0"] = rng.random((3, 3, 3, 5), dtype=np.float32)
                file[f"block{block}/layers/{name}/vars/1"] = rng.random(5, dtype=np.float32)
        state = hed.in_torchvisions_layout(file)
        first, last = (file[f"block{place}/vars/0"][()] for place in ("1/layers/conv2d", "5/layers/conv2d_2"))
    assert list(state) == [key for key in vgg16(norms=False) if key.startswith("features.")]
    scaled = first[..., ::-1, :] * np.float32(hed.DEVIATION)
    np.testing.assert_array_equal(state["features.0.weight"][4, :, 1, 2], scaled[1, 2, :, 4])
    np.testing.assert_array_equal(state["features.28.weight"][4, :, 1, 2], last[1, 2, :, 4])
