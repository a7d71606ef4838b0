"""Models that see neighbouring slices: from every source, by parts, watched and resumed, each slice read once."""

from __future__ import annotations

import _thread
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image

import matseg_runtime
from matseg_runtime.cli.model import inspect_main
from matseg_runtime.ledger import Part
from matseg_runtime.run.neighbours import Neighbours, ReadSlice
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.pipeline import WorkerCounts
from matseg_runtime.run.run import label
from matseg_runtime.run.setup import open_run
from matseg_runtime.sink.base import Result as SliceResult
from matseg_runtime.sink.target import OutputOptions
from matseg_runtime.source.base import Slice
from matseg_runtime.source.open import open_source
from matseg_runtime.source.order import consecutive_runs
from matseg_runtime.source.watch import WatchOptions, WatchSource
from matseg_shared.console.progress import SILENT
from matseg_shared.errors import ImageError
from matseg_shared.images.read import read_image
from matseg_shared.images.tiff import stored_context

Run = Callable[..., Result]
DEPTH = 10
SHAPE = (24, 32)


@pytest.fixture(scope="module", params=[1, 2])
def context(request: pytest.FixtureRequest) -> int:
    """Slices on either side."""
    return int(request.param)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey uint8 model that sees one slice on either side."""
    return onnx_models.save_model(
        tmp_path_factory.mktemp("m") / "c_v1.onnx", channels=3, context=1, name="c_v1"
    )


@pytest.fixture(scope="module")
def values() -> NDArray[np.uint8]:
    """(10, 24, 32) grey values."""
    return np.stack([onnx_models.random_pixels(SHAPE, "uint8", seed) for seed in range(DEPTH)])


def truth(model: Path, slices: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels of the middle one of some slices straight from onnxruntime."""
    return onnx_models.run_graph(onnx.load(model), slices[np.newaxis])[0][0]


def all_labels(model: Path, values: NDArray[Any], context: int = 1) -> NDArray[np.uint8]:
    """Labels of a volume, whose ends stand again for what is beyond."""
    around = [
        np.clip(np.arange(n - context, n + context + 1), 0, len(values) - 1) for n in range(len(values))
    ]
    return np.stack([truth(model, values[places]) for places in around])


def write_folder(folder: Path, values: NDArray[Any], numbers: range | list[int] | None = None) -> Path:
    """PNGs `s03.png` and so on."""
    folder.mkdir(exist_ok=True)
    for number in range(len(values)) if numbers is None else numbers:
        Image.fromarray(values[number]).save(folder / f"s{number:02d}.png")
    return folder


