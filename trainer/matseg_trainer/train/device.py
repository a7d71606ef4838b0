"""Device and precision to train with, and the reason for each."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from matseg_shared.errors import UnsupportedError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeChoice:
    """A device and a precision, with the reason for each."""

    device: torch.device
    device_reason: str
    autocast: torch.dtype | None
    """The dtype of mixed precision; None: everything in fp32."""
    precision_reason: str

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        names = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names[self.autocast]


def choose_compute(*, gpu: bool, amp: str, local_rank: int = 0, device: str | None = None) -> ComputeChoice:
    """Resolve `--gpu` or `--device`, and the hyperparameter `amp`, for this machine.

    Args:
        gpu: use a GPU should one be available, as the user guide says.
        amp: `auto`, `fp32`, `bf16` or `fp16`.
        local_rank: this process among those on the machine; picks the GPU.
        device: `cpu`, `cuda` or `cuda:N`, instead of what `gpu` says.

    Raises:
        UsageError: there is no such kind of device.
        UnsupportedError: there is no such device here, or fp16 was demanded where there is none.
    """
    if device is not None:
        chosen, reason = _named_device(device), "as asked"
    elif gpu and torch.cuda.is_available():
        chosen = torch.device("cuda", local_rank)
        reason = torch.cuda.get_device_name(chosen)
    else:
        chosen = torch.device("cpu")
        reason = f"no GPU: {why_no_cuda()}" if gpu else "as asked (no --gpu)"
    autocast, why = _choose_precision(chosen, amp)
    return ComputeChoice(device=chosen, device_reason=reason, autocast=autocast, precision_reason=why)


def _named_device(text: str) -> torch.device:
    kind = re.fullmatch(r"cpu|cuda(:\d+)?", text)
    if kind is None:
        raise UsageError(f"--device: expected cpu, cuda or cuda:N, as in cuda:1, found {text!r}")
    if text != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise UnsupportedError(f"--device {text}: {why_no_cuda()}")
        if int((kind[1] or ":0")[1:]) >= count:
            raise UnsupportedError(
                f"--device {text}: expected cuda:0 to cuda:{count - 1}, the GPUs of this machine"
            )
    return torch.device(text)


def why_no_cuda() -> str:
    """In words, what keeps torch from using CUDA here."""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA; install a CUDA build of torch"
    return "torch finds no usable CUDA device or driver; see nvidia-smi"


def _choose_precision(device: torch.device, amp: str) -> tuple[torch.dtype | None, str]:
    configured = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if amp == "fp16" and device.type != "cuda":
        raise UnsupportedError("amp fp16 needs a GPU; set `amp` to auto, bf16 or fp32 in config.toml")
    if amp in configured:
        return configured[amp], "as configured"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return torch.bfloat16, "this GPU has bf16"
        return torch.float16, "this GPU has no bf16"
    if _cpu_multiplies_bf16():
        return torch.bfloat16, "this CPU multiplies bf16 natively"
    return None, "this CPU has no native bf16, which would be slower than fp32"


def _cpu_multiplies_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    probes = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(probe() for probe in probes if probe is not None)
