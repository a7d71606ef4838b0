"""An onnxruntime that claims to have CUDA, and a driver with GPUs: for the logic, not the hardware."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from matseg_runtime.inference import nvidia, providers

OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'/down/0/conv/Conv' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, "
    "onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size 2830172160"
)
OVER_THE_LIMIT = OUT_OF_MEMORY.replace(
    "Failed to allocate memory for requested buffer of size 2830172160",
    "Available memory of 0 is smaller than requested bytes of 2830172160",
)


def cuda_failure(text: str) -> str:
    """Words of onnxruntime 1.26 on a failed call of CUDA."""
    call = (
        "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:{line} std::conditional_t<THRW, void, "
        "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, "
        "const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, "
        "void, common::Status> = void] "
    )
    return (
        f"{call.format(line=122)}{call.format(line=114)}CUDA failure {text} ; GPU=0 ; hostname=node7 ; "
        "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=336 ; "
        "expr=cudaSetDevice(info_.device_id);"
    )


class FakeRuntime:
    """An onnxruntime whose CUDA provider computes on the CPU."""

    __version__ = "9.9"
    __file__ = None
    cuda_version = "13.0"

    def __init__(
        self,
        model: Path,
        *,
        works: bool = True,
        raises: str | None = None,
        fails: dict[int, str] | None = None,
    ) -> None:
        """Make one.

        Args:
            model: the file that every session runs.
            works: the provider really starts; otherwise only the CPU's does.
            raises: text of the error that starting it raises.
            fails: text of the error that each call raises on the GPU of that number.
        """
        import onnxruntime

        self._real = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
        self.works, self.raises, self.fails = works, raises, fails or {}
        self.asked: list[Any] = []
        self.calls: list[int] = []
        """GPU of each call, in order."""
        self.together: threading.Barrier | None = None
        """Calls wait for each other there."""
        self.fallback = True
        self.SessionOptions = onnxruntime.SessionOptions

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, content: bytes, options: Any, providers: Any, **_: int) -> Any:  # noqa: N802
        assert isinstance(content, bytes)
        self.asked.append((providers, options))
        name, of_provider = providers[0]
        if self.raises is not None and not name.startswith("CPU"):
            raise RuntimeError(self.raises)
        gpu = int(of_provider.get("device_id", -1))

        def run_with_iobinding(binding: Any) -> None:
            self.calls.append(gpu)
            if self.together is not None:
                self.together.wait()
            if gpu in self.fails:
                raise RuntimeError(self.fails[gpu])
            self._real.run_with_iobinding(binding)

        return SimpleNamespace(
            get_modelmeta=self._real.get_modelmeta,
            get_inputs=self._real.get_inputs,
            get_outputs=self._real.get_outputs,
            get_providers=lambda: [*([name] if self.works else []), "CPUExecutionProvider"],
            disable_fallback=lambda: setattr(self, "fallback", False),
            run=self._real.run,
            io_binding=self._real.io_binding,
            run_with_iobinding=run_with_iobinding,
        )


def use(
    monkeypatch: pytest.MonkeyPatch,
    runtime: FakeRuntime,
    gpus: Sequence[str] = ("NVIDIA A100", "NVIDIA H200"),
    cuda: tuple[int, int] = (13, 0),
) -> FakeRuntime:
    """Load `runtime` for onnxruntime, with a driver that tells of these GPUs."""
    driver = nvidia.Driver(cuda, tuple(gpus))
    monkeypatch.setattr(providers, "load_onnxruntime", lambda: runtime)
    monkeypatch.setattr(nvidia, "find_driver", lambda: driver)
    return runtime
