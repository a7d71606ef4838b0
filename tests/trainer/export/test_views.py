"""Test-time augmentation within the file: the mean of flipped and turned views, for every network and precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkpoints import make_checkpoint
from click.testing import CliRunner
from numpy.typing import NDArray
from segmenting import segment_image
from thoroughness import slow

from matseg_runtime.cli.model import inspect_main
from matseg_runtime.inference.session import Session
from matseg_shared.contract.metadata import ModelMetadata, Views
from matseg_shared.contract.tiling import smallest_tile
from matseg_shared.errors import ExportError, UsageError
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.export import export
from matseg_trainer.export.export import export_checkpoint, exported_before
from matseg_trainer.export.graph import DeployedNetwork, Graph
from matseg_trainer.export.half import to_half
from matseg_trainer.predict.checkpoint import load_checkpoint

Turn = tuple[Callable[[NDArray[Any]], NDArray[Any]], Callable[[NDArray[Any]], NDArray[Any]]]
"""There and back."""


def symmetries(count: int) -> list[Turn]:
    """The flips, or all symmetries of the square, of the last two axes, in other words than the product's."""
    quarters = range(4) if count == 8 else (0, 2)

    def turn(times: int, mirror: bool) -> Turn:
        def there(pixels: NDArray[Any]) -> NDArray[Any]:
            turned = np.rot90(pixels, times, axes=(-2, -1))
            return turned[..., ::-1] if mirror else turned

        def back(pixels: NDArray[Any]) -> NDArray[Any]:
            return np.rot90(pixels[..., ::-1] if mirror else pixels, -times, axes=(-2, -1))

        return there, back

    return [turn(times, mirror) for times in quarters for mirror in (False, True)]


def exported(name: str, precision: str, n_class: int, count: Views) -> onnx.ModelProto:
    """A graph of random weights that averages so many views."""
    checkpoint = make_checkpoint(name, n_class=n_class)
    deployed = DeployedNetwork(
        checkpoint.network(), checkpoint.input.mean, checkpoint.input.std, count
    ).eval()
    model = export.to_onnx(deployed, checkpoint.input.channels, checkpoint.input.dtype)
    return to_half(model, [checkpoint.sample]) if precision == "fp16" else model


def run(model: onnx.ModelProto, image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    return Graph(model.SerializeToString())(np.ascontiguousarray(image))


@pytest.mark.parametrize(
    ("name", "precision", "n_class", "count"),
    [
        ("unet", "fp32", 3, 8),
        ("unet", "fp16", 3, 8),
        ("unet", "fp32", 2, 8),
        ("patchunet", "fp32", 2, 4),
        pytest.param("patchunet", "fp32", 3, 8, marks=slow),
        pytest.param("segnet", "fp32", 3, 4, marks=slow),
        pytest.param("pixelnet", "fp32", 3, 4, marks=slow),
    ],
)
def test_the_answer_is_that_of_the_mean_scores(name: str, precision: str, n_class: int, count: Views) -> None:
    """Whose softmax is the geometric mean of the probabilities, made to sum to one."""
    model = exported(name, precision, n_class, 1)
    image = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 96), dtype=np.uint8)
    said = [back(run(model, there(image))[1]) for there, back in symmetries(count)]
    assert max(float(np.abs(item - said[0]).max()) for item in said) > 1e-3, (
        "the views agree: nothing is tested"
    )
    labels, probabilities = run(exported(name, precision, n_class, count), image)
    # in fp16 the mean of the scores is rounded, too; of two classes the first has 1 - p, whose
    # logarithm makes much of the rounding of a p near 1
    tolerance = 4e-3 if precision == "fp16" else 2e-6 if n_class > 2 else 2e-5
    known = np.min(said, axis=(0, 2)) > (0 if n_class > 2 else 1e-3)
    assert known.mean() > 0.5
    expected = np.exp(np.mean(np.log(said), axis=0))
    expected /= expected.sum(axis=1, keepdims=True)
    difference = np.abs(probabilities - expected).max(axis=1)
    assert float(difference[known].max()) <= tolerance
    ranked = np.sort(expected, axis=1)
    clear = known & (ranked[:, -1] - ranked[:, -2] > 2 * tolerance)
    assert clear.mean() > 0.4
    np.testing.assert_array_equal(labels[clear], expected.argmax(axis=1)[clear])


def test_a_turned_image_gets_turned_labels() -> None:
    model = exported("unet", "fp32", 2, 8)
    image = np.random.default_rng(1).integers(0, 256, (1, 1, 48, 80), dtype=np.uint8)
    expected = run(model, image)[1]
    for there, back in symmetries(8):
        np.testing.assert_allclose(back(run(model, there(image))[1]), expected, atol=1e-5)


