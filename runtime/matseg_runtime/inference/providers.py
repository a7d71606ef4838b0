"""Execution providers: which one is used is decided here, told to the user, and never changed without a word."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from matseg_shared.errors import MissingExtraError, ProviderError, UnsupportedError
from matseg_shared.installation import install_command

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
ProviderChoice = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
PROVIDER_CHOICES: tuple[str, ...] = get_args(ProviderChoice)

EXECUTION_PROVIDERS: Mapping[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_AUTO_ORDER: tuple[Provider, ...] = ("cuda", "openvino", "cpu")
# TensorRT is not in it: it builds an engine for minutes, which nobody should meet unasked.

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
"""Read by onnxruntime when it is loaded: with "1" it collects and sends nothing, and writes no identifier."""

COMPUTE_ON_CPU: tuple[Provider, ...] = ("cpu", "openvino")
"""Their memory is this process's, and its cores are shared out between calls."""

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
            f"with: pip uninstall --yes {' '.join(found)}, then {install_command('cpu')} (with `cuda` for `cpu` on a "
            "machine with an NVIDIA GPU)"
        )
    # official builds tell their maker of each process, session and model, from 1.29 on not only on Windows
    os.environ[TELEMETRY_VARIABLE] = "1"
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        if not found:
            raise MissingExtraError(
                "cpu", "running a model (on an NVIDIA GPU: with the extra `cuda` instead)"
            ) from error
        raise UnsupportedError(
            f"{found[0]} is installed but cannot be loaded: {error}; install it again: "
            f"pip install --force-reinstall {found[0]}"
        ) from error
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


def provider_list(provider: Provider, threads: int, streams: int) -> list[tuple[str, dict[str, Any]]]:
    """Providers with their options, as onnxruntime takes them.

    Args:
        provider: the one to use; TensorRT gets CUDA for the operators that it lacks.
        threads: for all streams together.
        streams: calls at a time.
    """
    options: dict[Provider, dict[str, Any]] = {
        "cpu": {},
        # TF32 rounds fp32 products to 10 bits of mantissa; HEURISTIC spares a search over kernels per shape
        "cuda": {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0", "do_copy_in_default_stream": "1"},
        "tensorrt": {"trt_fp16_enable": "0"},
        # ACCURACY keeps fp32 models in fp32 also on devices whose default is lower
        "openvino": {
            "device_type": "CPU",
            "precision": "ACCURACY",
            "num_of_threads": str(threads),
            "num_streams": str(streams),
        },
    }
    chain: tuple[Provider, ...] = ("tensorrt", "cuda") if provider == "tensorrt" else (provider,)
    return [(EXECUTION_PROVIDERS[name], options[name]) for name in chain]


def _remedy(provider: Provider) -> str:
    if provider == "cpu":
        return "install it again: pip install --force-reinstall onnxruntime"
    extra = "openvino" if provider == "openvino" else "cuda"
    command = install_command(extra) + (" tensorrt" if provider == "tensorrt" else "")
    machine = "" if extra == "openvino" else " on a machine with an NVIDIA GPU and driver"
    return f"install the extra `{extra}` in an environment of its own ({command}){machine}, or use --provider cpu"


def not_available(provider: Provider, runtime: ModuleType, cause: str) -> ProviderError:
    """The error for a provider that this onnxruntime offers but this machine does not; the loader knows more."""
    return ProviderError(
        f"provider {provider}: {library_problem(provider, runtime) or cause}; {_remedy(provider)}"
    )


def library_problem(provider: Provider, runtime: ModuleType) -> str | None:
    """The loader's own words on why a provider's shared library does not load; None when it does."""
    import ctypes

    location = getattr(runtime, "__file__", None)
    if provider == "cpu" or location is None:
        return None
    for library in sorted((Path(location).parent / "capi").glob(f"*onnxruntime_providers_{provider}.*")):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return str(error)
    return None
