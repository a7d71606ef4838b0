"""A run reads its sample and opens its model once, deletes nothing per slice, keeps its figures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tifffile
from click.testing import Result
from PIL import Image

from matseg_runtime.inference import providers
from matseg_runtime.model import file as model_file
from matseg_runtime.records import JobKey
from matseg_runtime.run.options import RunOptions
from matseg_runtime.run.setup import open_run, worker_run
from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.folder import FolderSource
from matseg_runtime.source.watch import WatchOptions, WatchSource
from matseg_shared.console.progress import SILENT
from matseg_shared.errors import UsageError

Run = Callable[..., Result]


def write_slices(folder: Path, count: int, first: int = 0) -> Path:
    """PNGs s000.png, ..."""
    folder.mkdir(exist_ok=True)
    images = onnx_models.random_pixels((count, 40, 52), "uint8", 1)
    for number, image in enumerate(images, start=first):
        Image.fromarray(image).save(folder / f"s{number:03}.png")
    return folder


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


MEASURED = ("labelled", "pixels", "constant_pixels", "megapixels_per_second", "stages", "started", "finished")


def test_an_idle_run_keeps_what_was_measured(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_slices(tmp_path / "scan", 6), tmp_path / "out"
    command = (model, folder, "-o", out, "--quantify")
    assert run(*command).exit_code == 0
    first = report_of(out)
    assert first["labelled"] == 6
    assert first["pixels"] == 6 * 40 * 52
    for again in (command, command[:-1], (*command, "--finish")):
        result = run(*again)
        assert result.exit_code == 0
        assert "0 of 6 slices labelled in this run, 6 before" in result.output
        assert "Mpixel/s" not in result.output
        found = report_of(out)
        assert {name: found[name] for name in MEASURED} == {name: first[name] for name in MEASURED}
        assert (found["slices"], found["labelled_before"], found["complete"]) == (6, 0, True)
    first["provenance"]["versions"]["numpy"] = "1.0"
    (out / "report.json").write_text(json.dumps(first))
    printed = json.loads(run(*command, "--json").stdout)
    assert printed["provenance"] == first["provenance"], "of what has labelled"
    assert printed["labelled"] == 6
    assert printed == report_of(out)
    write_slices(folder, 2, first=6)
    assert run(*command).exit_code == 0
    later = report_of(out)
    assert (later["labelled"], later["labelled_before"], later["pixels"]) == (2, 6, 2 * 40 * 52)
    for number in range(4):
        (folder / f"s{number:03}.png").unlink()
    assert run(*command).exit_code == 0
    fewer = report_of(out)
    assert (fewer["slices"], fewer["labelled"], fewer["labelled_before"]) == (4, 2, 2)


def test_an_idle_part_keeps_what_was_measured(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_slices(tmp_path / "scan", 6), tmp_path / "out"
    part = (model, folder, "-o", out, "--part", "1/2")
    assert run(*part).exit_code == 0
    path = out / ".matseg" / "report-1-of-2.json"
    first = json.loads(path.read_text())
    assert run(*part).exit_code == 0
    again = json.loads(path.read_text())
    assert {name: again[name] for name in MEASURED} == {name: first[name] for name in MEASURED}


def test_figures_of_another_job_are_not_kept(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_slices(tmp_path / "scan", 2), tmp_path / "out"
    assert run(model, folder, "-o", out).exit_code == 0
    document = report_of(out)
    document["provenance"]["window"] = "1,2"
    (out / "report.json").write_text(json.dumps(document))
    assert run(model, folder, "-o", out).exit_code == 0
    assert (report_of(out)["labelled"], report_of(out)["stages"]) == (0, None)


def test_nothing_is_deleted_per_slice(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    unlink = os.unlink

    def counted(path: Any, **options: Any) -> None:
        deleted.append(str(path))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", counted)
    counts = []
    for count in (4, 24):
        deleted.clear()
        folder = write_slices(tmp_path / f"scan{count}", count)
        assert run(model, folder, "-o", tmp_path / f"out{count}", "--no-report").exit_code == 0
        counts.append(len(deleted))
    assert counts[0] == counts[1], deleted


def test_a_run_of_one_slice_reads_its_model_and_opens_it_once(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_slices(tmp_path / "scan", 1)
    runtime = providers.load_onnxruntime()
    opened: list[str] = []
    session, read = runtime.InferenceSession, model_file.read_model_bytes

    def opens(*arguments: Any, **options: Any) -> Any:
        opened.append("opened")
        return session(*arguments, **options)

    def reads(path: Path) -> bytes:
        opened.append("read")
        return read(path)

    monkeypatch.setattr(runtime, "InferenceSession", opens)
    monkeypatch.setattr(model_file, "read_model_bytes", reads)
    assert run(model, folder, "-o", tmp_path / "out", "--threads", 4).exit_code == 0
    assert opened == ["read", "opened"]


@pytest.mark.parametrize("window", [(), ("--window", "0,200")])
def test_a_sample_of_slices_is_read_once(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: tuple[str, ...]
) -> None:
    folder = write_slices(tmp_path / "scan", 30)
    (folder / "s000.png").write_bytes(b"no image")
    read: list[int] = []
    original = FolderSource.read

    def counted(source: FolderSource, start: int, stop: int) -> Sequence[Any]:
        read.extend(range(start, stop))
        return original(source, start, stop)

    monkeypatch.setattr(FolderSource, "read", counted)
    assert run(model, folder, "-o", tmp_path / "out", "--dry-run", *window).exit_code == 0
    assert read == sorted(set(read))
    assert len(read) == 7


@pytest.mark.parametrize("out", ["out", "out.zarr"])
@pytest.mark.parametrize("stray", [0, 3, 5])
@pytest.mark.parametrize("window", [(), ("--window", "0,255")])
def test_an_image_unlike_the_others_is_excluded_wherever_it_stands(
    run: Run, model: Path, tmp_path: Path, out: str, stray: int, window: tuple[str, ...]
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for number, image in enumerate(onnx_models.random_pixels((6, 40, 52), "uint8", 1)):
        stored = image.astype(np.uint16) * 200 if number == stray else image
        tifffile.imwrite(folder / f"s{number}.tif", stored)
    result = run(model, folder, "-o", tmp_path / out, *window)
    assert result.exit_code == 4, result.output
    report = report_of(tmp_path / out if out == "out" else tmp_path / "out.zarr.matseg")
    assert [item["name"] for item in report["excluded"]] == [f"s{stray}"]
    assert report["labelled"] == 5


def test_what_most_images_are_like_decides_about_the_input(run: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for number, image in enumerate(onnx_models.random_pixels((6, 40, 52), "uint8", 1)):
        stored = image if number == 0 else image.astype(np.uint16) * 200
        tifffile.imwrite(folder / f"s{number}.tif", stored)
    result = run(model, folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "s1.tif: has uint16 pixels, this model takes uint8" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", [("-o", "labels.zarr"), ("-o", "labels.tif"), ("--label", "phases")])
def test_a_volume_of_a_watched_folder_is_refused_before_the_model_is_read(
    run: Run, tmp_path: Path, out: tuple[str, str]
) -> None:
    folder = write_slices(tmp_path / "scan", 1)
    result = run(tmp_path / "missing.onnx", folder, "--watch", "--until", 1, *out)
    assert result.exit_code == 2
    assert "--watch writes label images into a folder, not one" in result.output


def test_a_worker_closes_its_input_when_it_is_another_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((5, 40, 52), "uint8", 1))
    options = RunOptions(model=model, input=str(tmp_path / "scan.npy"))
    with open_run(options, SILENT) as found:
        plan, key = found.plan, found.key
    closed: list[str] = []
    close = ArraySource.close

    def counted(source: ArraySource) -> None:
        closed.append(source.location)
        close(source)

    monkeypatch.setattr(ArraySource, "close", counted)
    other = JobKey(**key.model_dump() | {"input_content": "another"})
    with pytest.raises(UsageError, match="sees something else than the client: input content"):
        worker_run(options, plan, other, threads=1)
    assert closed == [str(tmp_path / "scan.npy")]


def test_slices_of_a_watched_folder_are_not_copied_as_others_come(tmp_path: Path) -> None:
    source = WatchSource(write_slices(tmp_path / "scan", 5), WatchOptions(until=5, poll_seconds=0.001))
    slices = source.slices
    assert [item.name for item in source.arrivals()] == [f"s00{number}" for number in range(5)]
    assert source.slices is slices
    assert len(slices) == 5
