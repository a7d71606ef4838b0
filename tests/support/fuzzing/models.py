"""Mutations of ONNX files: fields of the protobuf message, properties, and the arrays of the self-test."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import helper

from fuzzing.documents import mutate_json
from fuzzing.octets import EDGES, mutate_octets

_WORDS = ("", "image", "labels", "probabilities", "Conv", "Loop", "If", "Scan", "NoSuchOperator", "Reshape", "Expand",
          "ConstantOfShape", "Resize", "Tile", "Range", "ai.onnx.ml", "com.microsoft", "x" * 5000, "\x00",
          "../x.bin")  # fmt: skip


def mutate_graph(random: Random, content: bytes) -> bytes:
    """A model in which one to three fields of the message are changed."""
    model = onnx.load_from_string(content)
    for _ in range(random.randint(1, 3)):
        message = _somewhere(random, model.graph if random.random() < 0.9 else model)
        _change_field(random, message)
    return bytes(model.SerializeToString())


def _somewhere(random: Random, message: Message) -> Message:
    """A message within a message, the deeper the rarer."""
    while random.random() < 0.8:
        inner = []
        for field, value in message.ListFields():
            if field.message_type is not None and field.name != "metadata_props":
                inner += list(value) if _is_repeated(value) else [value]
        if not inner:
            break
        message = random.choice(inner)
    return message


def _is_repeated(value: Any) -> bool:
    return hasattr(value, "append") or hasattr(value, "add")


def _change_field(random: Random, message: Message) -> None:
    fields = [(field, value) for field, value in message.ListFields() if field.name != "metadata_props"]
    if not fields:
        return
    field, value = random.choice(fields)
    if random.random() < 0.15:
        message.ClearField(field.name)
    elif _is_repeated(value):
        _change_list(random, value)
    elif isinstance(value, bytes):
        setattr(message, field.name, mutate_octets(random, value))
    elif isinstance(value, str):
        setattr(message, field.name, random.choice(_WORDS))
    elif isinstance(value, float):
        setattr(message, field.name, random.choice((0.0, -1.0, 1e38, float("nan"), float("inf"))))
    elif isinstance(value, int):
        _set_number(random, message, field.name)


def _change_list(random: Random, values: Any) -> None:
    if not len(values):
        return
    at = random.randrange(len(values))
    choice = random.randrange(3)
    if choice == 0:
        del values[at]
    elif isinstance(values[at], Message):
        copy = type(values[at])()
        copy.CopyFrom(values[at])
        values.append(copy)
    elif isinstance(values[at], int):
        try:
            values[at] = random.choice((*EDGES, -1, 2**40, 2**62, 5))
        except ValueError:
            values[at] = 99
    elif isinstance(values[at], str):
        values[at] = random.choice(_WORDS)
    elif isinstance(values[at], float):
        values[at] = float("nan")
    else:
        values[at] = mutate_octets(random, values[at])


def _set_number(random: Random, message: Message, name: str) -> None:
    try:
        setattr(message, name, random.choice((*EDGES, -1, 2**40, 2**62, 5, 6, 9, 10)))
    except ValueError:  # an enumeration, or 32 bits
        setattr(message, name, 1)


def properties_of(content: bytes) -> dict[str, str]:
    """The `metadata_props` of a model file."""
    return {item.key: item.value for item in onnx.load_from_string(content).metadata_props}


def with_properties(content: bytes, properties: Mapping[str, str | bytes]) -> bytes:
    """The same model with other properties, which need not be UTF-8."""
    model = onnx.load_from_string(content)
    texts = {
        key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for key, value in properties.items()
    }
    helper.set_model_props(model, texts)
    return bytes(model.SerializeToString())


def mutate_metadata(random: Random, content: bytes) -> bytes:
    """A model whose document says something else."""
    properties: dict[str, str | bytes] = dict(properties_of(content))
    properties["matseg"] = mutate_json(random, json.loads(properties["matseg"]))
    return with_properties(content, properties)


def mutate_self_test(random: Random, content: bytes) -> bytes:
    """A model whose self-test is damaged, oversized or of another kind."""
    properties: dict[str, str | bytes] = dict(properties_of(content))
    packed = base64.b64decode(properties["matseg_self_test"])
    choice = random.randrange(6)
    if choice <= 1:
        packed = mutate_octets(random, packed)
    elif choice == 2:
        shape = random.choice(
            ((1, 1, 32, 32), (1, 1, 0, 32), (1, 3, 32, 32), (9, 1, 4, 4), (32, 32), (1, 1, 31, 32))
        )
        packed = _arrays(random.choice(("u1", "u2", "f4", "O", "?")), shape, compressed=True)
    elif choice == 3:
        packed = _arrays("u1", (1, 1, 8000, 8000), compressed=True)
    elif choice == 4:
        packed = _arrays("f8", (1, 1, 32, 32), compressed=random.random() < 0.5)
    text = base64.b64encode(packed)
    properties["matseg_self_test"] = mutate_octets(random, text, most=1) if choice == 5 else text
    return with_properties(content, properties)


def _arrays(dtype: str, shape: tuple[int, ...], *, compressed: bool) -> bytes:
    stream = io.BytesIO()
    image = np.zeros(shape, dtype)
    save = np.savez_compressed if compressed else np.savez
    plane = (shape[0], *shape[2:])
    save(stream, image=image, labels=np.zeros(plane, "u1"), margin=np.zeros(plane, "f2"))
    return stream.getvalue()
