"""Packages of bioimage.io: what people must say, what is in them, and that bioimageio.core runs them."""

from __future__ import annotations

import dataclasses
import gc
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest
from checkpoints import WIDTH, make_checkpoint
from click.testing import CliRunner, Result
from PIL import Image

from matseg_shared.contract.metadata import PixelSize
from matseg_shared.contract.onnx_properties import encode
from matseg_shared.errors import ExportError, MissingExtraError, UsageError
from matseg_trainer.commands.export import export_main
from matseg_trainer.export.bioimageio.package import Package, write_package
from matseg_trainer.predict.checkpoint import load_checkpoint, save_checkpoint

Ask = Callable[..., Any]
spec = pytest.importorskip("bioimageio.spec", reason="needs the extra `bioimageio`")
READER_LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def _parse(path: Path, **changes: Any) -> Package:
    given: dict[str, Any] = {
        "authors": ["Jane Doe <jane@lab.org>", "R\u00e9my Roe"],
        "licence": "CC-BY-4.0",
        "citations": ["Stan et al. 2019, https://doi.org/10.18126/M2RM08"],
        "overwrite": False,
    }
    return Package.parse(path, **(given | changes))


@pytest.fixture(scope="module")
def packed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the small model."""
    path = tmp_path_factory.mktemp("package") / "alloy.zip"
    write_package(_parse(path), model)
    return path


def test_the_onnx_file_is_in_it_unchanged_with_what_belongs_to_it(packed: Path, model: Path) -> None:
    with zipfile.ZipFile(packed) as members:
        assert members.read("alloy_v1.onnx") == model.read_bytes()
        cover = Image.open(io.BytesIO(members.read("cover.png")))
        assert cover.width == 2 * cover.height
        text = members.read("README.md").decode()
        labels = np.load(io.BytesIO(members.read("labels.npy")))
    assert "## Validation" in text
    assert "phase 2" in text
    assert labels.shape == (1, 36, 36)  # the smallest from which a halo of 16 can be cut on a stride of 4


@READER_LEAVES_FILES_OPEN
def test_the_description(packed: Path) -> None:
    description = spec.load_model_description(packed)
    assert [author.name for author in description.authors] == ["Jane Doe", "R\u00e9my Roe"]
    assert description.authors[0].email == "jane@lab.org"
    assert str(description.license) == "CC-BY-4.0"
    assert [str(entry.doi) for entry in description.cite] == ["10.18126/M2RM08", "10.48550/arXiv.1505.04597"]
    assert description.cite[0].text == "Stan et al. 2019"
    image, (labels, probabilities) = description.inputs[0], description.outputs
    assert (image.axes[2].size.min, image.axes[2].size.step) == (36, 4)
    assert labels.axes[1].halo == probabilities.axes[3].halo == 16
    assert labels.data.values == ["phase 0", "phase 1", "phase 2"]
    assert probabilities.axes[1].channel_names == ["phase_0", "phase_1", "phase_2"]
    assert image.axes[2].unit is None


def test_bioimageio_core_validates_and_runs_it(packed: Path, model: Path, ask: Ask, tmp_path: Path) -> None:
    """Its own tests pass; away from the border, which it pads, its labels are the model's, whole and in blocks."""
    pixels = onnx_models.random_pixels((96, 116), "uint8", 3)
    np.save(tmp_path / "image.npy", pixels[None, None])
    found = ask("bioimageio_check.py", packed, tmp_path / "image.npy", tmp_path / "out.npz")
    assert found["errors"] == []
    assert found["status"] == "passed"
    assert any("Reproduce test outputs" in name for name in found["tests"])
    assert found["covers"] == 1
    expected = onnx_models.run_graph(onnx.load(model), pixels[None, None])[0]
    inner = (slice(None), slice(16, -16), slice(16, -16))
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["labels"][inner], expected[inner])
        np.testing.assert_array_equal(outputs["probabilities"].argmax(axis=1)[inner], expected[inner])


