"""An export's file, and its refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from matseg_runtime.cli.model import inspect_main
from matseg_runtime.model.file import read_model
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.contract.metadata import PretrainedInfo
from matseg_shared.errors import ExportError
from matseg_shared.images.read import read_image
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.evaluate.overlay import FALSE_NEGATIVE, FALSE_POSITIVE
from matseg_trainer.export import export
from matseg_trainer.export.bioimageio.texts import documentation
from matseg_trainer.predict.checkpoint import load_checkpoint, save_checkpoint


def invoke(command: object, workspace: Path, *arguments: str) -> object:
    return CliRunner().invoke(command, [*arguments, "--workspace", str(workspace)])  # type: ignore[arg-type]


def test_export_writes_one_self_contained_file(trained: Path) -> None:
    result = invoke(export_main, trained, "discs", "v1")
    assert result.exit_code == 0, result.output
    path = trained / "saved" / "discs_v1.onnx"
    model = onnx.load(path, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}
    content = path.read_bytes()
    for trace in (
        b".py",
        b"stack_trace",
        str(Path(torch.__file__).parent.parent).encode(),
        b"matseg_trainer/",
    ):
        assert trace not in content
    document = json.loads(next(p.value for p in model.metadata_props if p.key == "matseg"))
    assert document["tiling"] == {"stride": 16, "halo": 96}
    assert document["export"]["parity"]["label_mismatches"] == 0
    assert document["training"]["config"]["width"] == 4
    assert document["training"]["seed"] == 0
    assert len(document["input"]["histogram"]["counts"]) == 256


def test_an_encoders_origin_and_licence_are_told(trained: Path) -> None:
    """By the export, in the file, by matseg-inspect, and in the text of a package."""
    path = trained / "saved" / "discs_v1.pth"
    checkpoint = load_checkpoint(path)
    origin = PretrainedInfo(origin="vgg16.pth (SHA-256 0f)", licence="CC-BY-NC-4.0")
    training = checkpoint.training.model_copy(update={"pretrained": origin})
    save_checkpoint(path, dataclasses.replace(checkpoint, training=training))
    result = invoke(export_main, trained, "discs", "v1")
    assert "made from vgg16.pth (SHA-256 0f), licence CC-BY-NC-4.0" in result.output
    model = read_model(trained / "saved" / "discs_v1.onnx", MADE_HERE).model
    assert model.metadata.training.pretrained == origin
    assert f"Its encoder started from {origin}." in documentation(model.metadata, model.sha256)
    inspected = CliRunner().invoke(inspect_main, [str(model.path)])
    assert "CC-BY-NC-4.0" in inspected.output


def test_an_existing_file_is_kept_without_overwrite(trained: Path) -> None:
    target = trained / "model.onnx"
    target.write_text("mine", encoding="utf-8")
    result = invoke(export_main, trained, "discs", "v1", "-o", str(target))
    assert result.exit_code == 2
    assert target.read_text(encoding="utf-8") == "mine"
    assert invoke(export_main, trained, "discs", "v1", "-o", str(target), "--overwrite").exit_code == 0


def test_a_graph_that_differs_is_not_written(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = export.to_onnx

    def spoilt(*arguments: object) -> onnx.ModelProto:
        model = original(*arguments)  # type: ignore[arg-type]
        weights = next(item for item in model.graph.initializer if len(item.dims) == 4)
        values = onnx.numpy_helper.to_array(weights).copy()
        values[0] += 0.5
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        return model

    monkeypatch.setattr(export, "to_onnx", spoilt)
    result = invoke(export_main, trained, "discs", "v1")
    assert result.exit_code == 1
    assert "differs from the torch network" in result.output
    assert list((trained / "saved").glob("*.onnx")) == []


def test_a_halo_that_is_too_small_is_found(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(trained / "saved" / "discs_v1.pth")
    weights = {  # so that far pixels matter measurably in a network of random weights
        name: tensor * 1.5 if tensor.ndim == 4 else tensor for name, tensor in checkpoint.weights.items()
    }
    checkpoint = dataclasses.replace(checkpoint, weights=weights)
    monkeypatch.setattr(export, "measure_halo", lambda *_: 16)
    with pytest.raises(ExportError, match="halo"):
        export.export_checkpoint(checkpoint, trained / "model.onnx")
    assert not (trained / "model.onnx").exists()


def test_a_changed_config_is_refused_with_every_difference(trained: Path) -> None:
    config = (trained / "config.toml").read_text(encoding="utf-8")
    config = config.replace("width = 4\nbatch_size = 2\nlr = 0.01", "width = 8\nbatch_size = 2\nlr = 0.02")
    (trained / "config.toml").write_text(config, encoding="utf-8")
    for command in (export_main, evaluate_main):
        result = invoke(command, trained, "discs", "v1")
        assert result.exit_code == 2
        assert "lr: trained with 0.01, now 0.02" in result.output
        assert "width: trained with 4, now 8" in result.output


def test_a_change_that_leaves_the_network_alone_is_a_note(trained: Path) -> None:
    """The checkpoint carries its own hyperparameters; what it would be trained with now does not concern it."""
    config = (trained / "config.toml").read_text(encoding="utf-8")
    (trained / "config.toml").write_text(config.replace("lr = 0.01", "lr = 0.02"), encoding="utf-8")
    for command in (export_main, evaluate_main):
        result = invoke(command, trained, "discs", "v1")
        assert result.exit_code == 0, result.output
        assert "discs_v1.pth was trained with another lr than config.toml now gives" in result.output


def test_an_untrained_version_is_named(workspace: Path) -> None:
    result = invoke(export_main, workspace, "discs", "v1")
    assert result.exit_code == 2
    assert "discs_v1.pth" in result.output
    result = invoke(export_main, workspace, "discs", "v9")
    assert result.exit_code == 2
    assert "v9" in result.output


def test_evaluation_counts_by_hand_and_draws_overlays(trained: Path) -> None:
    result = invoke(evaluate_main, trained, "discs", "v1", "--overlay")
    assert result.exit_code == 0, result.output
    test = trained / "data" / "discs" / "test"
    metrics = json.loads((trained / "log" / "discs_v1_test.json").read_text(encoding="utf-8"))
    labels = np.stack([np.load(test / "labels_npy" / f"slice{n}.npy") for n in (0, 1)])
    pictures = [Image.open(test / "predictions" / "v1_unet" / f"slice{n}.png") for n in (0, 1)]
    assert all(picture.mode == "P" for picture in pictures)
    predictions = np.stack([np.asarray(picture) for picture in pictures])
    both = (labels == 1) & (predictions == 1)
    either = (labels == 1) | (predictions == 1)
    assert metrics["iou"][1] == pytest.approx(both.sum() / either.sum())
    assert metrics["accuracy"] == pytest.approx((labels == predictions).mean())
    drawn = read_image(test / "overlays" / "v1_unet" / "slice0.png")
    assert (drawn[(labels[0] == 0) & (predictions[0] == 1)] == FALSE_POSITIVE).all()
    assert (drawn[(labels[0] == 1) & (predictions[0] == 0)] == FALSE_NEGATIVE).all()
    assert (drawn[(labels[0] == 1) & (predictions[0] == 1)] == 255).all()
    assert (trained / "plots" / "discs_v1_test_confusion.png").exists()


def test_another_folder_can_be_evaluated_and_a_missing_one_is_named(trained: Path) -> None:
    assert invoke(evaluate_main, trained, "discs", "v1", "--test-folder", "validate").exit_code == 0
    validated = json.loads((trained / "log" / "discs_v1_validate.json").read_text(encoding="utf-8"))
    checkpoint = load_checkpoint(trained / "saved" / "discs_v1.pth")
    assert validated["mean_iou"] == pytest.approx(checkpoint.training.metrics["mean_iou"], abs=1e-12)
    result = invoke(evaluate_main, trained, "discs", "v1", "--test-folder", "holdout")
    assert result.exit_code == 2
    assert "holdout" in result.output


def test_another_data_set_can_be_evaluated(trained: Path) -> None:
    shutil.copytree(trained / "data" / "discs", trained / "data" / "rings")
    assert invoke(export_main, trained, "discs", "v1").exit_code == 0
    model = str(trained / "saved" / "discs_v1.onnx")
    for options, mark in (([], ""), (["--model", model], "_onnx")):
        for data in ([], ["--data", "rings"]):
            result = invoke(evaluate_main, trained, "discs", "v1", *data, *options)
            assert result.exit_code == 0, result.output
        own, other = (
            json.loads((trained / "log" / f"discs_v1_{where}{mark}.json").read_text(encoding="utf-8"))
            for where in ("test", "on_rings_test")
        )
        assert (own["dataset"], other["dataset"], other["iou"]) == (None, "rings", own["iou"])


def test_parity_inputs_hold_ties_for_max_pooling(trained: Path) -> None:
    """Plateaus of 2 x 2 equal pixels and a constant image: where implementations of max pooling part."""
    checkpoint = load_checkpoint(trained / "saved" / "discs_v1.pth")
    inputs = export.parity_inputs(checkpoint, 32)
    assert any(
        (image[..., 0::2, 0::2] == image[..., 1::2, 1::2]).all() and np.unique(image).size > 1
        for image in inputs
    )
    assert any(np.unique(image).size == 1 for image in inputs)
    assert len({image.shape[0] for image in inputs}) >= 3
    assert len({image.shape[2:] for image in inputs}) >= 5


def test_an_output_that_cannot_be_written_is_named(trained: Path) -> None:
    blocked = trained / "file"
    blocked.write_text("in the way", encoding="utf-8")
    result = invoke(export_main, trained, "discs", "v1", "-o", str(blocked / "model.onnx"))
    assert result.exit_code == 1
    assert "model.onnx: cannot be written" in result.output
    result = invoke(export_main, trained, "discs", "v1", "-o", str(trained / "model.bin"))
    assert result.exit_code == 2
    assert ".onnx" in result.output
