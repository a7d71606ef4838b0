"""The document of a model file: there and back, and every kind of bad one is refused with all its problems."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from matseg_shared.contract.metadata import SCHEMA_VERSION, ModelMetadata
from matseg_shared.contract.onnx_properties import (
    DOCUMENT_KEY,
    MAX_DOCUMENT_BYTES,
    MAX_SELF_TEST_BYTES,
    SELF_TEST_KEY,
    SelfTest,
    decode,
    decode_self_test,
    encode,
)
from matseg_shared.errors import MetadataError

Document = dict[str, Any]
Change = Callable[[Document], object]

DOCUMENT: Document = {
    "schema_version": 2,
    "name": "tomography_v8",
    "classes": [
        {"index": 0, "name": "liquid", "colour": [0, 0, 0], "label_value": 0},
        {"index": 1, "name": "dendrite", "colour": [230, 159, 0], "label_value": [255, 255, 255]},
    ],
    "input": {
        "channels": 1,
        "dtype": "uint8",
        "mean": [128.5],
        "std": [13.25],
        "histogram": {"low": 0.0, "high": 256.0, "counts": [1, 2, 0, 4]},
    },
    "tiling": {"stride": 4, "halo": 8},
    "training": {
        "dataset": "tomography",
        "version": "v8",
        "network": "unet",
        "config": {"lr": 0.002, "size": [852, 852], "crop": None},
        "epoch": 11,
        "metrics": {"mean_iou": 0.98, "iou": [0.99, None]},
        "fingerprint": "ab" * 32,
        "seed": 0,
        "packages": {"torch": "2.6"},
        "init": {"name": "phantom_v1", "sha256": "cd" * 32},
        "teacher": {
            "name": "phantom_v2",
            "sha256": "ef" * 32,
            "unlabelled": 7,
            "unlabelled_sha256": "ab" * 32,
        },
    },
    "export": {
        "precision": "fp32",
        "opset": 18,
        "parity": {
            "cases": 4,
            "pixels": 4096,
            "max_probability_difference": 1e-6,
            "label_mismatches": 0,
            "label_ties": 0,
        },
        "packages": {"onnx": "1.17"},
    },
    "pixel_size": {"value": 1.3, "unit": "µm"},
}


def self_test(**changes: Any) -> SelfTest:
    arrays: dict[str, Any] = {
        "image": np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8),
        "labels": np.tile(np.array([0, 1], dtype=np.uint8), 32).reshape(1, 8, 8),
        "margin": np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8),
    }
    return SelfTest(**{**arrays, **changes})


def properties(change: Change | None = None) -> dict[str, str]:
    document = copy.deepcopy(DOCUMENT)
    if change is not None:
        change(document)
    return {DOCUMENT_KEY: json.dumps(document)}


def problems(change: Change) -> dict[str, str]:
    with pytest.raises(MetadataError) as caught:
        decode(properties(change), "model.onnx")
    error = caught.value
    assert str(error).startswith("model.onnx: its metadata are not valid")
    assert all(str(problem) in str(error) for problem in error.problems)
    return {problem.where: problem.message for problem in error.problems}


@pytest.fixture
def metadata() -> ModelMetadata:
    return decode(properties(), "model.onnx")


def test_there_and_back(metadata: ModelMetadata) -> None:
    encoded = encode(metadata, self_test())
    assert decode(encoded, "model.onnx") == metadata
    assert json.loads(encoded[DOCUMENT_KEY])["training"] == DOCUMENT["training"] | {"pretrained": None}
    found, expected = decode_self_test(encoded, metadata, "model.onnx"), self_test()
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.margin.dtype == np.float32
    np.testing.assert_allclose(found.margin, expected.margin, atol=1e-3)


def test_a_document_of_version_1_has_the_same_types() -> None:
    found = decode(properties(lambda document: document.update(schema_version=1)), "model.onnx")
    assert found.schema_version == 1
    assert found.input == decode(properties(), "model.onnx").input
    assert (found.input.channel_names, found.input.picked, found.input.crop_bottom) == ((), (), 0)
    assert found.training.pretrained is None
    assert encode(found, self_test())["matseg_schema_version"] == "1"


def test_channels_bars_and_published_weights_there_and_back() -> None:
    names = [f"element {index}" for index in range(64)]
    several = {"channels": 64, "mean": [1.0] * 64, "std": [2.0] * 64, "channel_names": names}

    def change(document: Document) -> None:
        document["input"].update(several, picked=[*range(1, 65)], crop_bottom=22, no_data="mean")
        document["training"]["pretrained"] = {"origin": "torchvision resnet18", "licence": "BSD-3-Clause"}

    found = decode(properties(change), "model.onnx")
    again = decode(encode(found, self_test()), "model.onnx")
    assert again == found
    assert again.input.channel_names == tuple(names)
    assert again.input.picked == tuple(range(1, 65))
    assert again.input.crop_bottom == 22
    assert again.training.pretrained is not None
    assert again.training.pretrained.licence == "BSD-3-Clause"


def test_what_a_graph_viewer_shows(metadata: ModelMetadata) -> None:
    flat = encode(metadata, self_test())
    assert all(type(value) is str for value in flat.values())
    assert {key: value for key, value in flat.items() if key not in (DOCUMENT_KEY, SELF_TEST_KEY)} == {
        "matseg_schema_version": "2",
        "matseg_name": "tomography_v8",
        "matseg_network": "unet",
        "matseg_classes": "liquid, dendrite",
        "matseg_precision": "fp32",
    }


def test_what_the_runtime_asks_for(metadata: ModelMetadata) -> None:
    assert metadata.colours == ((0, 0, 0), (230, 159, 0))
    assert [item.label_value for item in metadata.classes] == [0, (255, 255, 255)]
    assert metadata.pixel_size is not None
    assert (metadata.pixel_size.value, metadata.pixel_size.unit) == (1.3, "µm")
    assert decode(properties(lambda document: document.pop("pixel_size")), "m").pixel_size is None


def test_a_document_cannot_be_changed(metadata: ModelMetadata) -> None:
    with pytest.raises(ValueError, match="frozen"):
        metadata.tiling.halo = 0  # type: ignore[misc]


def test_a_model_of_somebody_else() -> None:
    with pytest.raises(MetadataError, match=r"model\.onnx: expected a model written by matseg-export"):
        decode({"author": "somebody"}, "model.onnx")


@pytest.mark.parametrize(
    "text",
    ["", "{", "not json", "[" * 100_000, '{"a": 1' + "}" * 3],
    ids=["empty", "open", "text", "deep", "tail"],
)
def test_a_document_that_is_no_json(text: str) -> None:
    with pytest.raises(MetadataError, match="its metadata are not JSON"):
        decode({DOCUMENT_KEY: text}, "model.onnx")


def test_a_document_that_is_too_large() -> None:
    with pytest.raises(MetadataError, match="larger than"):
        decode({DOCUMENT_KEY: " " * (MAX_DOCUMENT_BYTES + 1)}, "model.onnx")


@pytest.mark.parametrize("version", [0, 3, "1", 1.5, True, None, [1]])
def test_an_unknown_schema_version(version: object) -> None:
    with pytest.raises(MetadataError) as caught:
        decode(properties(lambda document: document.update(schema_version=version)), "model.onnx")
    assert f"schema version {version!r}, this version of matseg reads 1 and {SCHEMA_VERSION};" in str(
        caught.value
    )


@pytest.mark.parametrize("text", ["[]", "1", "null", '"text"', "{}"])
def test_json_that_is_no_document(text: str) -> None:
    with pytest.raises(MetadataError, match="schema version None"):
        decode({DOCUMENT_KEY: text}, "model.onnx")


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("name", lambda d: d.update(name="")),
        ("name", lambda d: d.pop("name")),
        ("extra", lambda d: d.update(extra=1)),
        ("input.extra", lambda d: d["input"].update(extra=1)),
        ("classes.1.extra", lambda d: d["classes"][1].update(extra=1)),
        ("classes", lambda d: d.update(classes=d["classes"][:1])),
        ("classes", lambda d: d.update(classes=d["classes"] * 200)),
        ("classes.0.colour.1", lambda d: d["classes"][0].update(colour=[0, 256, 0])),
        ("classes.0.index", lambda d: d["classes"][0].update(index=-1)),
        ("input.channels", lambda d: d["input"].update(channels=0)),
        ("input.channels", lambda d: d["input"].update(channels=65)),
        ("input", lambda d: d["input"].update(channels=2)),
        ("input", lambda d: d["input"].update(channel_names=["Fe", "Ni"])),
        ("input.channel_names.0", lambda d: d["input"].update(channel_names=["a\nb"])),
        ("input", lambda d: d["input"].update(picked=[0, 2])),
        ("input", lambda d: d["input"].update(picked=[0, 1])),
        ("input", lambda d: d["input"].update(context=1)),
        ("input.context", lambda d: d["input"].update(context=32)),
        ("input.no_data", lambda d: d["input"].update(no_data="zero")),
        ("input.crop_bottom", lambda d: d["input"].update(crop_bottom=-1)),
        ("training.pretrained.licence", lambda d: d["training"].update(pretrained={"origin": "torchvision"})),
        ("input.dtype", lambda d: d["input"].update(dtype="int16")),
        ("input", lambda d: d["input"].update(mean=[1.0, 2.0])),
        ("input.std.0", lambda d: d["input"].update(std=[0.0])),
        ("input.mean.0", lambda d: d["input"].update(mean=[float("nan")])),
        ("input.histogram.counts", lambda d: d["input"]["histogram"].update(counts=[])),
        ("input.histogram.counts.0", lambda d: d["input"]["histogram"].update(counts=[-1])),
        ("input.histogram", lambda d: d["input"]["histogram"].update(low=5.0, high=5.0)),
        ("tiling.stride", lambda d: d["tiling"].update(stride=0)),
        ("tiling.halo", lambda d: d["tiling"].update(halo=-4)),
        ("tiling", lambda d: d["tiling"].update(halo=6)),
        ("training.epoch", lambda d: d["training"].update(epoch=0)),
        ("export.precision", lambda d: d["export"].update(precision="fp8")),
        ("export.parity.cases", lambda d: d["export"]["parity"].pop("cases")),
        ("pixel_size.value", lambda d: d["pixel_size"].update(value=0)),
        ("pixel_size.unit", lambda d: d["pixel_size"].update(unit="")),
    ],
)
def test_a_bad_value_is_named_with_its_place(where: str, change: Change) -> None:
    assert list(problems(change)) == [where]


def test_class_indices_out_of_order() -> None:
    found = problems(lambda document: document["classes"].reverse())
    assert found == {"": "class indices must be 0 to 1 in order, found [1, 0]"}


def test_all_problems_at_once() -> None:
    def change(document: Document) -> None:
        document.update(name="", surprise=1)
        document["tiling"].update(stride="four", halo=None)
        del document["training"]

    assert set(problems(change)) == {"name", "surprise", "tiling.stride", "tiling.halo", "training"}


def packed(**arrays: Any) -> str:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


GOOD = {name: getattr(self_test(), name) for name in ("image", "labels", "margin")}


@pytest.mark.parametrize("text", [None, "", "A" * (MAX_SELF_TEST_BYTES + 1)], ids=["none", "empty", "large"])
def test_a_missing_or_oversized_self_test(metadata: ModelMetadata, text: str | None) -> None:
    given = {} if text is None else {SELF_TEST_KEY: text}
    with pytest.raises(MetadataError, match=r"model\.onnx: its self-test is missing or oversized"):
        decode_self_test(given, metadata, "model.onnx")


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        base64.b64encode(b"not a zip").decode(),
        packed(**GOOD)[:400],
        packed(image=GOOD["image"], labels=GOOD["labels"]),
        packed(**{**GOOD, "image": np.array([{"a": 1}], dtype=object)}),
        packed(**{**GOOD, "margin": np.array([["text"]])}),
    ],
    ids=["base64", "zip", "cut", "lacking", "objects", "text"],
)
def test_a_damaged_self_test(metadata: ModelMetadata, text: str) -> None:
    with pytest.raises(MetadataError, match="its self-test is damaged"):
        decode_self_test({SELF_TEST_KEY: text}, metadata, "model.onnx")


@pytest.mark.parametrize(
    "changes",
    [
        {"image": GOOD["image"].astype(np.uint16)},
        {"image": GOOD["image"][0]},
        {"image": np.repeat(GOOD["image"], 3, axis=1)},
        {
            "image": GOOD["image"][..., :7],
            "labels": GOOD["labels"][..., :7],
            "margin": GOOD["margin"][..., :7],
        },
        {"labels": GOOD["labels"].astype(np.int64)},
        {"labels": GOOD["labels"][:, :4]},
        {"margin": GOOD["margin"][:, :4]},
        {"image": GOOD["image"][:0], "labels": GOOD["labels"][:0], "margin": GOOD["margin"][:0]},
        {"labels": GOOD["labels"] + np.uint8(1)},
        {"margin": np.full_like(GOOD["margin"], np.nan)},
    ],
    ids=["dtype", "ndim", "channels", "stride", "labels", "shape", "margin", "empty", "class", "nan"],
)
def test_a_self_test_that_does_not_fit_the_model(metadata: ModelMetadata, changes: dict[str, Any]) -> None:
    with pytest.raises(MetadataError, match="its self-test does not fit the model"):
        decode_self_test({SELF_TEST_KEY: packed(**{**GOOD, **changes})}, metadata, "model.onnx")


def test_a_small_self_test_that_unpacks_to_more_than_memory_is_refused(metadata: ModelMetadata) -> None:
    zeros = np.zeros((1, 1, 8192, 8192), dtype=np.uint8)
    bomb = packed(image=zeros, labels=GOOD["labels"], margin=GOOD["margin"])
    assert len(bomb) < MAX_SELF_TEST_BYTES
    with pytest.raises(MetadataError, match="its self-test is damaged"):
        decode_self_test({SELF_TEST_KEY: bomb}, metadata, "model.onnx")


def with_precision(precision: str, **export: Any) -> ModelMetadata:
    def change(document: Document) -> None:
        document["export"].update(precision=precision, **export)

    return decode(properties(change), "model.onnx")


@pytest.mark.parametrize(
    ("precision", "provider", "instead"),
    [("fp16", "cpu", "int8"), ("int8", "cuda", "fp16")],
)
def test_a_precision_that_does_not_pay_is_said_with_the_one_that_does(
    precision: str, provider: str, instead: str
) -> None:
    found = with_precision(precision)
    assert not found.pays_on(provider)
    warning = found.precision_warning(provider)
    assert warning is not None
    assert warning.startswith(f"{precision} does not pay on the provider {provider}")
    assert warning.endswith(f"--precision {instead} for {provider}")


@pytest.mark.parametrize(
    ("precision", "provider"), [("fp32", "cpu"), ("fp32", "cuda"), ("int8", "cpu"), ("fp16", "tensorrt")]
)
def test_a_precision_that_pays_needs_no_word(precision: str, provider: str) -> None:
    assert with_precision(precision).pays_on(provider)
    assert with_precision(precision).precision_warning(provider) is None


def test_what_the_file_says_of_its_providers_goes_before_the_table() -> None:
    assert with_precision("fp16", pays_on=["cpu"]).pays_on("cpu")
    assert not with_precision("fp16", pays_on=["cpu"]).pays_on("cuda")


def test_calibration_and_accuracy_there_and_back() -> None:
    calibration = {
        "method": "least squared error",
        "split": "train",
        "crops": 32,
        "crop": 256,
        "seed": 0,
        "ranges": "ab" * 32,
        "weight_levels": 127,
        "fp32_layers": ["decoder.0.0"],
    }
    accuracy = {"split": "validate", "images": 8, "mean_iou": 0.97, "mean_iou_fp32": 0.971}
    found = with_precision("int8", calibration=calibration, accuracy=accuracy)
    again = decode(encode(found, self_test()), "model.onnx")
    assert again.export.calibration is not None
    assert again.export.calibration.model_dump(mode="json") == calibration
    assert again.export.accuracy is not None
    assert again.export.accuracy.model_dump(mode="json") == accuracy
