"""One export per network: torch's exporter takes ten seconds for the smallest, and writes the same graph each time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import pytest
from filelock import FileLock
from torch import nn

from matseg_trainer.export import export
from matseg_trainer.export.graph import DeployedNetwork, to_onnx


@contextmanager
def one_export_per_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ask `to_onnx` once for the same network, weights and input, in all processes that run the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of the processes has one folder for each
    graphs = folder / "graphs"
    graphs.mkdir(exist_ok=True)

    def once(deployed: DeployedNetwork, channels: int, dtype: str) -> onnx.ModelProto:
        path = graphs / f"{_fingerprint(deployed)}_{channels}_{dtype}.onnx"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                path.write_bytes(to_onnx(deployed, channels, dtype).SerializeToString())
        return onnx.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", once)
        yield


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
