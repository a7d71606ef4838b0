"""The NVIDIA driver of this machine and its GPUs, as the driver tells; needs neither CUDA nor onnxruntime."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

_NAME_BYTES = 256
EXTRAS = {13: ("cuda13", 580), 12: ("cuda12", 525)}
"""Per CUDA major the extra, and the oldest NVIDIA driver that runs its programs."""


@dataclass(frozen=True, slots=True)
class Driver:
    """An installed NVIDIA driver."""

    cuda: tuple[int, int]
    """Newest CUDA version whose programs it runs."""
    gpus: tuple[str, ...]
    """Names of the GPUs, in the order of cuda:0, cuda:1; those that CUDA_VISIBLE_DEVICES leaves."""


def find_driver() -> Driver | None:
    """Ask the driver; None where none is installed."""
    try:
        library = _library()
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        count.value = 0
    cuda = version.value // 1000, version.value % 1000 // 10
    return Driver(cuda, tuple(_name(library, number) for number in range(count.value)))


def extra_for(driver: Driver | None) -> str:
    """Name of the extra whose CUDA a driver runs; of the newest where there is no driver."""
    fitting = [major for major in EXTRAS if driver is None or driver.cuda >= (major, 0)]
    return EXTRAS[max(fitting, default=min(EXTRAS))][0]


def which_extra(driver: Driver | None) -> str:
    """Words on the driver here, and on the extra that each driver takes."""
    here = "no NVIDIA driver was found here: where there is one, install"
    if driver is not None:
        first = "" if driver.cuda >= (min(EXTRAS), 0) else "update it, then "
        here = f"the NVIDIA driver here runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}: {first}install"
    extras = " or ".join(f"`{extra}` (driver {oldest} or newer)" for extra, oldest in EXTRAS.values())
    return f"{here} the extra {extras}"


def _library() -> Any:
    if sys.platform == "win32":
        return ctypes.WinDLL("nvcuda.dll")
    return ctypes.CDLL("libcuda.so.1")


def _name(library: Any, number: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    if library.cuDeviceGet(ctypes.byref(device), number) or library.cuDeviceGetName(
        name, _NAME_BYTES, device
    ):
        return "unknown GPU"
    return name.value.decode(errors="replace")