def _of_channels(tmp_path: Path, channels: int, **given: Any) -> Path:
    graph = onnx_models.build_graph(channels=channels, dtype="float32")
    metadata = onnx_models.build_metadata(channels=channels, dtype="float32")
    metadata = metadata.model_copy(update={"input": metadata.input.model_copy(update=given)})
    test = onnx_models.self_test_of(graph, channels, "float32")
    return onnx_models.save(graph, encode(metadata, test), tmp_path / "m.onnx")


@READER_LEAVES_FILES_OPEN
@pytest.mark.parametrize(
    ("given", "names", "words"),
    [
        ({}, [f"channel_{k}" for k in range(7)], "is 7 channels of float32"),
        (
            {"picked": (6, 5, 4, 3, 2, 1, 0)},
            [f"channel_{k}" for k in range(7)],
            "channels 6,5,4,3,2,1,0 of the training pictures",
        ),
        (
            {"channel_names": ("Fe K\u03b1", "Ni", "ni", "Cr (wt%)", "7", "Mo", "W")},
            ["fe_k", "ni_1", "ni_2", "cr_wt", "channel_7", "mo", "w"],
            "is 7 channels (Fe K\u03b1, Ni, ni, Cr (wt%), 7, Mo, W) of float32",
        ),
        (
            {"context": 3, "channel_names": ("z-3", "z-2", "z-1", "z", "z+1", "z+2", "z+3")},
            [*(f"z_minus_{k}" for k in (3, 2, 1)), "z", *(f"z_plus_{k}" for k in (1, 2, 3))],
            "of a slice of a volume in the middle of 3 neighbours on either side",
        ),
    ],
)
def test_a_model_of_many_channels(
    tmp_path: Path, given: dict[str, Any], names: list[str], words: str
) -> None:
    write_package(_parse(tmp_path / "m.zip"), _of_channels(tmp_path, 7, **given))
    axis = spec.load_model_description(tmp_path / "m.zip").inputs[0].axes[1]
    gc.collect()  # closes what the reader leaves open
    assert (axis.id, axis.channel_names) == ("channel", names)
    with zipfile.ZipFile(tmp_path / "m.zip") as members:
        assert np.load(io.BytesIO(members.read("image.npy"))).shape[:2] == (1, 7)
        assert words in members.read("README.md").decode()
        assert Image.open(io.BytesIO(members.read("cover.png"))).size == (512, 256)


def test_bioimageio_core_runs_a_model_of_many_channels(ask: Ask, tmp_path: Path) -> None:
    model = _of_channels(tmp_path, 7)
    write_package(_parse(tmp_path / "m.zip"), model)
    pixels = np.random.default_rng(3).random((1, 7, 96, 116), np.float32)
    np.save(tmp_path / "image.npy", pixels)
    found = ask("bioimageio_check.py", tmp_path / "m.zip", tmp_path / "image.npy", tmp_path / "out.npz")
    assert found["errors"] == []
    expected = onnx_models.run_graph(onnx.load(model), pixels)[0]
    inner = (slice(None), slice(16, -16), slice(16, -16))
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["labels"][inner], expected[inner])


@READER_LEAVES_FILES_OPEN
def test_a_pixel_size_goes_along(tmp_path: Path) -> None:
    graph = onnx_models.build_graph()
    metadata = onnx_models.build_metadata().model_copy(
        update={"pixel_size": PixelSize(value=0.65, unit="um")}
    )
    test = onnx_models.self_test_of(graph, 1, "uint8")
    model = onnx_models.save(graph, encode(metadata, test), tmp_path / "m.onnx")
    write_package(_parse(tmp_path / "m.zip"), model)
    axis = spec.load_model_description(tmp_path / "m.zip").inputs[0].axes[2]
    assert (axis.scale, axis.unit) == (0.65, "micrometer")


