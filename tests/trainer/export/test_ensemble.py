"""Ensembles in one file: the mean of probabilities, tiled as the whole, and what does not go together."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import make_checkpoint
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from segmenting import segment_image

from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.inference.session import Session
from matseg_runtime.model.file import read_model
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.contract.metadata import PixelSize, PretrainedInfo
from matseg_shared.contract.tiling import smallest_tile
from matseg_shared.errors import ExportError, UsageError
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.export import export_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.export import export
from matseg_trainer.export.bioimageio.texts import documentation
from matseg_trainer.export.ensemble import ensemble_name, expand_members, require_alike
from matseg_trainer.export.export import export_checkpoint, exported_before
from matseg_trainer.export.graph import Graph
from matseg_trainer.export.half import to_half
from matseg_trainer.predict.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from matseg_trainer.predict.exported import load_exported
from matseg_trainer.predict.tiled import TorchPredictor
from matseg_trainer.workspace import Workspace


def another(checkpoint: Checkpoint, version: str, seed: int = 1, **given: Any) -> Checkpoint:
    """The same network with disturbed weights; `given` are fields of its input that differ."""
    rng = torch.Generator().manual_seed(seed)
    weights = {
        name: tensor * (0.75 + 0.5 * torch.rand(tensor.shape, generator=rng)) if tensor.ndim == 4 else tensor
        for name, tensor in checkpoint.weights.items()
    }
    training = checkpoint.training.model_copy(update={"version": version, "seed": seed})
    return dataclasses.replace(
        checkpoint,
        weights=weights,
        training=training,
        input=checkpoint.input.model_copy(update=given),
    )


def mean_of(members: Sequence[Checkpoint], image: NDArray[Any]) -> NDArray[np.float32]:
    """(K, H, W) mean of what the torch networks say, each one of the whole image."""
    said = []
    for member in members:
        found = TorchPredictor.of(member.network(), member.input, torch.device("cpu")).predict(image)[1]
        said.append(found)
    assert float(np.abs(said[0] - said[1]).max()) > 0.05, "the members agree: nothing is tested"
    return np.mean(said, axis=0)


Ensemble = tuple[list[Checkpoint], Path]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Networks of strides 16 and 32 and halos 96 and 192, the first twice, as of two folds."""
    unet, segnet = make_checkpoint("unet"), make_checkpoint("segnet")
    small = unet.sample[..., :48, :48]  # no multiple of 32
    members = [
        dataclasses.replace(unet, sample=small),
        segnet,
        another(unet, "v7", mean=(120.0,), std=(55.0,)),
    ]
    path = tmp_path_factory.mktemp("ensemble") / "model.onnx"
    return members, export_checkpoint(members[0], path, others=members[1:], name="noise_all").path


