"""Execution providers: which one is used is decided here, told to the user, and never changed without a word."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from matseg_runtime.inference import nvidia
from matseg_shared.errors import MissingExtraError, ProviderError, UnsupportedError, UsageError
from matseg_shared.installation import install_command

Provider = Literal["cpu", "cuda", "tensorrt"]
ProviderChoice = Literal["auto", "cpu", "cuda", "tensorrt"]
PROVIDER_CHOICES: tuple[str, ...] = get_args(ProviderChoice)

EXECUTION_PROVIDERS: Mapping[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_AUTO_ORDER: tuple[Provider, ...] = ("cuda", "cpu")
# Not in it: TensorRT, which builds an engine for minutes.

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
"""Read by onnxruntime when it is loaded: with "1" it collects and sends nothing, and writes no identifier."""

ON_GPU: tuple[Provider, ...] = ("cuda", "tensorrt")
_NOTHING_BUT_FATAL = 4
_FAILURE = re.compile(
    r"(CUDA|CUDNN|CUBLAS) failure \d+: [^;]+|CUDA error cuda\w+: ?.+|(Failed to allocate|Available) memory .+"
)
_TENSORRT_MAJOR = 10
"""Major version of the libraries that onnxruntime's TensorRT provider wants."""


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices that a user named, as in `--device cuda:0,cuda:1`."""

    gpus: tuple[int, ...]
    """Numbers of the GPUs that share the work; empty: the CPU."""

    @classmethod
    def parse(cls, text: str) -> Devices:
        """Read `cpu`, `cuda`, or a list such as `cuda:0,cuda:1`, or raise a UsageError."""
        if text == "cpu":
            return cls(())
        names = text.split(",")
        gpus = tuple(int(name[5:] or 0) for name in names if re.fullmatch(r"cuda(:\d{1,4})?", name))
        if len(gpus) != len(names) or len(set(gpus)) != len(gpus):
            raise UsageError(
                f"--device: expected cpu, cuda, cuda:N, or several GPUs as in cuda:0,cuda:1, found {text!r}"
            )
        return cls(gpus)

    def __str__(self) -> str:
        return ",".join(f"cuda:{number}" for number in self.gpus) or "cpu"

    def provider(self, choice: ProviderChoice) -> ProviderChoice:
        """The provider for these devices, where `choice` is what `--provider` says.

        Raises:
            UsageError: it does not run there.
        """
        fitting: tuple[ProviderChoice, ...] = ON_GPU if self.gpus else ("cpu",)
        if choice == "auto":
            return fitting[0]
        if choice not in fitting:
            raise UsageError(
                f"--provider {choice} and --device {self} do not go together; leave one of them out"
            )
        return choice

    def require(self) -> None:
        """Raise an UnsupportedError where a GPU is named that this machine has not."""
        driver = nvidia.find_driver()
        if driver is None or not self.gpus or max(self.gpus) < len(driver.gpus):
            return  # without a driver, the provider says what is missing
        limit = os.environ.get("CUDA_VISIBLE_DEVICES")
        has = "this machine has" if limit is None else f"CUDA_VISIBLE_DEVICES={limit} leaves"
        found = (
            f"cuda:0 to cuda:{len(driver.gpus) - 1} ({', '.join(driver.gpus)})" if driver.gpus else "no GPU"
        )
        raise UnsupportedError(
            f"--device {self}: {has} {found}; nvidia-smi lists them, and --device cpu needs none"
        )


_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
"""Each of them owns the module `onnxruntime`."""


def installed_runtimes() -> tuple[str, ...]:
    """Names of the installed distributions that bring the module `onnxruntime`."""
    found = []
    for name in _DISTRIBUTIONS:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def load_onnxruntime() -> ModuleType:
    """Import onnxruntime, provided that exactly one distribution of it is installed.

    Raises:
        MissingExtraError: none is.
        UnsupportedError: several are, which overwrite each other's files; or it cannot be loaded.
    """
    found = installed_runtimes()
    if len(found) > 1:
        names = " and ".join(found)
        raise UnsupportedError(
            f"{names} are installed side by side, but own the same module and overwrite each other's files; mend it "
            f"with: pip uninstall --yes {' '.join(found)}, then {install_command('cpu')} (on a machine with an NVIDIA "
            f"GPU with `{nvidia.extra_for(nvidia.find_driver())}` for `cpu`)"
        )
    # official builds tell their maker of each process, session and model, from 1.29 on not only on Windows
    os.environ[TELEMETRY_VARIABLE] = "1"
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        if not found:
            raise MissingExtraError(
                "cpu", "running a model (on an NVIDIA GPU: with the extra `cuda13` or `cuda12` instead)"
            ) from error
        raise UnsupportedError(
            f"{found[0]} is installed but cannot be loaded: {error}; install it again: "
            f"pip install --force-reinstall {found[0]}"
        ) from error
    runtime.set_default_logger_severity(_NOTHING_BUT_FATAL)  # we say it in a sentence
    if hasattr(runtime, "disable_telemetry_events"):  # Windows' own tracing, which does not heed the variable
        runtime.disable_telemetry_events()
    return runtime


def candidates(choice: ProviderChoice, runtime: ModuleType) -> list[tuple[Provider, str]]:
    """Providers to try in order, each with its reason, or a ProviderError where onnxruntime lacks the one asked for."""
    offered = set(runtime.get_available_providers())
    if choice == "auto":
        absent = [name for name in _AUTO_ORDER if EXECUTION_PROVIDERS[name] not in offered]
        reason = f"auto; this onnxruntime has no {' and no '.join(absent)}" if absent else "auto"
        return [(name, reason) for name in _AUTO_ORDER if name not in absent]
    if EXECUTION_PROVIDERS[choice] not in offered:
        raise ProviderError(
            f"provider {choice}: expected {EXECUTION_PROVIDERS[choice]} in onnxruntime {runtime.__version__}, "
            f"found only {', '.join(sorted(offered))}; {_remedy(choice)}"
        )
    return [(choice, "as asked for")]


def exact_options(runtime: ModuleType) -> Any:
    """Session options with which an int8 graph gives the same bits on every processor.

    x86 processors without VNNI add pairs of uint8 x int8 products in 16 bits, which cuts off large sums; with this
    option onnxruntime takes slower products there for the layers that need it, and changes nothing elsewhere.
    """
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def provider_list(
    provider: Provider, gpu: int = 0, memory: int | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Providers with their options, as onnxruntime takes them.

    Args:
        provider: the one to use; TensorRT gets CUDA for the operators that it lacks.
        gpu: number of the GPU.
        memory: bytes of the GPU that may be taken; None: any.
    """
    on_gpu = {"device_id": str(gpu)}
    limits = {} if memory is None else {"gpu_mem_limit": str(memory)}
    options: dict[Provider, dict[str, Any]] = {
        "cpu": {},
        "cuda": {
            **on_gpu,
            **limits,
            # no more than is asked for, instead of powers of two: several jobs may share a GPU
            "arena_extend_strategy": "kSameAsRequested",
            # EXHAUSTIVE times the kernels of each shape, and so takes now this one, now that: other roundings
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",  # which rounds fp32 products to 10 bits of mantissa
            "do_copy_in_default_stream": "1",
        },
        "tensorrt": {**on_gpu, "trt_fp16_enable": "0"},
    }
    chain: tuple[Provider, ...] = ("tensorrt", "cuda") if provider == "tensorrt" else (provider,)
    return [(EXECUTION_PROVIDERS[name], options[name]) for name in chain]


