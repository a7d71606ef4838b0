"""Labelling slices while they are being written."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import tifffile
from click.testing import Result
from PIL import Image

from matseg_runtime.sink.base import Block
from matseg_runtime.sink.base import Result as Labelled
from matseg_runtime.sink.images import ImageSink
from matseg_runtime.source.watch import WatchOptions, WatchSource
from matseg_shared.errors import UsageError
from matseg_shared.system import interruption

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
    assert [entry["name"] for entry in json.loads((out / "report.json").read_text())["excluded"]] == ["s7"]


def _watching(run: Run, *arguments: object) -> tuple[threading.Thread, list[Result]]:
    """A run in a thread of its own, and where its result will be."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(run(*arguments)))
    thread.start()
    return thread, results


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(QUICK)


def _labels(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@pytest.fixture
def clean(run: Run, model: Path, tmp_path: Path) -> Callable[[Path], dict[str, bytes]]:
    """Label images and phase fractions that a run makes of a folder that does not change."""

    def results(folder: Path) -> dict[str, bytes]:
        out = tmp_path / f"clean {len(list(tmp_path.iterdir()))}"
        assert run(model, folder, "-o", out).exit_code in (0, 4)
        return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".png", ".csv")}

    return results


def test_an_image_whose_space_was_reserved_first_is_labelled_again_once_it_is_filled(
    run: Run, model: Path, folder: Path, tmp_path: Path, clean: Callable[[Path], dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    _write(folder, 0)
    pixels = tifffile.memmap(folder / "s1.tif", shape=(40, 48), dtype="uint8", photometric="minisblack")
    thread, results = _watching(run, model, folder, "-o", out, "--watch", "--idle", "1.5")
    _wait_until(lambda: _labels(out / "s1.png") is not None)
    too_early = _labels(out / "s1.png")
    pixels[:] = _image(1)
    pixels.flush()
    del pixels
    thread.join()
    assert results[0].exit_code == 0, results[0].output
    assert "2 of 2 slices labelled" in results[0].output
    expected = clean(folder)
    assert expected["s1.png"] != too_early
    for name, content in expected.items():
        assert (out / name).read_bytes() == content


def test_an_image_written_again_between_two_runs_is_labelled_again(
    run: Run, model: Path, folder: Path, tmp_path: Path, clean: Callable[[Path], dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    for number in range(3):
        _write(folder, number)
    assert run(model, folder, "-o", out, "--watch", "--until", 3).exit_code == 0
    tifffile.imwrite(folder / "s1.tif", _image(7))
    result = run(model, folder, "-o", out, "--watch", "--until", 3)
    assert result.exit_code == 0, result.output
    assert "1 of 3 slices labelled in this run, 2 before" in result.output
    for name, content in clean(folder).items():
        assert (out / name).read_bytes() == content
    tifffile.imwrite(folder / "s1.tif", _image(8))
    result = run(model, folder, "-o", out)
    assert result.exit_code == 2
    assert "has changed since it was labelled" in result.output


def test_no_label_is_left_of_an_image_that_broke(run: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(2):
        _write(folder, number)
    thread, results = _watching(run, model, folder, "-o", out, "--watch", "--idle", "1")
    _wait_until(lambda: _labels(out / "s1.png") is not None)
    (folder / "s1.tif").write_bytes(b"II*\x00 cut short")
    thread.join()
    assert results[0].exit_code == 4, results[0].output
    report = json.loads((out / "report.json").read_text())
    assert [entry["name"] for entry in report["excluded"]] == ["s1"]
    assert not (out / "s1.png").exists()
    assert "s1" not in (out / "phase_fractions.csv").read_text()
    tifffile.imwrite(folder / "s1.tif", _image(5))
    assert run(model, folder, "-o", out).exit_code == 0
    assert (out / "s1.png").exists()


def test_a_slice_that_was_excluded_is_taken_when_it_comes_back(
    run: Run, model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was away for a moment when it was to be read, as during a rename."""
    _write(folder, 0)
    _write(folder, 1)
    read, away = WatchSource.read, tmp_path / "away.tif"

    def read_too_late(self: WatchSource, start: int, stop: int) -> object:
        if self.slices[start].name == "s1" and not read_too_late.done:  # type: ignore[attr-defined]
            read_too_late.done = True  # type: ignore[attr-defined]
            (folder / "s1.tif").rename(away)
            threading.Timer(0.6, lambda: away.rename(folder / "s1.tif")).start()
        return read(self, start, stop)

    read_too_late.done = False  # type: ignore[attr-defined]
    monkeypatch.setattr(WatchSource, "read", read_too_late)
    out = tmp_path / "out"
    result = run(model, folder, "-o", out, "--watch", "--idle", "2.5")
    assert read_too_late.done  # type: ignore[attr-defined]
    assert result.exit_code == 0, result.output
    assert (out / "s1.png").exists()


def test_a_slice_in_flight_is_not_handed_out_again(folder: Path) -> None:
    _write(folder, 0)
    source = WatchSource(folder, _options(idle_seconds=0.3))
    given: list[str] = []
    state: dict[str, str] = {}
    for item in source.arrivals(lambda item: state.get(item.name)):
        given.append(item.identity)
        if len(given) == 1:
            tifffile.imwrite(folder / "s0.tif", onnx_models.random_pixels((50, 50), "uint8", 3))
    assert len(given) == 1
    given.clear()
    source = WatchSource(folder, _options(idle_seconds=0.3))
    for item in source.arrivals(lambda item: state.get(item.name)):
        state[item.name] = item.identity
        given.append(item.identity)
        if len(given) < 3:
            tifffile.imwrite(folder / "s0.tif", onnx_models.random_pixels((50 + len(given), 50), "uint8", 3))
    assert len(given) == len(set(given)) == 3


def test_a_disk_that_holds_a_run_up_does_not_end_it(folder: Path) -> None:
    """The idle time is one of the folder, not of the run."""
    _write(folder, 0)
    source = WatchSource(folder, _options(idle_seconds=0.3))
    names = []
    for item in source.arrivals():
        names.append(item.name)
        if len(names) == 1:
            _write(folder, 1)
            time.sleep(0.5)  # the first slice is being written, on a slow disk
    assert names == ["s0", "s1"]


def test_looks_that_take_longer_than_the_idle_time_find_what_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(folder, 0)
    source = WatchSource(folder, _options(idle_seconds=0.2))
    poll = source._poll

    def slow_poll(outcome: object) -> object:
        time.sleep(0.3)
        return poll(outcome)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "_poll", slow_poll)
    monkeypatch.setattr("matseg_runtime.source.watch._WAIT_PER_LOOK", 0)
    assert [item.name for item in source.arrivals()] == ["s0"]


def test_the_wait_between_two_looks_is_not_taken_for_idleness(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that takes long to look at is looked at seldom; what came meanwhile is found all the same."""
    _write(folder, 0)
    source = WatchSource(folder, _options(idle_seconds=0.6))
    poll = source._poll
    looks: list[float] = []

    def slow_poll(outcome: object) -> object:
        time.sleep(0.1)  # nine times as long is more than the idle time
        looks.append(time.monotonic())
        if len(looks) == 3:
            timer = threading.Timer(0.1, _write, (folder, 1))
            timer.start()
        return poll(outcome)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "_poll", slow_poll)
    assert [item.name for item in source.arrivals()] == ["s0", "s1"]


def test_looking_takes_a_small_share_of_the_time_whatever_the_number_of_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(folder, 0)
    source = WatchSource(folder, _options())
    waits: list[float] = []
    poll = source._poll

    def slow_poll(outcome: object) -> object:
        time.sleep(0.05)
        return poll(outcome)  # type: ignore[arg-type]

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            source.stop()

    monkeypatch.setattr(source, "_poll", slow_poll)
    monkeypatch.setattr(source._stopped, "wait", wait)
    list(source.arrivals())
    assert min(waits) >= 9 * 0.05


def test_an_image_that_changes_after_it_was_read_is_named(
    run: Run, model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        _write(folder, number)
    write = ImageSink.write

    def change_then_write(self: ImageSink, unit: Block, results: Sequence[Labelled]) -> object:
        if unit.slices[0].name == "s1":
            tifffile.imwrite(folder / "s1.tif", _image(6))
        return write(self, unit, results)

    monkeypatch.setattr(ImageSink, "write", change_then_write)
    result = run(model, folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "s1.tif first, have changed since they were labelled" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "--part", "1/2"], "--watch and --part cannot be combined"),
        (["--watch", "--range", "1:2"], "--range does not apply"),
        (["--watch", "--idle", "0.1"], "no whole image has been written there"),
        (["--until", "3"], "--until applies with --watch only"),
        (["--watch", "--idle", "0"], "--idle"),
        (["--watch", "--idle", "nan"], "nan is not a finite number"),
        (["--watch", "--idle", "inf"], "inf is not a finite number"),
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
    code = "from matseg_runtime.cli.run import run_main; run_main()"
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


def test_ctrl_c_that_was_lost_ends_the_wait_for_the_first_image(folder: Path) -> None:
    source = WatchSource(folder, _options(idle_seconds=60))
    begun = time.monotonic()
    with interruption.counted():
        with contextlib.suppress(KeyboardInterrupt):  # as a destructor does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            source.wait_for_first()
    assert time.monotonic() - begun < 30