def test_a_self_test_of_one_class_tests_nothing(tmp_path: Path) -> None:
    graph = onnx_models.build_graph()
    last = graph.graph.node.pop()  # indices to labels
    graph.graph.node.append(onnx.helper.make_node("Sub", [last.input[0], last.input[0]], ["nothing"]))
    graph.graph.node.append(onnx.helper.make_node("Cast", ["nothing"], ["labels"], to=onnx.TensorProto.UINT8))
    metadata, test = onnx_models.build_metadata(), onnx_models.self_test_of(graph, 1, "uint8")
    model = onnx_models.save(graph, encode(metadata, test), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="which tests nothing"):
        write_package(_parse(tmp_path / "m.zip"), model)
    assert not (tmp_path / "m.zip").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"authors": []}, "--author 'Jane Doe'"),
        ({"licence": None}, "--licence CC-BY-4.0"),
        ({"licence": "free"}, "SPDX identifier"),
        ({"authors": ["Jane/Doe"]}, "expected a name"),
        ({"citations": ["Stan et al. 2019"]}, "ends with a DOI"),
    ],
)
def test_what_nobody_else_knows_must_be_said(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        _parse(tmp_path / "m.zip", **changes)


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "m.zip").touch()
    with pytest.raises(UsageError, match="--overwrite"):
        _parse(tmp_path / "m.zip")
    assert _parse(tmp_path / "m.zip", overwrite=True).path.name == "m.zip"
    with pytest.raises(UsageError, match=r"ends in \.zip"):
        _parse(tmp_path / "m.tar")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"\[bioimageio\]"):
        _parse(tmp_path / "m.zip")


def test_people_and_papers(tmp_path: Path) -> None:
    package = _parse(tmp_path / "m.zip", authors=[" Jane Doe "], citations=["10.18126/M2RM08"])
    assert (package.authors[0].name, package.authors[0].email) == ("Jane Doe", None)
    assert package.citations[0].text == "10.18126/M2RM08"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A trained version, and its model as it was exported earlier."""
    checkpoint = make_checkpoint("unet")
    (tmp_path / "config.toml").write_text(
        f'[noise.default]\nn_class = 3\n[noise.v1]\nmodel = "unet"\nwidth = {WIDTH}\n'
    )
    (tmp_path / "saved").mkdir()
    save_checkpoint(tmp_path / "saved" / "noise_v1.pth", checkpoint)
    graph = onnx_models.build_graph()
    metadata = onnx_models.build_metadata(name="noise_v1").model_copy(
        update={"training": checkpoint.training}
    )
    test = onnx_models.self_test_of(graph, 1, "uint8")
    onnx_models.save(graph, encode(metadata, test), tmp_path / "saved" / "noise_v1.onnx")
    return tmp_path


def _export(workspace: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        export_main, ["noise", "v1", "--workspace", str(workspace), "--licence", "MIT", *arguments]
    )


def test_the_command_packs_what_was_exported_before(workspace: Path) -> None:
    package = workspace / "noise.zip"
    before = (workspace / "saved" / "noise_v1.onnx").read_bytes()
    done = _export(workspace, "--bioimageio", str(package), "--author", "Jane Doe")
    assert done.exit_code == 0, done.output
    assert str(package) in done.output.replace("\n", "")
    with zipfile.ZipFile(package) as members:
        assert members.read("noise_v1.onnx") == before


def test_the_command_packs_no_model_of_another_training(workspace: Path) -> None:
    checkpoint = load_checkpoint(workspace / "saved" / "noise_v1.pth")
    training = checkpoint.training.model_copy(update={"epoch": 7})
    save_checkpoint(workspace / "saved" / "noise_v1.pth", dataclasses.replace(checkpoint, training=training))
    done = _export(workspace, "--bioimageio", str(workspace / "noise.zip"), "--author", "Jane Doe")
    assert done.exit_code == 2
    assert "as it is trained now" in done.output
    assert not (workspace / "noise.zip").exists()


def test_the_command_asks_before_it_works(workspace: Path) -> None:
    done = _export(workspace, "--bioimageio", str(workspace / "noise.zip"))
    assert done.exit_code == 2
    assert "--author" in done.output
    alone = _export(workspace)
    assert alone.exit_code == 2
    assert "--licence applies with --bioimageio only" in alone.output