def _remedy(provider: Provider) -> str:
    if provider == "cpu":
        return "install it again: pip install --force-reinstall onnxruntime"
    driver = nvidia.find_driver()
    extra = nvidia.extra_for(driver)
    command = install_command(extra)
    if provider == "tensorrt":
        command += f" 'tensorrt-{extra.replace('cuda', 'cu')}-libs<{_TENSORRT_MAJOR + 1}'"
    return (
        f"{nvidia.which_extra(driver)} in an environment of its own, as with {command}, or use --provider cpu"
    )


def not_available(provider: Provider, runtime: ModuleType, cause: str) -> ProviderError:
    """The error for a provider that this onnxruntime offers but this machine does not; the loader knows more."""
    found = library_problem(provider, runtime) or failure(cause)
    if provider in ON_GPU and (cuda := getattr(runtime, "cuda_version", None)):
        found += f"; onnxruntime {runtime.__version__} is built for CUDA {cuda.split('.')[0]}"
    return ProviderError(f"provider {provider}: {found}; {_remedy(provider)}")


def failure(text: str) -> str:
    """The cause in what onnxruntime says of a failed call of CUDA, without source files and types; else the text."""
    found = _FAILURE.search(text)
    return found[0].strip() if found else text


def load_gpu_libraries(provider: Provider, runtime: ModuleType) -> None:
    """Load CUDA, cuDNN and TensorRT from pip packages where they are installed; what is missing shows later."""
    if provider not in ON_GPU or not hasattr(runtime, "preload_dlls"):
        return
    with contextlib.redirect_stdout(io.StringIO()):  # where our JSON belongs
        runtime.preload_dlls()
    if provider == "tensorrt":
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # it has no option for TF32
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorrt_libs")  # of TensorRT's pip package: loads what lies beside it


def library_problem(provider: Provider, runtime: ModuleType) -> str | None:
    """The loader's own words on why a provider's shared library does not load; None when it does."""
    import ctypes

    location = getattr(runtime, "__file__", None)
    if provider == "cpu" or location is None:
        return None
    load_gpu_libraries(provider, runtime)
    for library in sorted((Path(location).parent / "capi").glob(f"*onnxruntime_providers_{provider}.*")):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return str(error)
    return None
