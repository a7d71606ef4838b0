"""Mutations of checkpoints: their zip archive, their pickle, and what it describes."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from random import Random
from typing import Any

import torch

from fuzzing.documents import VALUES, mutate_document
from fuzzing.octets import mutate_octets

CANARY = "MATSEG_FUZZ_CANARY"
"""Environment variable that a pickle sets if it is ever executed."""


class _Executes:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import os; os.environ[{CANARY!r}] = '1'",)


def hostile_pickle(random: Random) -> bytes:
    """A pickle that executes, or that takes memory out of all proportion."""
    laughs: Any = ["ha"] * 10
    for _ in range(12):
        laughs = [laughs] * 10
    training = {"config": laughs, "metrics": laughs}
    return random.choice(
        (
            pickle.dumps({"matseg_checkpoint": 1, "training": _Executes()}, 2),
            pickle.dumps({"matseg_checkpoint": 1, "training": training}, 2),
            b"\x80\x02N" + b"r" + struct.pack("<I", random.choice((2**26, 2**29, 2**32 - 1))) + b".",
            b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
            b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
            b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
            b"\x80\x02" + b"(" * 100_000 + b".",
            b"\x80\x02cbuiltins\nexec\n(X\x01\x00\x00\x001tR.",
            b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.",
            b"\x80\x02ccollections\nOrderedDict\n)RN}ub.",
            b"\x80\x02}}b.",
            b".",
            b"",
        )
    )


def mutate_checkpoint(random: Random, content: bytes) -> bytes:
    """A checkpoint that differs in one of its layers."""
    choice = random.randrange(6)
    if choice == 0:
        return mutate_octets(random, content)
    if choice <= 3:
        return _document(random, content)
    return _archive(random, content)


def _document(random: Random, content: bytes) -> bytes:
    """Well-formed, with another description or other tensors."""
    document = torch.load(io.BytesIO(content), weights_only=True)
    tensors = {key: document.pop(key) for key in ("weights", "sample")}
    document = mutate_document(random, document) if random.random() < 0.7 else document
    if random.random() < 0.5:
        _change_tensors(random, tensors)
    if isinstance(document, dict):
        document = {**tensors, **document}
    stream = io.BytesIO()
    torch.save(document, stream)
    return stream.getvalue()


def _change_tensors(random: Random, tensors: dict[str, Any]) -> None:
    weights = tensors["weights"]
    name = random.choice(list(weights))
    value = random.choice(
        (
            torch.zeros(0),
            torch.zeros(3, 3, dtype=torch.int64),
            weights[name].double() if weights[name].is_floating_point() else weights[name].float(),
            weights[name] * float("nan"),
            torch.zeros(1).expand(100_000, 100_000),
            torch.zeros(5).to_sparse(),
            torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8),
            weights[name].to(torch.complex64),
            torch.empty(2, device="meta"),
            random.choice(VALUES),
        )
    )
    where = random.randrange(4)
    if where == 0:
        tensors["sample"] = value
    elif where == 1:
        del weights[name]
    elif where == 2:
        tensors["weights"] = value
    else:
        weights[name] = value


def _archive(random: Random, content: bytes) -> bytes:
    """The same zip with one member changed, and compressed now and then."""
    source = zipfile.ZipFile(io.BytesIO(content))
    members = {item.filename: source.read(item) for item in source.infolist()}
    name = random.choice([*members, *[key for key in members if key.endswith("data.pkl")] * 3])
    choice = random.randrange(5)
    if choice == 0:
        del members[name]
    elif choice == 1 and name.endswith("data.pkl"):
        members[name] = hostile_pickle(random)
    elif choice == 2:
        members[name] = bytes(random.choice((0, 10, 80 << 20)))
    else:
        members[name] = mutate_octets(random, members[name])
    stream = io.BytesIO()
    kind = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if len(members.get(name, b"")) > 1 << 20:
        kind = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(stream, "w", kind) as target:
        for key, value in members.items():
            target.writestr(key, value)
    result = stream.getvalue()
    return mutate_octets(random, result, most=1) if random.random() < 0.1 else result
