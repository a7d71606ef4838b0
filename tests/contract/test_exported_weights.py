"""Weights of an exported file can be trained again: the network made of them gives what the file gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoints import Exported
from torch import Tensor

from matseg_runtime.model.file import choose_model
from matseg_shared.errors import ModelError, UsageError
from matseg_trainer.networks.base import normalise
from matseg_trainer.predict.checkpoint import Checkpoint
from matseg_trainer.predict.exported import load_exported, refit_norms

_ROUNDING = 1e-4


def probabilities(checkpoint: Checkpoint, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return checkpoint.network()(images).softmax(dim=1)


def inputs(checkpoint: Checkpoint) -> Tensor:
    """The sample and its mirror image, normalised."""
    image = normalise(torch.from_numpy(checkpoint.sample), checkpoint.input.mean, checkpoint.input.std)
    return torch.cat([image, image.flip(3)])


@pytest.mark.parametrize("name", ["unet", "segnet", "patchunet", "effunet"])
def test_an_exported_file_gives_back_its_checkpoint(name: str, exported: Callable[[str], Exported]) -> None:
    file = exported(name)
    path, loaded = load_exported(str(file.path))
    assert path == file.path
    assert loaded.classes == file.checkpoint.classes
    assert loaded.training.config == file.checkpoint.training.config
    images = inputs(file.checkpoint)
    torch.testing.assert_close(
        probabilities(loaded, images), probabilities(file.checkpoint, images), atol=_ROUNDING, rtol=0
    )


def test_two_classes_of_the_zoo_get_their_two_logits_back() -> None:
    """Export leaves one score for two classes; the model was trained with keys that are gone, too."""
    path, loaded = load_exported("zoo:dendrites")
    assert path == choose_model("zoo:dendrites")[0]
    session = onnxruntime.InferenceSession(str(path))
    expected = session.run(["probabilities"], {"image": loaded.sample})[0]
    np.testing.assert_allclose(probabilities(loaded, inputs(loaded)[:1]).numpy(), expected, atol=_ROUNDING)


def test_refitted_norms_give_what_they_gave_in_training_too() -> None:
    loaded = load_exported("zoo:dendrites")[1]
    images, network = inputs(loaded), loaded.network()
    with torch.inference_mode():
        before = network(images)
        jumped = network.train()(images)
        network.load_state_dict(dict(loaded.weights))
        refit_norms(network, [images[:1], images[1:]])
        after, trained = network.eval()(images), network.train()(images)
    scale = float(before.abs().max())
    assert float((after - before).abs().max()) < 1e-4 * scale
    assert float((trained - before).abs().max()) < 1e-4 * scale
    assert float((jumped - before).abs().max()) > 0.1 * scale


def test_norms_of_constant_channels_stay_finite() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    images = torch.cat([torch.full((1, 1, 4, 4), 7.0), torch.randn(1, 1, 4, 4)], dim=1)
    expected = network.eval()(images)
    refit_norms(network, [images])
    torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=0)
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_files_that_hold_no_such_weights_are_refused(
    tmp_path: Path, exported: Callable[[str], Exported]
) -> None:
    with pytest.raises(UsageError, match="found int8, whose weights are rounded; name its checkpoint"):
        load_exported("zoo:uhcs-fast")
    with pytest.raises(ModelError, match=r"expected the weights of a pixelnet .*found others"):
        load_exported(str(exported("pixelnet").path))
    model = onnx.load(exported("unet").path)
    for item in model.graph.initializer:
        if item.name == "network.classifier.weight":
            item.name = "network.last.weight"
    for node in model.graph.node:
        node.input[:] = [
            "network.last.weight" if word == "network.classifier.weight" else word for word in node.input
        ]
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(ModelError, match=r"renamed\.onnx: .*'classifier\.weight'.*name the checkpoint"):
        load_exported(str(tmp_path / "renamed.onnx"))
