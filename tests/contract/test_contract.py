"""Trainer and runtime agree: what is exported is what was trained, tiled or whole, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tifffile
import torch
from checkpoints import NETWORKS, Exported, make_checkpoint
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from segmenting import segment_image

from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.inference.session import Session
from matseg_shared.contract.tiling import smallest_tile
from matseg_shared.errors import ExportError
from matseg_shared.images.read import read_stored
from matseg_trainer.export import export
from matseg_trainer.export.parity import TIE_MARGIN, top_margin
from matseg_trainer.predict.checkpoint import load_checkpoint, save_checkpoint
from matseg_trainer.predict.tiled import TorchPredictor

Get = Callable[[str], Exported]
_sessions: dict[tuple[str, int], Session] = {}


def session_of(exported: Get, name: str, threads: int) -> Session:
    key = (name, threads)
    if key not in _sessions:
        _sessions[key] = Session.open(exported(name).path, provider="cpu", threads=threads)
    return _sessions[key]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=7, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    beyond=st.integers(-430, 150),
    width=st.integers(1, 90),
    upright=st.booleans(),
    threads=st.sampled_from([1, 2]),
    batch=st.integers(1, 3),
    extra=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_tiled_is_whole(
    exported: Get,
    name: str,
    beyond: int,
    width: int,
    upright: bool,
    threads: int,
    batch: int,
    extra: int,
    seed: int,
) -> None:
    """For every size from 1 x 1 up: labels of tiles are those of the whole, but for counted ties (none are seen)."""
    session = session_of(exported, name, threads)
    tiling = session.model.metadata.tiling
    edge = smallest_tile(tiling.halo, tiling.stride) + extra * tiling.stride
    height = max(1, edge + beyond)
    shape = (1, height, width) if upright else (1, width, height)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    whole, probabilities = segment_image(session, image, probabilities=True)
    tiled = segment_image(session, image, tile=(edge, edge), batch=batch)
    differs = whole != tiled
    assert whole.shape == shape[1:]
    assert not (differs & (top_margin(probabilities[np.newaxis])[0] >= TIE_MARGIN)).any()
    assert differs.sum() <= 1e-5 * differs.size


def test_tiling_is_put_to_the_test(exported: Get) -> None:
    """The property above would fail with a halo that is one stride short."""
    session = session_of(exported, "segnet", 1)
    metadata = session.model.metadata
    tiling = metadata.tiling.model_copy(update={"halo": metadata.tiling.halo - 3 * metadata.tiling.stride})
    image = np.random.default_rng(0).integers(0, 256, (1, 700, 64), dtype=np.uint8)
    whole = segment_image(session, image)
    session.model.metadata.__dict__["tiling"] = tiling
    try:
        edge = smallest_tile(tiling.halo, tiling.stride)
        assert (segment_image(session, image, tile=(edge, edge)) != whole).any()
    finally:
        session.model.metadata.__dict__["tiling"] = metadata.tiling.model_copy(
            update={"halo": tiling.halo + 3 * tiling.stride}
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_the_checkpoint(exported: Get, name: str) -> None:
    """Raw pixels of an odd size: the torch network and the file give the same labels and probabilities."""
    item = exported(name)
    image = np.random.default_rng(5).integers(0, 256, (1, 203, 131), dtype=np.uint8)
    labels, probabilities = segment_image(session_of(exported, name, 1), image, probabilities=True)
    checkpoint = item.checkpoint
    predictor = TorchPredictor.of(checkpoint.network(), checkpoint.input, torch.device("cpu"))
    expected_labels, expected = predictor.predict(image)
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)
    assert len(np.unique(expected_labels)) > 1
    assert (labels != expected_labels).sum() == 0


def test_segnet_unpools_without_scatter_and_pixelnet_samples_without_grids(exported: Get) -> None:
    """Operators that runtimes lack, or run on one core, or in int64."""
    unwanted = {"ScatterND", "ScatterElements", "GatherND", "MaxUnpool", "GridSample"}
    for name in NETWORKS:
        model = onnx.load(exported(name).path)
        assert not {node.op_type for node in model.graph.node} & unwanted


def test_a_checkpoint_survives_the_disk(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("segnet")
    save_checkpoint(tmp_path / "a.pth", checkpoint)
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert loaded.training == checkpoint.training
    assert loaded.classes == checkpoint.classes
    assert loaded.input == checkpoint.input
    np.testing.assert_array_equal(loaded.sample, checkpoint.sample)
    assert all(torch.equal(tensor, loaded.weights[name]) for name, tensor in checkpoint.weights.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_commands_take_the_file(exported: Get, name: str, tmp_path: Path) -> None:
    """Inspect, verify and run: the PNGs written hold the torch network's labels."""
    item = exported(name)
    path = str(item.path)
    inspected = CliRunner().invoke(inspect_main, [path])
    assert inspected.exit_code == 0, inspected.output
    assert name in inspected.output
    verified = CliRunner().invoke(verify_main, [path, "--provider", "cpu"])
    assert verified.exit_code == 0, verified.output
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = {
        f"slice{number}": rng.integers(0, 256, (70 + number, 45), dtype=np.uint8) for number in range(3)
    }
    for stem, pixels in images.items():
        Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(folder / f"{stem}.png")
    done = CliRunner().invoke(run_main, [path, str(folder), "--provider", "cpu", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    checkpoint = item.checkpoint
    predictor = TorchPredictor.of(checkpoint.network(), checkpoint.input, torch.device("cpu"))
    for stem, pixels in images.items():
        stored = read_stored(tmp_path / "out" / f"{stem}.png")
        assert stored.palette is not None
        assert stored.palette[1] == checkpoint.classes[1].colour
        np.testing.assert_array_equal(stored.pixels, predictor.predict(pixels[np.newaxis])[0])


def test_colour_models_work_and_refuse_grey(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("unet", channels=3)
    path = export.export_checkpoint(checkpoint, tmp_path / "rgb.onnx").path
    session = Session.open(path, provider="cpu")
    assert session.require_self_test().mismatches == 0
    folder = tmp_path / "raw"
    folder.mkdir()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "grey.png")
    result = CliRunner().invoke(run_main, [str(path), str(folder)])
    assert result.exit_code == 2
    assert "grey.png" in result.output
    assert "three channels" in result.output


def test_a_broken_unpooling_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties decided the other way round in the exported graph, as other implementations of max pooling do."""
    checkpoint = make_checkpoint("segnet")
    original = export.to_onnx

    def last_wins(*arguments: object) -> object:
        model = original(*arguments)  # type: ignore[arg-type]
        for node in model.graph.node:
            if node.op_type == "And":  # `first here and not taken before` becomes `here`
                node.op_type = "Or"
        return model

    monkeypatch.setattr(export, "to_onnx", last_wins)
    with pytest.raises(ExportError, match="differs"):
        export.export_checkpoint(checkpoint, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "channels"), [("unet", 2), ("segnet", 4), ("pixelnet", 7), ("patchunet", 64)]
)
def test_any_number_of_channels_is_exported_and_run(name: str, channels: int, tmp_path: Path) -> None:
    """Tiled is whole, and the PNGs are the torch network's labels, but for ties, for pictures of so many channels."""
    checkpoint = make_checkpoint(name, channels=channels)
    path = export.export_checkpoint(checkpoint, tmp_path / "model.onnx").path
    session = Session.open(path, provider="cpu", threads=1)
    assert session.require_self_test().mismatches == 0
    tiling = session.model.metadata.tiling
    edge = smallest_tile(tiling.halo, tiling.stride)
    image = np.random.default_rng(1).integers(0, 256, (channels, edge + 90, 45), dtype=np.uint8)
    whole, probabilities = segment_image(session, image, probabilities=True)
    tied = top_margin(probabilities[np.newaxis])[0] < TIE_MARGIN
    assert ((whole == segment_image(session, image, tile=(edge, edge))) | tied).all()
    folder = tmp_path / "raw"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", image, photometric="minisblack", planarconfig="separate")
    done = CliRunner().invoke(
        run_main, [str(path), str(folder), "--provider", "cpu", "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    predictor = TorchPredictor.of(checkpoint.network(), checkpoint.input, torch.device("cpu"))
    expected = predictor.predict(image)[0]
    assert len(np.unique(expected)) > 1
    assert ((read_stored(tmp_path / "out" / "a.png").pixels == expected) | tied).all()
    assert tied.mean() < 0.001
