"""Labelling on a real local cluster, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import zarr
from click.testing import Result
from folders import snapshot
from PIL import Image

from matseg_shared.installation import install_command

distributed = pytest.importorskip("distributed")

Run = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore")  # distributed warns of ports and clocks, not of us


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of one thread each, which are started again when they die."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as found:
        yield found


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """80 slices, ten to a chunk."""
    data = onnx_models.random_pixels((80, 150, 160), "uint8", 1)
    array = zarr.create_array(
        str(tmp_path / "scan.zarr"), shape=data.shape, chunks=(8, 75, 80), dtype="uint8"
    )
    array[:] = data
    return tmp_path / "scan.zarr"


@pytest.fixture
def slow_model(tmp_path: Path) -> Path:
    """Wide enough for a unit to take a while."""
    return onnx_models.save_model(tmp_path / "slow_v1.onnx", width=24, name="slow_v1")


def _labels(path: Path) -> dict[str, bytes]:
    return {name: content for name, content in snapshot(path).items() if ".json" not in name}


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("labels.zarr", ["--quantify", "--uncertain", "2"]),
        ("labels.tif", []),
        ("labels", []),
        ("labels.zarr", ["--consensus", "0,2", "--disagreement", "{folder}/doubt.zarr"]),
    ],
)
def test_a_cluster_makes_what_one_process_makes(
    run: Run, model: Path, volume: Path, tmp_path: Path, cluster: Any, name: str, extra: list[str]
) -> None:
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    one, many = ([text.format(folder=tmp_path / root) for text in extra] for root in ("one", "many"))
    assert run(model, volume, "-o", tmp_path / "one" / name, *one).exit_code == 0
    result = run(model, volume, "-o", tmp_path / "many" / name, *many, "--dask", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert "80 of 80 slices labelled" in result.output
    keep = lambda root: {  # noqa: E731
        name: content
        for name, content in snapshot(tmp_path / root).items()
        if not any(
            word in name
            for word in ("report", "job.", "part-", "done-", "origin.", "index.", "quantities.json")
        )
    }
    assert keep("many") == keep("one")
    assert ("--uncertain" in extra) == any("_uncertain" in name for name in keep("many"))


def test_workers_see_the_neighbours_of_a_slice(run: Run, volume: Path, tmp_path: Path, cluster: Any) -> None:
    model = onnx_models.save_model(tmp_path / "c_v1.onnx", channels=3, context=1, name="c_v1")
    assert run(model, volume, "-o", tmp_path / "one.zarr").exit_code == 0
    result = run(model, volume, "-o", tmp_path / "two.zarr", "--dask", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert _labels(tmp_path / "two.zarr") == _labels(tmp_path / "one.zarr")


def test_workers_leave_out_what_is_no_data(
    run: Run, model: Path, volume: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the workers are not
    np.save("mask.npy", np.random.default_rng(0).random((80, 150, 160)) > 0.2)
    options = ("--mask", "mask.npy", "--no-data", "circle")
    assert run(model, volume, "-o", tmp_path / "one.zarr", *options).exit_code == 0
    result = run(model, volume, "-o", tmp_path / "two.zarr", *options, "--dask", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert _labels(tmp_path / "two.zarr") == _labels(tmp_path / "one.zarr")
    assert "are no data: label 255" in result.output


def test_workers_label_the_images_that_the_client_means_when_others_come_and_go(
    run: Run, model: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker lists the folder itself, and later; by their places it would take one image for another."""
    import matseg_runtime.run.dask

    folder = tmp_path / "scan"
    folder.mkdir()
    images = onnx_models.random_pixels((6, 40, 52), "uint8", 1)
    for name, image in zip("bcdef", images, strict=False):
        Image.fromarray(image).save(folder / f"{name}.png")
    command = (model, folder, "-o", tmp_path / "out")
    connect = matseg_runtime.run.dask._client

    def after_others_came_and_went(address: str) -> Any:
        Image.fromarray(images[5]).save(folder / "a.png")
        (folder / "d.png").unlink()
        return connect(address)

    monkeypatch.setattr(matseg_runtime.run.dask, "_client", after_others_came_and_went)
    result = run(*command, "--dask", cluster.scheduler_address)
    assert result.exit_code == 4, result.output
    assert "d.png: cannot be read: it is no longer there" in " ".join(result.output.split())
    assert "4 of 5 slices labelled" in result.output
    monkeypatch.undo()
    Image.fromarray(images[2]).save(folder / "d.png")
    assert run(model, folder, "-o", tmp_path / "one").exit_code == 0
    for name in "bcef":
        there, expected = (np.asarray(Image.open(tmp_path / out / f"{name}.png")) for out in ("out", "one"))
        np.testing.assert_array_equal(there, expected)
    assert "2 of 6 slices labelled in this run, 4 before" in run(*command).output


def test_a_killed_worker_is_made_up_for(
    run: Run, slow_model: Path, volume: Path, tmp_path: Path, cluster: Any
) -> None:
    out = tmp_path / "labels.zarr"
    killed: list[int] = []

    def kill_one() -> None:
        ledger = tmp_path / "labels.zarr.matseg" / "done-1-of-1.jsonl"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and (not ledger.exists() or ledger.stat().st_size == 0):
            time.sleep(0.005)
        worker = next(iter(cluster.workers.values()))
        killed.append(worker.pid)
        os.kill(worker.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    result = run(slow_model, volume, "-o", out, "--dask", cluster.scheduler_address)
    killer.join()
    assert result.exit_code == 0, result.output
    assert killed
    assert "80 of 80 slices labelled" in result.output
    assert run(slow_model, volume, "-o", tmp_path / "one.zarr").exit_code == 0
    one = _labels(tmp_path / "one.zarr")
    assert _labels(out) == one
    assert len(one) > 8


def test_distributed_has_the_parts_that_it_does_not_publish(cluster: Any) -> None:
    class Named(distributed.WorkerPlugin):  # type: ignore[name-defined, misc]
        pass

    def asks_its_worker() -> tuple[int, str]:
        worker = distributed.get_worker()
        return worker.state.nthreads, type(worker.plugins["named"]).__name__

    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        assert client.status == "running"
        assert client.scheduler_comm.comm.closed() is False
        client.register_plugin(Named(), name="named")
        assert client.submit(asks_its_worker, pure=False).result() == (1, "Named")
        client.unregister_worker_plugin("named")


def test_no_scheduler(
    run: Run, model: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matseg_runtime.run.dask

    monkeypatch.setattr(matseg_runtime.run.dask, "_CONNECT_SECONDS", 1)
    result = run(model, volume, "-o", tmp_path / "a.zarr", "--dask", "tcp://127.0.0.1:9")
    assert result.exit_code == 3
    assert "no scheduler answers there" in result.output
    assert "Traceback" not in result.output


def test_without_distributed(
    run: Run, model: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = run(model, volume, "-o", tmp_path / "a.zarr", "--dask", "tcp://127.0.0.1:9")
    assert result.exit_code == 3
    assert install_command("dask") in result.output
