"""Signing a model file that would be loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from matseg_runtime.model.file import read_model_bytes
from matseg_runtime.model.guard import vet_model
from matseg_runtime.model.signature import sign, signature_path
from matseg_shared.contract.metadata import decode
from matseg_shared.contract.onnx_properties import read_properties
from matseg_shared.system.files import atomic_write


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What was signed, and where the signature is."""

    model: Path
    sha256: str
    path: Path


def sign_model(model: Path, key: Path, password: str | None = None) -> Signed:
    """Write the signature beside a model; an earlier one is replaced.

    Args:
        model: the file.
        key: private key, a PEM file.
        password: of the key.

    Raises:
        ModelError: the file is no model that would be loaded.
        UsageError: the key cannot be used.
        MissingExtraError: cryptography is not installed.
        OutputError: the signature cannot be written.
    """
    content = read_model_bytes(model)
    vet_model(model, content)
    decode(read_properties(model), str(model))
    sha256 = hashlib.sha256(content).hexdigest()
    signature = sign(model.name, sha256, key, password)
    path = signature_path(model)
    with atomic_write(path) as stream:
        stream.write(signature)
    return Signed(model=model, sha256=sha256, path=path)
