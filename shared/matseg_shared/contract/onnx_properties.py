"""A model's document and self-test as properties of its ONNX file: written, read and checked.

The document is JSON under the key `matseg` of the file's `metadata_props`; the self-test's arrays stand under
`matseg_self_test`. A few flat keys repeat what people look for in a graph viewer.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from matseg_shared.contract.metadata import SCHEMA_VERSION, ModelMetadata
from matseg_shared.errors import MetadataError, problems_of

DOCUMENT_KEY = "matseg"
SELF_TEST_KEY = "matseg_self_test"
MAX_DOCUMENT_BYTES = 1 << 20
MAX_SELF_TEST_BYTES = 8 << 20
MAX_SELF_TEST_UNPACKED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelfTest:
    """A small real input and what the network made of it at export."""

    image: NDArray[Any]
    """(N, C, H, W) in the model's own dtype."""
    labels: NDArray[np.uint8]
    """(N, H, W) class indices."""
    margin: NDArray[np.float32]
    """(N, H, W) best minus second best probability: where it is nearly 0, rounding may decide the label."""


def encode(metadata: ModelMetadata, self_test: SelfTest) -> dict[str, str]:
    """The `metadata_props` of a model file."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, image=self_test.image, labels=self_test.labels, margin=self_test.margin.astype(np.float16)
    )
    return {
        DOCUMENT_KEY: metadata.model_dump_json(),
        SELF_TEST_KEY: base64.b64encode(buffer.getvalue()).decode("ascii"),
        "matseg_schema_version": str(metadata.schema_version),
        "matseg_name": metadata.name,
        "matseg_network": metadata.network,
        "matseg_classes": ", ".join(item.name for item in metadata.classes),
        "matseg_precision": metadata.export.precision,
    }


def decode(properties: Mapping[str, str], source: str) -> ModelMetadata:
    """Read and check the document.

    Args:
        properties: the file's `metadata_props`.
        source: the file, named in errors.

    Raises:
        MetadataError: not a MatSeg model, an unknown schema version, or a bad document; lists every problem.
    """
    text = properties.get(DOCUMENT_KEY)
    if text is None:
        raise MetadataError(
            f"{source}: expected a model written by matseg-export, found an ONNX file without its metadata "
            f"(key {DOCUMENT_KEY!r}); export the checkpoint again"
        )
    if len(text) > MAX_DOCUMENT_BYTES:
        raise MetadataError(f"{source}: its metadata are larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{source}: its metadata are not JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version not in (1, SCHEMA_VERSION) or isinstance(version, bool):
        raise MetadataError(
            f"{source}: its metadata have schema version {version!r}, this version of matseg reads 1 and "
            f"{SCHEMA_VERSION}; update matseg, or export the model again"
        )
    try:
        return ModelMetadata.model_validate(document)
    except ValidationError as error:
        raise MetadataError(f"{source}: its metadata are not valid", problems_of(error)) from error


def decode_self_test(properties: Mapping[str, str], metadata: ModelMetadata, source: str) -> SelfTest:
    """Read the self-test that travels with a model.

    Raises:
        MetadataError: it is missing, damaged, or does not fit the model.
    """
    text = properties.get(SELF_TEST_KEY, "")
    if not text or len(text) > MAX_SELF_TEST_BYTES:
        raise MetadataError(f"{source}: its self-test is missing or oversized; export the model again")
    try:
        packed = io.BytesIO(base64.b64decode(text, validate=True))
        with zipfile.ZipFile(packed) as members:
            unpacked = sum(member.file_size for member in members.infolist())
        if unpacked > MAX_SELF_TEST_UNPACKED_BYTES:
            raise ValueError(f"it unpacks to {unpacked} bytes")
        with np.load(packed, allow_pickle=False) as arrays:
            test = SelfTest(
                image=arrays["image"], labels=arrays["labels"], margin=arrays["margin"].astype(np.float32)
            )
    except Exception as error:  # numpy's zip and header readers raise many kinds for damaged data
        raise MetadataError(
            f"{source}: its self-test is damaged ({error}); export the model again"
        ) from error
    shape = test.image.shape
    fits = (
        test.image.ndim == 4
        and test.image.dtype.name == metadata.input.dtype
        and shape[1] == metadata.input.channels
        and shape[2] % metadata.tiling.stride == shape[3] % metadata.tiling.stride == 0
        and test.labels.dtype == np.uint8
        and test.labels.shape == test.margin.shape == (shape[0], *shape[2:])
        and test.labels.size > 0
        and int(test.labels.max()) < len(metadata.classes)
        and bool(np.isfinite(test.image).all() and np.isfinite(test.margin).all())
    )
    if not fits:
        raise MetadataError(f"{source}: its self-test does not fit the model; export the model again")
    return test
