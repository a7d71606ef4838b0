"""CUDA and TensorRT with stand-ins for onnxruntime and the driver: options, devices, refusals. No GPU is needed."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_models
import pytest
from click.testing import Result
from fake_gpus import OUT_OF_MEMORY, OVER_THE_LIMIT, FakeRuntime, cuda_failure, use
from PIL import Image
from segmenting import segment_image

from matseg_runtime.inference import nvidia, providers
from matseg_runtime.inference.providers import Devices
from matseg_runtime.inference.session import Session
from matseg_shared.errors import ProviderError, UnsupportedError, UsageError

Run = Callable[..., Result]


def test_cuda_gets_its_options_and_no_fallback(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    runtime = use(monkeypatch, FakeRuntime(model))
    opened = Session.open(model, provider="cuda", threads=3)
    assert (opened.provider, opened.devices) == ("cuda", ("cuda:0 NVIDIA A100",))
    assert opened.fixed_shapes
    ((asked, options),) = runtime.asked
    assert asked[0] == (
        "CUDAExecutionProvider",
        {
            "device_id": "0",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
            "do_copy_in_default_stream": "1",
        },
    )
    assert options.intra_op_num_threads == 3
    assert options.use_deterministic_compute
    assert runtime.fallback is False


def test_tensorrt_has_cuda_behind_it_on_the_same_gpu(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    runtime = use(monkeypatch, FakeRuntime(model))
    opened = Session.open(model, provider="tensorrt", devices=Devices((1,)), memory=2_000_000_000)
    assert (opened.provider, opened.devices) == ("tensorrt", ("cuda:1 NVIDIA H200",))
    ((asked, _options),) = runtime.asked
    assert [name for name, _ in asked] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert [options["device_id"] for _, options in asked] == ["1", "1"]
    assert asked[1][1]["gpu_mem_limit"] == "2000000000"


def test_cuda_fills_up_short_batches(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    use(monkeypatch, FakeRuntime(model))
    opened = Session.open(model, provider="cuda")
    shapes = []
    inner = Session.predict

    def recorded(self: Session, batch: Any) -> Any:
        shapes.append(batch.shape)
        return inner(self, batch)

    monkeypatch.setattr(Session, "predict", recorded)
    image = onnx_models.random_pixels((1, 100, 60), "uint8", 1)
    labels = segment_image(opened, image, tile=(44, 64), batch=4)
    assert len(set(shapes)) == 1
    assert shapes[0][0] == 4
    monkeypatch.undo()
    np.testing.assert_array_equal(labels, segment_image(Session.open(model, provider="cpu"), image))


def test_cuda_goes_through_io_binding(monkeypatch: pytest.MonkeyPatch, model: Path, session: Session) -> None:
    use(monkeypatch, FakeRuntime(model))
    opened = Session.open(model, provider="cuda")
    opened._session.run = None
    image = session.model.self_test.image
    labels, probabilities = opened.predict_with_probabilities(image)
    expected = session.predict_with_probabilities(image)
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(probabilities, expected[1])
    np.testing.assert_array_equal(opened.predict(image), expected[0])


@pytest.mark.parametrize(
    ("text", "devices"), [("cpu", ()), ("cuda", (0,)), ("cuda:3", (3,)), ("cuda:1,cuda:0", (1, 0))]
)
def test_devices_as_they_are_named(text: str, devices: tuple[int, ...]) -> None:
    found = Devices.parse(text)
    assert found.gpus == devices
    assert Devices.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda:", "cuda:-1", "cuda:0,", "cuda:0,cpu", "cuda:0,cuda", "0,1"]
)
def test_devices_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--device: expected cpu, cuda, cuda:N"):
        Devices.parse(text)


def test_a_device_decides_the_provider() -> None:
    assert Devices((1,)).provider("auto") == "cuda"
    assert Devices((1,)).provider("tensorrt") == "tensorrt"
    assert Devices(()).provider("auto") == "cpu"
    with pytest.raises(UsageError, match="--provider cpu and --device cuda:1 do not go together"):
        Devices((1,)).provider("cpu")
    with pytest.raises(UsageError, match="--provider cuda and --device cpu do not go together"):
        Devices(()).provider("cuda")


def test_several_gpus_share_the_calls(monkeypatch: pytest.MonkeyPatch, model: Path, session: Session) -> None:
    """Two calls that wait for each other end only when each has a GPU of its own; so do the next two."""
    runtime = use(monkeypatch, FakeRuntime(model))
    opened = Session.open(model, devices=Devices((0, 1)), streams=2)
    assert opened.devices == ("cuda:0 NVIDIA A100", "cuda:1 NVIDIA H200")
    assert opened.place == "cuda, cuda:0 NVIDIA A100, cuda:1 NVIDIA H200"
    runtime.together = threading.Barrier(2, timeout=10)
    images = [onnx_models.random_pixels((1, 1, 32, 32), "uint8", seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        labels = list(pool.map(opened.predict, images))
    assert sorted(runtime.calls[:2]) == sorted(runtime.calls[2:]) == [0, 1]
    for image, found in zip(images, labels, strict=True):
        np.testing.assert_array_equal(found, session.predict(image))


def test_the_self_test_runs_on_each_gpu(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    runtime = use(monkeypatch, FakeRuntime(model))
    opened = Session.open(model, devices=Devices((1, 0)))
    assert opened.require_self_test().passed
    assert runtime.calls == [1, 0]
    runtime.fails = {0: "CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available"}
    with pytest.raises(
        ProviderError, match=r"cuda:0 NVIDIA A100 failed on a batch .*no kernel image is available; the extra"
    ):
        opened.self_test()
    assert opened.predict(
        opened.model.self_test.image
    ).shape  # the GPU that failed was given back, as the other


@pytest.mark.parametrize(
    ("raises", "cause"),
    [
        (None, "could not start it"),
        (
            cuda_failure("100: no CUDA-capable device is detected"),
            "CUDA failure 100: no CUDA-capable device is detected;",
        ),
        ("EP library says no\nstack trace", "EP library says no"),
    ],
)
def test_cuda_that_does_not_start_is_refused_with_cause_and_remedy(
    monkeypatch: pytest.MonkeyPatch, model: Path, raises: str | None, cause: str
) -> None:
    use(monkeypatch, FakeRuntime(model, works=False, raises=raises))
    with pytest.raises(ProviderError, match=f"provider cuda: .*{cause}.*--provider cpu") as caught:
        Session.open(model, provider="cuda")
    for noise in ("stack trace", "hostname", "onnxruntime_src"):
        assert noise not in str(caught.value)


@pytest.mark.parametrize(
    ("cuda", "extra", "first"),
    [
        ((13, 1), "cuda13", "install"),
        ((12, 4), "cuda12", "install"),
        ((11, 4), "cuda12", "update it, then install"),
    ],
)
def test_a_driver_that_is_too_old_gets_the_extra_that_fits(
    monkeypatch: pytest.MonkeyPatch, model: Path, cuda: tuple[int, int], extra: str, first: str
) -> None:
    raises = cuda_failure("35: CUDA driver version is insufficient for CUDA runtime version")
    use(monkeypatch, FakeRuntime(model, raises=raises), cuda=cuda)
    with pytest.raises(ProviderError) as caught:
        Session.open(model, provider="cuda")
    said = str(caught.value)
    assert "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version; " in said
    assert "onnxruntime 9.9 is built for CUDA 13; " in said
    assert f"the NVIDIA driver here runs CUDA up to {cuda[0]}.{cuda[1]}: {first} the extra" in said
    assert "`cuda13` (driver 580 or newer) or `cuda12` (driver 525 or newer)" in said
    assert f"[{extra}]" in said


def test_a_missing_library_is_named_with_the_cuda_that_it_is_of(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    """This file is no library at all; of one that is, the loader names what it misses."""
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir()
    library.write_bytes(b"no library")
    runtime = use(monkeypatch, FakeRuntime(model, works=False))
    runtime.__file__ = str(tmp_path / "__init__.py")  # type: ignore[assignment]
    monkeypatch.setattr(nvidia, "find_driver", lambda: None)
    with pytest.raises(ProviderError) as caught:
        Session.open(model, provider="cuda")
    assert library.name in str(caught.value)
    assert "is built for CUDA 13; no NVIDIA driver was found here: where there is one, install" in str(
        caught.value
    )


def test_what_loading_of_libraries_prints_stays_out_of_the_output(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = use(monkeypatch, FakeRuntime(model))
    runtime.preload_dlls = lambda: print("Failed to load libcublasLt.so.13")  # type: ignore[attr-defined]
    Session.open(model, provider="cuda")
    assert capsys.readouterr().out == ""


def test_auto_goes_on_to_the_cpu_and_says_why(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    use(monkeypatch, FakeRuntime(model, raises=cuda_failure("35: CUDA driver version is insufficient")))
    opened = Session.open(model, provider="auto")
    assert (opened.provider, opened.devices) == ("cpu", ())
    assert "provider cuda: CUDA failure 35: CUDA driver version is insufficient" in opened.reason


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OUT_OF_MEMORY, "Failed to allocate memory for requested buffer of size 2830172160"),
        (OVER_THE_LIMIT, "Available memory of 0 is smaller than requested bytes of 2830172160"),
        (cuda_failure("2: out of memory"), "CUDA failure 2: out of memory"),
        (
            "CUDNN failure 4002: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
            "CUDNN failure 4002: CUDNN_STATUS_ALLOC_FAILED",
        ),
    ],
)
def test_a_gpu_without_memory_for_another_job(
    monkeypatch: pytest.MonkeyPatch, model: Path, text: str, told: str
) -> None:
    """In a call, and where the model is loaded already."""
    runtime = use(monkeypatch, FakeRuntime(model, fails={0: text}))
    opened = Session.open(model, provider="cuda")
    room = "use a smaller --tile or --batch, name another GPU with --device, or wait until other jobs there are done"
    with pytest.raises(ProviderError) as caught:
        opened.predict(np.zeros((1, 1, 32, 32), np.uint8))
    found = str(caught.value)
    assert found.endswith(
        f": a batch of 1 x 1 x 32 x 32 does not fit into the memory of cuda:0 NVIDIA A100; {room} ({told})"
    )
    runtime.raises = text
    with pytest.raises(ProviderError) as caught:
        Session.open(model, devices=Devices((1,)))
    assert str(caught.value).endswith(f"the model does not fit into the memory of cuda:1; {room} ({told})")


@pytest.mark.parametrize(
    ("gpus", "visible", "found"),
    [
        (
            ("NVIDIA A100", "NVIDIA H200"),
            None,
            "this machine has cuda:0 to cuda:1 (NVIDIA A100, NVIDIA H200)",
        ),
        (("NVIDIA A100",), "3", "CUDA_VISIBLE_DEVICES=3 leaves cuda:0 to cuda:0 (NVIDIA A100)"),
        ((), None, "this machine has no GPU"),
    ],
)
def test_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, model: Path, gpus: tuple[str, ...], visible: str | None, found: str
) -> None:
    use(monkeypatch, FakeRuntime(model), gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UnsupportedError) as caught:
        Session.open(model, devices=Devices((0, 7)))
    assert str(caught.value).startswith(f"--device cuda:0,cuda:7: {found}; ")


class FakeDriver:
    """`libcuda.so.1` of a machine with two GPUs."""

    def __init__(self, version: int, init: int = 0) -> None:
        self._version, self._init = version, init

    def cuDriverGetVersion(self, found: Any) -> int:  # noqa: N802
        found._obj.value = self._version
        return 0

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, found: Any) -> int:  # noqa: N802
        found._obj.value = 2
        return 0

    def cuDeviceGet(self, found: Any, number: int) -> int:  # noqa: N802
        found._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, _length: int, device: Any) -> int:  # noqa: N802
        name.value = f"GPU {device.value}".encode()
        return device.value  # the second does not tell


def test_what_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_library", lambda: FakeDriver(12040))
    assert nvidia.find_driver() == nvidia.Driver((12, 4), ("GPU 0", "unknown GPU"))
    monkeypatch.setattr(nvidia, "_library", lambda: FakeDriver(13000, init=100))
    assert nvidia.find_driver() == nvidia.Driver((13, 0), ())


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_library", lambda: ctypes.CDLL("no such library"))
    assert nvidia.find_driver() is None
    assert nvidia.extra_for(None) == "cuda13"


def test_tensorrt_of_a_pip_package_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(providers.importlib, "import_module", loaded.append)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    runtime: Any = SimpleNamespace(preload_dlls=lambda: loaded.append("CUDA"))
    providers.load_gpu_libraries("cuda", runtime)
    assert loaded == ["CUDA"]
    providers.load_gpu_libraries("tensorrt", runtime)
    assert loaded == ["CUDA", "CUDA", "tensorrt_libs"]
    assert providers.os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_a_job_on_two_gpus(
    monkeypatch: pytest.MonkeyPatch, run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    """Plan, summary, report and page name them; labels are those of the CPU; one may finish what two began."""
    assert run(model, slices, "-o", tmp_path / "cpu", "--device", "cpu").exit_code == 0
    runtime = use(monkeypatch, FakeRuntime(model))
    plan = run(model, slices, "-o", tmp_path / "gpu", "--device", "cuda:0,cuda:1", "--dry-run")
    assert "on cuda, cuda:0 NVIDIA A100, cuda:1 NVIDIA H200 (as asked for)" in plan.output
    assert "2 streams of inference" in plan.output
    done = run(
        model, slices, "-o", tmp_path / "gpu", "--device", "cuda:0,cuda:1", "--memory", "2GB", "--report"
    )
    assert done.exit_code == 0, done.output
    assert "on cuda, cuda:0 NVIDIA A100, cuda:1 NVIDIA H200 (as asked for)" in done.output
    assert {0, 1} <= set(runtime.calls)
    assert runtime.asked[-1][0][0][1]["gpu_mem_limit"] == "2000000000"
    report = json.loads((tmp_path / "gpu" / "report.json").read_text())
    assert report["devices"] == ["cuda:0 NVIDIA A100", "cuda:1 NVIDIA H200"]
    assert "cuda:1 NVIDIA H200" in (tmp_path / "gpu" / "report.html").read_text()
    for path in (tmp_path / "cpu").glob("*.png"):
        np.testing.assert_array_equal(Image.open(path), Image.open(tmp_path / "gpu" / path.name))
    (tmp_path / "gpu" / "s3.png").unlink()
    again = run(model, slices, "-o", tmp_path / "gpu", "--device", "cuda:1")
    assert again.exit_code == 0, again.output
    assert "1 of 6 slices labelled in this run, 5 before" in again.output


def test_a_job_that_finds_no_memory_on_its_gpu(
    monkeypatch: pytest.MonkeyPatch, run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    use(monkeypatch, FakeRuntime(model, fails={1: OUT_OF_MEMORY}))
    result = run(model, slices, "-o", tmp_path / "out", "--device", "cuda:1")
    assert result.exit_code == 3
    assert "does not fit into the memory of cuda:1 NVIDIA H200; use a smaller --tile" in result.output
    assert not (tmp_path / "out").exists()


def test_a_device_that_fails_the_self_test_is_not_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch, run: Run, model: Path, slices: Path, tmp_path: Path
) -> None:
    use(monkeypatch, FakeRuntime(model))
    monkeypatch.setattr(Session, "predict", lambda _self, batch: np.zeros(batch[:, 0].shape, np.uint8))
    result = run(model, slices, "-o", tmp_path / "out", "--device", "cuda:1")
    assert result.exit_code == 3
    assert "its self-test fails on the provider cuda" in result.output