def test_every_image_of_a_batch_gets_its_own_mean() -> None:
    model = exported("patchunet", "fp32", 2, 4)
    images = np.random.default_rng(4).integers(0, 256, (3, 1, 64, 32), dtype=np.uint8)
    together = run(model, images)[1]
    for number in range(3):
        np.testing.assert_allclose(
            run(model, images[number : number + 1])[1], together[number : number + 1], atol=1e-5
        )


def test_views_in_int8_are_refused_before_any_work(workspace: Path) -> None:
    result = invoke(export_main, workspace, "discs", "v1", "--tta", "4", "--precision", "int8")
    assert result.exit_code == 2
    assert "--tta 4 goes with --precision fp32 or fp16, not with int8" in result.output
    with pytest.raises(UsageError, match="not with int8"):
        export_checkpoint(make_checkpoint("unet"), workspace / "model.onnx", precision="int8", tta=8)


def test_the_file_says_it_and_is_tiled_as_the_whole(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("unet", n_class=3)
    plain = export_checkpoint(checkpoint, tmp_path / "plain.onnx")
    result = export_checkpoint(checkpoint, tmp_path / "model.onnx", tta=8)
    assert result.metadata.export.tta == 8
    assert result.metadata.tiling == plain.metadata.tiling
    assert result.bytes < 2 * plain.bytes, "the views do not share their weights"
    session = Session.open(result.path, provider="cpu", threads=2)
    assert session.model.metadata == result.metadata
    assert session.require_self_test().mismatches == 0
    tiling = result.metadata.tiling
    edge = smallest_tile(tiling.halo, tiling.stride)
    image = np.random.default_rng(2).integers(0, 256, (1, 2 * edge + 5, edge + 9), dtype=np.uint8)
    whole, probabilities = segment_image(session, image, probabilities=True)
    tiled, pieces = segment_image(session, image, tile=(edge, edge), batch=2, probabilities=True)
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_allclose(pieces, probabilities, atol=1e-5)
    alone, _ = segment_image(Session.open(plain.path, provider="cpu"), image, probabilities=True)
    assert (alone != whole).any()


def test_a_graph_whose_views_are_not_turned_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = export.to_onnx

    def spoilt(*arguments: Any) -> onnx.ModelProto:
        model = original(*arguments)
        turning = [node for node in model.graph.node if node.op_type == "Slice"]
        turning[-1].op_type = "Identity"
        del turning[-1].input[1:]
        return model

    monkeypatch.setattr(export, "to_onnx", spoilt)
    with pytest.raises(ExportError, match="differs from the torch network"):
        export_checkpoint(make_checkpoint("unet"), tmp_path / "model.onnx", tta=4)
    assert list(tmp_path.iterdir()) == []


def invoke(command: object, workspace: Path, *arguments: str) -> Any:
    return CliRunner().invoke(command, [*arguments, "--workspace", str(workspace)])  # type: ignore[arg-type]


def test_the_command_writes_it_says_it_and_measures_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matseg_trainer.export.accuracy_check.LARGEST_LOSS", 1.0)
    path = trained / "saved" / "tta.onnx"
    result = invoke(export_main, trained, "discs", "v1", "--tta", "8", "--precision", "fp16", "-o", str(path))
    assert result.exit_code == 0, result.output
    assert "mean of 8 views, 8 times the work" in result.output
    metadata = ModelMetadata.model_validate_json(
        next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "matseg")
    )
    assert (metadata.export.tta, metadata.export.precision) == (8, "fp16")
    shown = CliRunner().invoke(inspect_main, [str(path)])
    assert "mean of 8 views" in shown.output
    measured = invoke(evaluate_main, trained, "discs", "v1", "--model", str(path), "--json")
    assert measured.exit_code == 0, measured.output
    validated = invoke(
        evaluate_main, trained, "discs", "v1", "--model", str(path), "--json", "--test-folder", "validate"
    )
    assert metadata.export.accuracy is not None
    assert json.loads(validated.stdout)["mean_iou"] == pytest.approx(metadata.export.accuracy.mean_iou)


def test_a_training_without_turned_crops_is_warned_of_and_its_file_known_again(workspace: Path) -> None:
    config = workspace / "config.toml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("aug = true", "aug = false"), encoding="utf-8"
    )
    assert invoke(train_main, workspace, "discs", "v1").exit_code == 0
    result = invoke(export_main, workspace, "discs", "v1", "--tta", "4")
    assert result.exit_code == 0, result.output
    assert "discs_v1 was trained without aug" in result.output
    checkpoint = load_checkpoint(workspace / "saved" / "discs_v1.pth")
    path = workspace / "saved" / "discs_v1.onnx"
    assert exported_before(path, checkpoint, "fp32", 4).metadata.export.tta == 4
    with pytest.raises(UsageError, match="1 view"):
        exported_before(path, checkpoint, "fp32", 1)


def test_other_numbers_are_refused(workspace: Path) -> None:
    result = invoke(export_main, workspace, "discs", "v1", "--tta", "3")
    assert result.exit_code == 2
    assert "'1', '4', '8'" in result.output
