"""One model file: its bytes, its identity and what it says about itself."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matseg_runtime.model.guard import check_model
from matseg_runtime.model.trust import Trust, trust_of
from matseg_runtime.units import format_size, parse_size
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME, PROBABILITIES_NAME, ModelMetadata
from matseg_shared.contract.onnx_properties import SelfTest, decode, decode_self_test
from matseg_shared.errors import ModelError

LIMIT_VARIABLE = "MATSEG_MODEL_LIMIT"
DEFAULT_LIMIT = 1_000_000_000
"""Bytes; the guide's networks at full width have a tenth to a quarter of it."""
_ELEMENT_TYPES = {"uint8": "tensor(uint8)", "uint16": "tensor(uint16)", "float32": "tensor(float)"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A checked model file, without its weights."""

    path: Path
    sha256: str
    """SHA-256 of the whole file, in hexadecimal: the model's identity in ledgers and provenance."""
    metadata: ModelMetadata
    self_test: SelfTest
    proofs: tuple[str, ...] = ()
    """Reasons to trust it: all that was asked for and proved."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelFile:
    """A model file that was read once: what was trusted and checked is what is run, in as many sessions as needed."""

    content: bytes = field(repr=False)
    """The whole file."""
    model: Model


def choose_model(model: Path | str, sha256: str | None = None) -> tuple[Path, Trust]:
    """The file that a MODEL argument, a path or `zoo:NAME`, means, and what it must prove when it is read.

    Raises what `trust_of` does, which takes `sha256`, and for the zoo what `choose_zoo_model` does.
    """
    trust, text = trust_of(sha256), str(model)
    if not text.startswith("zoo:"):
        return Path(model), trust
    from matseg_runtime.model.zoo import choose_zoo_model

    path, demand = choose_zoo_model(text.removeprefix("zoo:"))
    return path, trust.also(demand)


def read_model(path: Path, trust: Trust | None = None) -> ModelFile:
    """Read a model file and check it; onnxruntime has seen nothing of it yet.

    Args:
        path: a file that matseg-export wrote.
        trust: what the file must prove; None: what the site asks for.

    Raises:
        ModelError: the file cannot be read, does not prove what it must, or holds what no model of ours does.
        MetadataError: it carries no metadata of ours, or bad ones.
        UsageError: a list that it is measured by cannot be used, or MATSEG_MODEL_LIMIT is no size.
    """
    content = read_model_bytes(path)
    sha256 = hashlib.sha256(content).hexdigest()
    proofs = (Trust.of_site() if trust is None else trust).prove(path, sha256)
    properties = check_model(path, content)
    metadata = decode(properties, str(path))
    self_test = decode_self_test(properties, metadata, str(path))
    model = Model(path=path, sha256=sha256, metadata=metadata, self_test=self_test, proofs=proofs)
    return ModelFile(content=content, model=model)


def read_model_bytes(path: Path) -> bytes:
    """The file's content, or a ModelError where it cannot be read or is larger than MATSEG_MODEL_LIMIT."""
    text = os.environ.get(LIMIT_VARIABLE)
    limit = parse_size(text, LIMIT_VARIABLE) if text else DEFAULT_LIMIT
    try:
        if path.is_dir():
            raise ModelError(f"{path}: expected a model file (.onnx), found a folder; name the file in it")
        if path.exists() and not path.is_file():  # which could hand out bytes for ever, or none
            raise ModelError(
                f"{path}: expected a model file (.onnx), found a pipe or device; save what comes from it"
            )
        with path.open("rb") as stream:
            content = stream.read(min(os.fstat(stream.fileno()).st_size, limit) + 1)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such model file; matseg-export writes one") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        cause = getattr(error, "strerror", None) or error
        raise ModelError(f"{path}: the model file cannot be read: {cause}") from error
    if len(content) > limit:
        raise ModelError(
            f"{path}: expected a model of at most {format_size(limit)}, found a larger file; if it is the one you "
            f"mean, set {LIMIT_VARIABLE} to a larger size, such as 2GB"
        )
    return content


def check_graph(model: Model, session: Any) -> None:
    """Refuse with a ModelError a loaded onnxruntime session whose inputs and outputs are not those of the metadata."""
    if (problem := _graph_problem(model.metadata, session)) is not None:
        raise ModelError(f"{model.path}: {problem}; export the checkpoint again")


def _graph_problem(metadata: ModelMetadata, session: Any) -> str | None:
    dtype, channels, classes = metadata.input.dtype, metadata.input.channels, len(metadata.classes)
    inputs = {INPUT_NAME: ((_ELEMENT_TYPES[dtype],), 4, channels, "channels")}
    outputs = {
        LABELS_NAME: (("tensor(uint8)",), 3, None, ""),
        PROBABILITIES_NAME: (("tensor(float)", "tensor(float16)"), 4, classes, "classes"),
    }
    for kind, tensors, wanted in (
        ("input", session.get_inputs(), inputs),
        ("output", session.get_outputs(), outputs),
    ):
        found = {item.name: item for item in tensors}
        if set(found) != set(wanted):
            return f"expected the {kind}s {', '.join(wanted)}, found {', '.join(found) or 'none'}"
        for name, (types, rank, length, word) in wanted.items():
            tensor, shape = found[name], found[name].shape
            if tensor.type not in types or len(shape) != rank:
                expected = f"a {' or '.join(types)} of {rank} axes"
                return f"expected {name!r} to be {expected}, found a {tensor.type} of {len(shape)}"
            if length is not None and isinstance(shape[1], int) and shape[1] != length:
                return f"its metadata speak of {length} {word}, its {name!r} has {shape[1]}"
    for length, side in zip(session.get_inputs()[0].shape[2:], ("height", "width"), strict=True):
        if isinstance(length, int):
            return f"its input has the fixed {side} {length}, expected one that is free"
    return None