def test_the_file_gives_the_mean_probabilities(ensemble: Ensemble) -> None:
    members, path = ensemble
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 160), dtype=np.uint8)
    expected = mean_of(members, image)
    session = Session.open(path, provider="cpu", threads=1)
    labels, probabilities = segment_image(session, image, probabilities=True)
    np.testing.assert_allclose(probabilities, expected, atol=2e-4)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    ranked = np.sort(expected, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-3
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(labels[clear], expected.argmax(axis=0)[clear])


def test_tiles_are_the_whole_and_the_halo_is_the_largest_and_exact(ensemble: Ensemble) -> None:
    """One stride less, and tiles differ: what the member that sees furthest says is not drowned in the mean."""
    _, path = ensemble
    session = Session.open(path, provider="cpu", threads=2)
    tiling = session.model.metadata.tiling
    assert (tiling.stride, tiling.halo) == (32, 192)
    edge = smallest_tile(tiling.halo, tiling.stride)
    image = np.random.default_rng(1).integers(0, 256, (1, 700, 70), dtype=np.uint8)
    whole, probabilities = segment_image(session, image, probabilities=True)
    tiled, pieces = segment_image(session, image, tile=(edge, edge), batch=2, probabilities=True)
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_allclose(pieces, probabilities, atol=1e-5)
    short = tiling.model_copy(update={"halo": tiling.halo - 3 * tiling.stride})
    session.model.metadata.__dict__["tiling"] = short
    edge = smallest_tile(short.halo, short.stride)
    cut = segment_image(session, image, tile=(edge, edge), probabilities=True)[1]
    assert float(np.abs(cut - probabilities).max()) > 1e-3


def test_the_file_names_its_members_and_proves_itself(ensemble: Ensemble) -> None:
    members, path = ensemble
    session = Session.open(path, provider="cpu")
    assert session.require_self_test().mismatches == 0
    metadata = session.model.metadata
    assert metadata.name == "noise_all"
    assert [member.training for member in metadata.ensemble] == [member.training for member in members]
    assert len({member.sha256 for member in metadata.ensemble}) == 3
    assert metadata.export.parity.label_mismatches == 0
    assert metadata.training == members[0].training
    assert session.model.self_test.image.shape == (1, 1, 64, 64), "reflected to the common stride"
    sizes = [sum(tensor.nbytes for tensor in member.weights.values()) for member in members]
    assert path.stat().st_size < 1.1 * sum(sizes) + 300_000
    shown = CliRunner().invoke(inspect_main, [str(path)])
    assert "mean of 3: unet, segnet" in shown.output
    for member in metadata.ensemble:
        assert member.sha256 in shown.output
    assert CliRunner().invoke(verify_main, [str(path)]).exit_code == 0


def test_normalisation_is_in_the_graph_once_for_all_that_share_it(ensemble: Ensemble) -> None:
    """Three networks of two normalisations: one cast, two differences."""
    model = onnx.load(ensemble[1])
    reading = [node for node in model.graph.node if "image" in node.input and node.op_type != "Shape"]
    assert [node.op_type for node in reading] == ["Cast"]
    cast = reading[0].output[0]
    assert [node.op_type for node in model.graph.node if cast in node.input] == ["Sub", "Sub"]


def test_two_classes_are_averaged_and_ties_go_to_the_first(tmp_path: Path) -> None:
    first = make_checkpoint("unet", n_class=2)
    members = [first, another(first, "v7")]
    image = np.random.default_rng(2).integers(0, 256, (1, 64, 80), dtype=np.uint8)
    path = export_checkpoint(first, tmp_path / "two.onnx", others=members[1:]).path
    labels, probabilities = segment_image(Session.open(path, provider="cpu"), image, probabilities=True)
    np.testing.assert_allclose(probabilities, mean_of(members, image), atol=2e-4)
    np.testing.assert_array_equal(labels, probabilities[1] > probabilities[0])
    assert 0 < labels.mean() < 1
    torch_side = export._deployed(members, [member.network() for member in members], 1)
    for member in torch_side.members:  # type: ignore[union-attr]
        for parameter in member.parameters():
            parameter.data.zero_()
    tied, even = torch_side(torch.from_numpy(image[np.newaxis, :, :64, :64]))
    assert (even == 0.5).all()
    assert not tied.any()


def test_in_fp16_each_network_computes_between_its_own_casts(ensemble: Ensemble) -> None:
    """The two U-Nets: the places of SegNet's largest values differ with rounding."""
    members = ensemble[0][::2]
    deployed = export._deployed(members, [member.network() for member in members], 1)
    model = export.to_onnx(deployed, 1, "uint8")
    image = np.random.default_rng(3).integers(0, 256, (1, 1, 64, 96), dtype=np.uint8)
    half = to_half(model, [image])
    labels, probabilities = Graph(half.SerializeToString())(image)
    expected = Graph(model.SerializeToString())(image)[1]
    assert probabilities.dtype == np.float32
    assert 0 < float(np.abs(probabilities - expected).max()) < 0.02
    np.testing.assert_array_equal(labels, probabilities.argmax(axis=1))
    assert half.ByteSize() < 0.7 * model.ByteSize()
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == 1 + 2 + 2 + 1, "pixels, two normalised images, two scores, labels"


def test_a_graph_that_averages_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = export.to_onnx

    def spoilt(*arguments: Any) -> onnx.ModelProto:
        model = original(*arguments)
        sums = [node for node in model.graph.node if node.op_type == "Add"]
        sums[-1].input[1] = sums[-1].input[0]  # the last member is left out, the first counts twice
        return model

    monkeypatch.setattr(export, "to_onnx", spoilt)
    first = make_checkpoint("unet", n_class=2)
    with pytest.raises(ExportError, match="differs from the torch network"):
        export_checkpoint(first, tmp_path / "model.onnx", others=[another(first, "v7")])
    assert list(tmp_path.iterdir()) == []


def made(
    one: Checkpoint,
    input: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> Checkpoint:
    changes = dict(training or {})
    if config:
        changes["config"] = {**one.training.config, **config}
    return dataclasses.replace(
        one,
        training=one.training.model_copy(update=changes),
        input=one.input.model_copy(update=input or {}),
    )


def recoloured(one: Checkpoint) -> Checkpoint:
    first, *rest = one.classes
    return dataclasses.replace(one, classes=(first.model_copy(update={"colour": (1, 2, 3)}), *rest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: made(one, training={"dataset": "other"}), "data set: noise and other"),
        (
            lambda one: dataclasses.replace(one, classes=one.classes[:2]),
            "names of their classes: class 0, class 1, ",
        ),
        (recoloured, "colours and label values"),
        (lambda one: made(one, input={"channels": 2, "mean": (1, 1), "std": (1, 1)}), "channels: 1 and 2"),
        (lambda one: made(one, input={"picked": (3,)}), "channels: 1 and (3,)"),
        (lambda one: made(one, input={"channel_names": ("Fe",)}), "names of their channels: none and Fe"),
        (lambda one: made(one, input={"dtype": "uint16"}), "pixels: uint8 and uint16"),
        (lambda one: made(one, input={"crop_bottom": 60}), "crop_bottom: 0 and 60"),
        (lambda one: made(one, config={"scale": 2}), "scale: 1 and 2"),
        (lambda one: made(one, config={"no_data": (0.0,)}), "no_data: None and (0.0,)"),
        (
            lambda one: dataclasses.replace(one, pixel_size=PixelSize(value=0.5, unit="um")),
            "pixel size: unknown and 0.5 um",
        ),
    ],
)
def test_what_is_not_alike_is_refused_in_one_sentence(
    change: Callable[[Checkpoint], Checkpoint], said: str
) -> None:
    first = make_checkpoint("unet")
    with pytest.raises(UsageError, match="an ensemble needs members that are alike") as refused:
        require_alike((first, another(first, "v7"), change(another(first, "v8"))))
    assert said in str(refused.value)
    assert "noise_v1 and " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_networks_that_no_file_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_checkpoint("unet")
    monkeypatch.setattr("matseg_trainer.export.ensemble.LARGEST_FILE", 1000)
    with pytest.raises(UsageError, match="the weights of these 2 networks take"):
        require_alike((first, another(first, "v7")))


def test_an_earlier_file_of_other_members_is_not_taken(ensemble: Ensemble) -> None:
    members, path = ensemble
    found = exported_before(path, members[0], "fp32", 1, members[1:])
    assert found.metadata.name == "noise_all"
    for others in ((), members[1:2], [members[1], another(members[0], "v7", seed=5)]):
        with pytest.raises(UsageError, match="export it again"):
            exported_before(path, members[0], "fp32", 1, others)


def test_an_ensemble_is_no_start_for_a_training(ensemble: Ensemble) -> None:
    with pytest.raises(UsageError, match="expected one network, found the mean of 3"):
        load_exported(str(ensemble[1]))


def test_a_package_tells_of_every_member(ensemble: Ensemble) -> None:
    model = read_model(ensemble[1], MADE_HERE).model
    text = documentation(model.metadata, model.sha256)
    assert "An ensemble (mean of 3: unet, segnet), which labels" in text
    assert [f"version `{name}`" in text for name in ("v1", "v2", "v7")] == [True] * 3


# ---- the command


def invoke(command: object, workspace: Path, *arguments: str) -> Any:
    return CliRunner().invoke(command, [*arguments, "--workspace", str(workspace)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("v1", "expected at least two trainings, found 1"),
        ("v1,,", "expected at least two trainings, found 1"),
        (",", "expected at least two trainings, found 0"),
        ("v1,v2,v1", "v1 is named twice"),
        ("v9.folds", "found none; make them with matseg-train discs v9 --folds 5"),
    ],
)
def test_choices_that_are_no_ensemble_are_refused(tmp_path: Path, choice: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        expand_members(Workspace(tmp_path), "discs", choice)
    assert said in str(refused.value)


def test_folds_are_all_trainings_of_a_cross_validation_seed_by_seed(tmp_path: Path) -> None:
    for name in (
        "fold10.seed0",
        "fold2.seed0",
        "fold2.seed1",
        "fold1.seed1",
        "fold1.seed0",
        "fold1.seed1.resume",
    ):
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved" / f"discs_v1.{name}.pth").touch()
    (tmp_path / "saved" / "discs_v1.fold1.seed0.more.pth").touch()
    found = expand_members(Workspace(tmp_path), "discs", "v1.folds, v2")
    expected = ["fold1.seed0", "fold2.seed0", "fold10.seed0", "fold1.seed1", "fold2.seed1"]
    assert found == (*(f"v1.{name}" for name in expected), "v2")
    with pytest.raises(UsageError, match=r"v1\.fold2\.seed0 is named twice"):
        expand_members(Workspace(tmp_path), "discs", "v1.folds,v1.fold2.seed0")
    assert ensemble_name("discs", "v1.folds, v2") == "discs_v1.folds+v2"
    assert ensemble_name("discs", ",".join(f"v1.fold{k}.seed0" for k in range(9))) == "discs_v1.fold0.seed0+8"


@pytest.mark.parametrize("arguments", [(), ("v1", "--ensemble", "v1,v2")])
def test_a_version_or_an_ensemble_is_needed_not_both(workspace: Path, arguments: tuple[str, ...]) -> None:
    result = invoke(export_main, workspace, "discs", *arguments)
    assert result.exit_code == 2
    assert "expected either a VERSION or --ensemble" in result.output


def test_the_folds_of_a_version_become_one_file(workspace: Path, tmp_path: Path) -> None:
    """Trained, exported, packed, measured, run."""
    for path in (workspace / "data" / "discs" / "validate").rglob("slice*"):
        path.rename(path.with_name(f"other_{path.name}"))
    assert invoke(train_main, workspace, "discs", "v1", "--folds", "2", "--no-report").exit_code == 0
    second = workspace / "saved" / "discs_v1.fold2.seed0.pth"
    checkpoint = load_checkpoint(second)
    origin = PretrainedInfo(origin="vgg16.pth (SHA-256 0f)", licence="CC-BY-NC-4.0")
    training = checkpoint.training.model_copy(update={"pretrained": origin})
    save_checkpoint(second, dataclasses.replace(checkpoint, training=training))
    package = workspace / "all.zip"
    result = invoke(
        export_main,
        workspace,
        *("discs", "--ensemble", "v1.folds", "--pixel-size", "0.5um"),
        *("--bioimageio", str(package), "--author", "Jane Doe", "--licence", "MIT"),
    )
    assert result.exit_code == 0, result.output
    assert "mean probabilities of v1.fold1.seed0, v1.fold2.seed0; 2 times the work" in result.output
    assert "made from vgg16.pth (SHA-256 0f), licence CC-BY-NC-4.0" in result.output
    path = workspace / "saved" / "discs_v1.folds.onnx"
    metadata = read_model(path, MADE_HERE).model.metadata
    assert metadata.pixel_size == PixelSize(value=0.5, unit="um")
    first, other = metadata.ensemble
    assert first.training.fingerprint == checkpoint.training.fingerprint or first.training != other.training
    assert "CC-BY-NC-4.0" in CliRunner().invoke(inspect_main, [str(path)]).output
    with zipfile.ZipFile(package) as members:
        assert members.read("discs_v1-folds.onnx") == path.read_bytes()
    measured = invoke(evaluate_main, workspace, "discs", "v1.folds", "--model", str(path), "--json")
    assert measured.exit_code == 0, measured.output
    assert 0 < json.loads(measured.stdout)["mean_iou"] <= 1
    scan = tmp_path / "scan"
    scan.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)).save(scan / "0.png")
    ran = CliRunner().invoke(run_main, [str(path), str(scan), "-o", str(tmp_path / "labels"), "--report"])
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "labels" / "report.html").read_text(encoding="utf-8")
    assert "mean of 2: unet" in page
    assert "version v1.fold1.seed0, epoch" in page
    again = invoke(export_main, workspace, "discs", "--ensemble", "v1.folds")
    assert again.exit_code == 2
    assert "exists already" in again.output