def images(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {path.stem: np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def _zarr(path: Path, values: NDArray[Any]) -> str:
    zarr.create_array(str(path / "scan.zarr"), data=values, chunks=(4, 12, 32))
    return str(path / "scan.zarr")


def _tiff(path: Path, values: NDArray[Any]) -> str:
    tifffile.imwrite(path / "scan.tif", values, photometric="minisblack")
    return str(path / "scan.tif")


def _hdf5(path: Path, values: NDArray[Any]) -> str:
    with h5py.File(path / "scan.h5", "w") as file:
        file.create_dataset("data", data=values, chunks=(3, 24, 32))
    return str(path / "scan.h5")


def _npy(path: Path, values: NDArray[Any]) -> str:
    np.save(path / "scan.npy", values)
    return str(path / "scan.npy")


def _folder(path: Path, values: NDArray[Any]) -> str:
    return str(write_folder(path / "scan", values))


@pytest.mark.parametrize("make", [_zarr, _tiff, _hdf5, _npy, _folder])
def test_neighbours_come_from_every_source_and_each_slice_is_read_once(
    make: Callable[[Path, NDArray[Any]], str], tmp_path: Path, values: NDArray[np.uint8], context: int
) -> None:
    model = onnx_models.save_model(
        tmp_path / "c_v1.onnx", channels=2 * context + 1, context=context, name="c_v1"
    )
    read: Counter[int] = Counter()
    options = RunOptions(
        model=model,
        input=make(tmp_path, values),
        output=OutputOptions(path=tmp_path / "labels"),
        provider="cpu",
    )
    with open_run(options, SILENT) as opened:
        run = replace(opened, plan=replace(opened.plan, workers=WorkerCounts()))
        original = run.source.read

        def counted(start: int, stop: int) -> Any:
            read.update(range(start, stop))
            return original(start, stop)

        run.source.read = counted  # type: ignore[method-assign]
        assert label(run).report.complete
    assert read == dict.fromkeys(range(DEPTH), 1)
    found = images(tmp_path / "labels")
    assert (np.stack(list(found.values())) == all_labels(model, values, context)).all()


def test_a_thread_that_falls_behind_is_waited_for(tmp_path: Path, values: NDArray[np.uint8]) -> None:
    """Others that ran ahead would have forgotten what it needs, which would be read again."""
    path = _zarr(tmp_path, values)
    read: Counter[int] = Counter()
    begun, go_on = threading.Event(), threading.Event()
    with closing(open_source(path)) as source:
        around = Neighbours(source, 1, depth=1, readers=2)

        def one(block: Sequence[Slice]) -> list[ReadSlice]:
            begun.set()
            if block[0].index == 1:
                assert go_on.wait(30)
            read.update(item.index for item in block)
            return [
                ReadSlice(SliceResult(slice=item, identity="", segmentation=None), values[item.index][None])
                for item in block
            ]

        with ThreadPoolExecutor(2) as threads:
            slow = threads.submit(around.around_each, source.slices[:1], one)
            assert begun.wait(30)
            fast = [
                threads.submit(around.around_each, source.slices[n : n + 1], one) for n in range(2, DEPTH)
            ]
            time.sleep(0.1)
            assert not read[3]  # of slice 2, which is two ahead
            go_on.set()
            seen = [slow.result()[0], *(each.result()[0] for each in fast)]
    assert read == dict.fromkeys(range(DEPTH), 1)
    assert [[int(image.image[0, 0, 0]) for image in each] for each in seen[-2:]] == [  # type: ignore[index]
        [int(values[n, 0, 0]) for n in places] for places in ([7, 8, 9], [8, 9, 9])
    ]


def test_slices_along_another_axis_and_channels_of_each(tmp_path: Path, run: Run) -> None:
    model = onnx_models.save_model(tmp_path / "c_v1.onnx", channels=6, context=1, name="c_v1")
    volume = onnx_models.random_pixels((2, 24, 6, 32), "uint8", 0)
    np.save(tmp_path / "scan.npy", volume)
    asked = (model, tmp_path / "scan.npy", "--axes", "czyx", "--axis", 1, "-o", tmp_path / "labels")
    assert run(*asked).exit_code == 0
    around = volume[:, :, [1, 2, 3]]
    stacked = np.moveaxis(around, 2, 0).reshape(6, 24, 32)
    assert (images(tmp_path / "labels")["scan_0002"] == truth(model, stacked)).all()


def test_a_gap_in_the_numbers_is_an_edge(
    tmp_path: Path, run: Run, seeing: Path, values: NDArray[np.uint8]
) -> None:
    scan = write_folder(tmp_path / "scan", values, [0, 1, 2, 3, 6, 7, 8])
    assert run(seeing, scan, "-o", tmp_path / "labels").exit_code == 0
    found = images(tmp_path / "labels")
    assert (found["s03"] == truth(seeing, values[[2, 3, 3]])).all()
    assert (found["s06"] == truth(seeing, values[[6, 6, 7]])).all()


def test_a_range_sees_the_slices_beyond_it(
    tmp_path: Path, run: Run, seeing: Path, values: NDArray[np.uint8]
) -> None:
    scan = _zarr(tmp_path, values)
    assert run(seeing, scan, "--range", "3:8", "-o", tmp_path / "labels").exit_code == 0
    expected = all_labels(seeing, values)
    found = images(tmp_path / "labels")
    assert list(found) == [f"scan_{number:04d}" for number in range(3, 8)]
    assert (np.stack(list(found.values())) == expected[3:8]).all()


@pytest.mark.parametrize("make", [_zarr, _folder])
def test_parts_and_an_interrupted_run_give_the_bytes_of_a_single_one(
    make: Callable[[Path, NDArray[Any]], str],
    tmp_path: Path,
    run: Run,
    seeing: Path,
    values: NDArray[np.uint8],
) -> None:
    scan = make(tmp_path, values)
    for suffix in ("", ".zarr"):
        single, parts, resumed = (tmp_path / f"{name}{suffix}" for name in ("single", "parts", "resumed"))
        assert run(seeing, scan, "-o", single).exit_code == 0
        for number in (2, 1, 3):
            assert run(seeing, scan, "-o", parts, "--part", f"{number}/3").exit_code == 0
        assert run(seeing, scan, "-o", resumed, "--part", "1/2").exit_code == 0
        assert run(seeing, scan, "-o", resumed).exit_code == 0
        expected = labels_in(single)
        assert labels_in(parts) == labels_in(resumed) == expected
    assert (zarr.open(str(single), mode="r")["0"][:] == all_labels(seeing, values)).all()


def labels_in(path: Path) -> dict[str, bytes]:
    kept = (".png", "/0/c", "/0/zarr")
    return {
        name: content for name, content in snapshot(path).items() if any(part in f"/{name}" for part in kept)
    }


def test_images_that_come_later_change_the_labels_of_the_last_one_only(
    tmp_path: Path, run: Run, seeing: Path, values: NDArray[np.uint8]
) -> None:
    scan = write_folder(tmp_path / "scan", values, range(6))
    asked = (seeing, scan, "-o", tmp_path / "labels")
    assert run(*asked).exit_code == 0
    before = images(tmp_path / "labels")
    assert (before["s05"] == truth(seeing, values[[4, 5, 5]])).all()
    write_folder(scan, values, range(6, DEPTH))
    assert "done before: 5 of 10 slices" in run(*asked, "--dry-run").output
    assert "5 of 10 slices labelled in this run, 5 before" in " ".join(run(*asked).output.split())
    found = images(tmp_path / "labels")
    assert (np.stack(list(found.values())) == all_labels(seeing, values)).all()
    assert "0 of 10 slices labelled in this run" in run(*asked).output


def test_a_slice_beside_one_that_cannot_be_read_waits_until_it_is_mended(
    tmp_path: Path, run: Run, seeing: Path, values: NDArray[np.uint8]
) -> None:
    scan = write_folder(tmp_path / "scan", values)
    whole = (scan / "s04.png").read_bytes()
    (scan / "s04.png").write_bytes(whole[:60])
    asked = (seeing, scan, "-o", tmp_path / "labels")
    result = run(*asked)
    assert result.exit_code == 4
    assert "s05.png: has a neighbour that cannot be read" in " ".join(result.output.split())
    assert sorted(images(tmp_path / "labels")) == [f"s{n:02d}" for n in range(DEPTH) if n not in (3, 4, 5)]
    (scan / "s04.png").write_bytes(whole)
    assert run(*asked).exit_code == 0
    assert (np.stack(list(images(tmp_path / "labels").values())) == all_labels(seeing, values)).all()
    (scan / "s07.png").write_bytes(whole)
    assert "s07.png: has changed since it was labelled" in " ".join(run(*asked).output.split())


def test_neighbours_of_another_size_are_told(
    tmp_path: Path, run: Run, seeing: Path, values: NDArray[np.uint8]
) -> None:
    scan = write_folder(tmp_path / "scan", values)
    Image.fromarray(values[0, :20]).save(scan / "s09.png")
    result = run(seeing, scan, "-o", tmp_path / "labels")
    assert result.exit_code == 4
    assert "s08.png: expected neighbours of its 24 x 32 pixels" in " ".join(result.output.split())


def test_what_has_no_neighbours_is_refused_before_any_work(
    tmp_path: Path, run: Run, seeing: Path, values: NDArray[np.uint8]
) -> None:
    Image.fromarray(values[0]).save(tmp_path / "one.png")
    tifffile.imwrite(tmp_path / "one.tif", values[0])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "numbered").mkdir()
    for number, name in enumerate(("steel", "brass")):
        Image.fromarray(values[number]).save(tmp_path / "pictures" / f"{name}.png")
        Image.fromarray(values[number]).save(tmp_path / "numbered" / f"{name}{number}.png")
    for name, told in (
        ("one.tif", "found one image"),
        ("pictures", "found brass, which has no number in its name"),
        ("numbered", "found 2 images of which none follows another by its number"),
    ):
        result = run(seeing, tmp_path / name, "-o", tmp_path / "labels")
        assert result.exit_code == 2
        message = " ".join(result.output.split())
        assert "each is seen with its neighbours (context)" in message
        assert told in message
    assert not (tmp_path / "labels").exists()


def test_no_data_of_a_neighbour_is_the_slice_itself(tmp_path: Path, run: Run) -> None:
    model = onnx_models.save_model(
        tmp_path / "c_v1.onnx", channels=3, context=1, dtype="float32", name="c_v1"
    )
    values = np.stack([onnx_models.random_pixels(SHAPE, "float32", seed) for seed in range(4)])
    values[0, :6], values[1, 4:8] = np.nan, np.nan
    np.save(tmp_path / "scan.npy", values)
    mask = np.ones(values.shape, np.uint8)
    mask[2, 20:] = 0
    np.save(tmp_path / "mask.npy", mask)
    asked = (model, tmp_path / "scan.npy", "--axis", 0, "--mask", tmp_path / "mask.npy")
    assert run(*asked, "-o", tmp_path / "labels").exit_code == 0
    mean = onnx_models.build_metadata(dtype="float32").input.mean[0]
    seen = values[[0, 1, 2]]
    seen[0, :6] = values[1, :6]
    seen[2, 20:] = values[1, 20:]
    seen[:, 4:8] = mean
    expected = truth(model, seen)
    expected[4:8] = 255
    assert (images(tmp_path / "labels")["scan_0001"] == expected).all()


def test_proposals_hold_the_neighbours_that_training_needs(
    tmp_path: Path, run: Run, seeing: Path, values: NDArray[np.uint8]
) -> None:
    scan = write_folder(tmp_path / "scan", values)
    asked = (seeing, scan, "-o", tmp_path / "labels", "--uncertain", 2)
    for crop in ((), ("--uncertain-crop", 16)):
        assert run(*asked, *crop, "--overwrite").exit_code == 0
        found = sorted((tmp_path / "labels_uncertain" / "train" / "images").iterdir())
        assert [stored_context(path) for path in found] == [1, 1]
    number = int(found[0].name.partition("_s")[2][:2])
    y, x = (int(part[1:]) for part in (found[0].stem.split("_")[-1], found[0].stem.split("_")[-2]))
    around = np.clip([number - 1, number, number + 1], 0, DEPTH - 1)
    assert (np.moveaxis(read_image(found[0]), -1, 0) == values[around, y : y + 16, x : x + 16]).all()


def test_an_array_with_its_neighbours_is_labelled_from_python(
    seeing: Path, values: NDArray[np.uint8]
) -> None:
    model = matseg_runtime.open_model(seeing, provider="cpu")
    labels = matseg_runtime.segment(model, np.moveaxis(values[2:5], 0, -1))
    assert (labels == truth(seeing, values[2:5])).all()
    with pytest.raises(ImageError, match="expected 3 channels, of a slice with 1 neighbours on either side"):
        matseg_runtime.segment(model, values[2])


def test_inspect_says_the_context(seeing: Path, model: Path) -> None:
    shown = CliRunner().invoke(inspect_main, [str(seeing)]).output
    assert "1 slices on either side" in shown
    assert "context" in CliRunner().invoke(inspect_main, [str(model)]).output


def test_consensus_takes_the_neighbours_along_each_axis(tmp_path: Path, run: Run, seeing: Path) -> None:
    volume = onnx_models.random_pixels((8, 12, 16), "uint8", 3)
    zarr.create_array(str(tmp_path / "scan.zarr"), data=volume, chunks=(4, 12, 16))
    result = run(seeing, tmp_path / "scan.zarr", "-o", tmp_path / "labels.zarr", "--consensus")
    assert result.exit_code == 0, result.output
    votes = np.zeros((2, *volume.shape), int)
    for axis in range(3):
        slices = np.moveaxis(volume, axis, 0)
        for number in range(len(slices)):
            around = slices[np.clip([number - 1, number, number + 1], 0, len(slices) - 1)]
            chances = onnx_models.run_graph(onnx.load(seeing), around[np.newaxis])[1][0]
            np.moveaxis(votes, axis + 1, 1)[:, number] += np.rint(chances[:2] * 255).astype(int)
    expected = np.argmax([*votes, 3 * 255 - votes.sum(axis=0)], axis=0)
    assert (zarr.open(str(tmp_path / "labels.zarr"), mode="r")["0"][:] == expected).all()


def _watching(folder: Path, model: Path, output: Path, **ending: Any) -> RunOptions:
    return RunOptions(
        model=model,
        input=str(folder),
        output=OutputOptions(path=output),
        provider="cpu",
        watch=WatchOptions(poll_seconds=0.01, **ending),
    )


@pytest.mark.parametrize("order", [list(range(6)), [1, 0, 2, 4, 3, 5], [5, 4, 3, 2, 1, 0]])
def test_a_watched_folder_has_the_labels_of_a_run_over_the_whole(
    tmp_path: Path, seeing: Path, values: NDArray[np.uint8], order: list[int]
) -> None:
    scan = write_folder(tmp_path / "scan", values, order[:2])
    options = _watching(scan, seeing, tmp_path / "labels", until=6)

    def write() -> None:
        for number in order[2:]:
            time.sleep(0.1)
            write_folder(tmp_path / "parts", values, [number])
            (tmp_path / "parts" / f"s{number:02d}.png").rename(scan / f"s{number:02d}.png")

    writer = threading.Thread(target=write)
    writer.start()
    with open_run(options, SILENT) as run:
        summary = label(run)
    writer.join()
    assert summary.report.complete
    found = images(tmp_path / "labels")
    assert (np.stack(list(found.values())) == all_labels(seeing, values[:6])).all()


def test_a_watched_slice_waits_for_the_next_one(tmp_path: Path, values: NDArray[np.uint8]) -> None:
    folder = write_folder(tmp_path / "scan", values, range(3))
    source = WatchSource(folder, WatchOptions(poll_seconds=0.01), context=1)
    done: dict[str, str] = {}
    arrived: list[str] = []

    def watch() -> None:
        for item in source.arrivals(lambda item: done.get(item.name)):
            arrived.append(item.name)
            done[item.name] = item.identity

    thread = threading.Thread(target=watch)
    thread.start()
    _until(lambda: len(arrived) == 2)
    time.sleep(0.1)
    assert arrived == ["s00", "s01"]
    write_folder(folder, values, [3])
    _until(lambda: len(arrived) == 3)
    source.stop()
    thread.join(timeout=5)
    assert arrived == ["s00", "s01", "s02", "s03"]


def test_a_watched_image_without_a_number_is_skipped(tmp_path: Path, values: NDArray[np.uint8]) -> None:
    folder = write_folder(tmp_path / "scan", values, range(2))
    Image.fromarray(values[0]).save(folder / "overview.png")
    source = WatchSource(folder, WatchOptions(poll_seconds=0.01, until=2), context=1)
    done: dict[str, str] = {}
    assert [item.name for item in source.arrivals(lambda item: done.get(item.name))] == ["s00", "s01"]
    assert [entry.reason for entry in source.skipped] == [
        "it has no number, by which its neighbours are known"
    ]


def test_ctrl_c_labels_what_has_waited(tmp_path: Path, seeing: Path, values: NDArray[np.uint8]) -> None:
    scan = write_folder(tmp_path / "scan", values, range(4))
    output = tmp_path / "labels"

    def interrupt() -> None:
        _until(lambda: len(list(output.glob("s*.png"))) == 3)
        _thread.interrupt_main()

    person = threading.Thread(target=interrupt)
    with open_run(_watching(scan, seeing, output), SILENT) as run:
        person.start()
        assert label(run).report.complete
    person.join()
    assert (np.stack(list(images(output).values())) == all_labels(seeing, values[:4])).all()


def test_watching_twice_labels_the_last_slice_again(
    tmp_path: Path, seeing: Path, values: NDArray[np.uint8]
) -> None:
    scan = write_folder(tmp_path / "scan", values, range(4))
    for last in (4, 7):
        write_folder(scan, values, range(last))
        with open_run(_watching(scan, seeing, tmp_path / "labels", until=last), SILENT) as run:
            assert label(run).report.complete
    found = images(tmp_path / "labels")
    assert (np.stack(list(found.values())) == all_labels(seeing, values[:7])).all()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_plan_counts_what_is_kept(tmp_path: Path, seeing: Path, values: NDArray[np.uint8]) -> None:
    options = RunOptions(model=seeing, input=_zarr(tmp_path, values), provider="cpu", part=Part())
    with open_run(options, SILENT) as run:
        plan = run.plan
        workers, seen = plan.workers, 3
        kept = 2 + workers.readers
        assert plan.depth == 4
        slices = workers.blocks * (1 + 3) + workers.readers * 3 + kept * 2
        pixels = (slices * plan.depth + workers.inferrers * seen) * SHAPE[0] * SHAPE[1]
        assert run.source.volume is not None
        assert plan.block_bytes == pixels + workers.readers * run.source.volume.decoding_bytes


@pytest.mark.parametrize(
    ("names", "runs"),
    [
        (["a1", "a2", "a4", "a5"], [["a1", "a2"], ["a4", "a5"]]),
        (["a10", "a9", "b1", "b2"], [["a9", "a10"], ["b1", "b2"]]),
        (["s0", "s10", "s20", "s40"], [["s0", "s10", "s20"], ["s40"]]),
        (["s3_8bit", "s4_8bit"], [["s3_8bit", "s4_8bit"]]),
        (["t1_01", "t1_02", "t2_01"], [["t1_01", "t1_02"], ["t2_01"]]),
        (["s5", "s9"], [["s5"], ["s9"]]),
        (["s01", "overview"], [["s01"]]),
        (["s1", "s01", "s2"], [["s1"], ["s01", "s2"]]),
    ],
)
def test_consecutive_images(names: list[str], runs: list[list[str]]) -> None:
    assert [[names[place] for place in run] for run in consecutive_runs(names)] == runs
