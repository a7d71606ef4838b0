"""One export per network: torch's exporter takes ten seconds for the smallest, and writes the same graph each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import onnx
from torch import nn

Export = Callable[[Any, int, str], onnx.ModelProto]


def remembered(to_onnx: Export) -> Export:
    """`to_onnx`, asked once in this process for the same network, weights and input."""
    made: dict[str, bytes] = {}

    def once(deployed: nn.Module, channels: int, dtype: str) -> onnx.ModelProto:
        key = f"{_fingerprint(deployed)} {channels} {dtype}"
        if key not in made:
            made[key] = to_onnx(deployed, channels, dtype).SerializeToString()
        return onnx.load_model_from_string(made[key])

    return once


def _fingerprint(network: nn.Module) -> str:
    """Digest of its structure, its settings and its weights."""
    digest = hashlib.sha256(repr(network).encode())
    for name, module in network.named_modules():
        plain = {
            key: value for key, value in vars(module).items() if isinstance(value, int | float | str | tuple)
        }
        digest.update(f"{name} {sorted(plain.items())}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
