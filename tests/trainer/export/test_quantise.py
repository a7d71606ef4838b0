"""int8 and fp16: what is computed in integers, what it costs, and when an export says no."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from checkpoints import NETWORKS, make_checkpoint
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from segmenting import segment_image

from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import constant_tile_cache, segment_images
from matseg_shared.console.progress import Progress
from matseg_shared.contract.classes import write_classes
from matseg_shared.contract.metadata import AccuracyInfo, ClassInfo, Precision
from matseg_shared.contract.tiling import smallest_tile
from matseg_shared.errors import DatasetError, ExportError, UsageError
from matseg_trainer.commands.export import export_main
from matseg_trainer.data.folder import Dataset
from matseg_trainer.export import export
from matseg_trainer.export.accuracy_check import AccuracyCheck
from matseg_trainer.export.export import export_checkpoint
from matseg_trainer.export.graph import DeployedNetwork, Graph, to_onnx, with_one_score
from matseg_trainer.export.half import to_half
from matseg_trainer.export.quantise import fallback
from matseg_trainer.export.quantise.rewrite import in_integer_operators
from matseg_trainer.export.quantise.static import activation_ranges, layers_of, quantise
from matseg_trainer.export.quantise.upsample import upsample_integers
from matseg_trainer.export.tensors import layer_name
from matseg_trainer.predict.checkpoint import Checkpoint, save_checkpoint
from matseg_trainer.predict.tiled import TorchPredictor

Make = Callable[..., tuple[Checkpoint, Dataset]]


def smooth(seed: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey blobs over the whole range."""
    rng = np.random.default_rng(seed)
    values = rng.random(shape)
    for axis in (0, 1):
        for _ in range(2):
            values = (values + np.roll(values, 1, axis) + np.roll(values, 2, axis)) / 3
    values = (values - values.min()) / np.ptp(values)
    return (values * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A checkpoint and a data set of its own, whose labels are what the network itself says in fp32."""
    made: dict[tuple[str, int, int], tuple[Checkpoint, Dataset]] = {}

    def get(name: str, n_class: int = 2, scale: int = 1) -> tuple[Checkpoint, Dataset]:
        if (name, n_class, scale) in made:
            return made[name, n_class, scale]
        checkpoint = make_checkpoint(name, n_class=n_class, scale=scale)
        predictor = TorchPredictor.of(checkpoint.network(), checkpoint.input, torch.device("cpu"))
        root = tmp_path_factory.mktemp(name) / "data" / "noise"
        for split, count in (("train", 3), ("validate", 2)):
            for kind in ("images", "labels_npy"):
                (root / split / kind).mkdir(parents=True)
            for number in range(count):
                image = smooth(number + 10 * (split == "train"), (100, 84))
                Image.fromarray(image).save(root / split / "images" / f"{number}.png")
                np.save(
                    root / split / "labels_npy" / f"{number}.npy", predictor.predict(image[np.newaxis])[0]
                )
        write_classes(
            root / "classes.toml",
            [
                ClassInfo(index=k, name=f"class {k}", colour=(80 * k, 0, 0), label_value=k)
                for k in range(n_class)
            ],
        )
        dataset = Dataset.open(root)
        training = checkpoint.training.model_copy(
            update={"fingerprint": dataset.fingerprint(("train", "validate"))}
        )
        made[name, n_class, scale] = dataclasses.replace(checkpoint, training=training), dataset
        return made[name, n_class, scale]

    return get


@pytest.fixture(scope="module")
def loose() -> Any:
    """An accuracy check that networks of random weights pass: theirs are all the pixels between two classes."""
    patch = pytest.MonkeyPatch()
    patch.setattr("matseg_trainer.export.accuracy_check.LARGEST_LOSS", 1.0)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def sessions(make: Make, loose: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Session]:
    """int8 models of all networks, opened once."""
    del loose
    folder = tmp_path_factory.mktemp("int8")
    made: dict[str, Session] = {}

    def get(name: str) -> Session:
        if name not in made:
            checkpoint, dataset = make(name)
            path = folder / f"{name}.onnx"
            export_checkpoint(checkpoint, path, precision="int8", dataset=dataset)
            made[name] = Session.open(path, provider="cpu", threads=2)
        return made[name]

    return get


def fp32_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    network = checkpoint.network()
    if len(checkpoint.classes) == 2:
        network = with_one_score(network, checkpoint.new_network(n_class=1))
    deployed = DeployedNetwork(network, checkpoint.input.mean, checkpoint.input.std).eval()
    return export.to_onnx(deployed, checkpoint.input.channels, checkpoint.input.dtype)


def int8_graph(checkpoint: Checkpoint, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    model = in_integer_operators(fp32_graph(checkpoint))
    return upsample_integers(quantise(model, activation_ranges(model, [checkpoint.sample]), keep=keep))


def run(model: onnx.ModelProto, image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    return Graph(model.SerializeToString())(image)


def integer_layers(model: onnx.ModelProto) -> list[bool]:
    """True where weight and input of each convolution are dequantised integers, and its result is quantised."""
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return [
        all(producer.get(name) == "DequantizeLinear" for name in node.input)
        and readers[node.output[0]] <= {"QuantizeLinear", "Relu", "Clip"}
        for node in model.graph.node
        if node.op_type == "Conv"
    ]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    height=st.one_of(st.integers(1, 40), st.integers(420, 520)),
    width=st.integers(1, 80),
    batch=st.integers(1, 3),
    extra=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_tiled_is_whole_without_exception(
    sessions: Callable[[str], Session], name: str, height: int, width: int, batch: int, extra: int, seed: int
) -> None:
    """Integers do not round by position: labels and probabilities of tiles are those of the whole, bit for bit."""
    session = sessions(name)
    tiling = session.model.metadata.tiling
    edge = smallest_tile(tiling.halo, tiling.stride) + extra * tiling.stride
    image = np.random.default_rng(seed).integers(0, 256, (1, height, width), dtype=np.uint8)
    whole, probabilities = segment_image(session, image, probabilities=True)
    tiled, pieces = segment_image(session, image, tile=(edge, edge), batch=batch, probabilities=True)
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_allclose(pieces, probabilities, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_coarser_resolution_goes_through_every_precision(
    loose: None, make: Make, tmp_path: Path, precision: Precision
) -> None:
    """Tiles are the whole, and the scores are enlarged in float: all integer layers lie before."""
    del loose
    checkpoint, dataset = make("unet", scale=2)
    path = export_checkpoint(checkpoint, tmp_path / "m.onnx", precision=precision, dataset=dataset).path
    session = Session.open(path, provider="cpu")
    assert session.require_self_test().mismatches == 0
    tiling = session.model.metadata.tiling
    assert tiling.stride == 32
    edge = smallest_tile(tiling.halo, tiling.stride)
    image = np.random.default_rng(0).integers(0, 256, (1, edge + 170, 41), dtype=np.uint8)
    whole, probabilities = segment_image(session, image, probabilities=True)
    tiled, pieces = segment_image(session, image, tile=(edge, edge), probabilities=True)
    np.testing.assert_allclose(pieces, probabilities, atol=1e-4)
    assert (tiled != whole).sum() == 0
    if precision == "int8":
        assert all(integer_layers(int8_graph(checkpoint)))


def test_the_networks_of_an_ensemble_compute_in_integers_and_are_averaged_in_float(
    loose: None, make: Make, tmp_path: Path
) -> None:
    del loose
    checkpoint, dataset = make("unet", 3)
    weights = {
        name: tensor.flip(0) if name == "encoder.0.0.weight" else tensor
        for name, tensor in checkpoint.weights.items()
    }
    given = checkpoint.input.model_copy(update={"mean": (120.0,)})
    other = dataclasses.replace(checkpoint, weights=weights, input=given)
    fp32 = export_checkpoint(checkpoint, tmp_path / "fp32.onnx", others=[other])
    result = export_checkpoint(
        checkpoint, tmp_path / "int8.onnx", others=[other], precision="int8", dataset=dataset
    )
    assert result.metadata.export.accuracy is not None
    assert len(result.metadata.ensemble) == 2
    layers = integer_layers(onnx.load(result.path))
    assert all(layers)
    assert len(layers) > 40, "those of both"
    image = smooth(7, (300, 84))[np.newaxis]
    sessions = [Session.open(each.path, provider="cpu") for each in (fp32, result)]
    (_, expected), (whole, found) = (segment_image(each, image, probabilities=True) for each in sessions)
    assert float(np.abs(found - expected).mean()) < 0.03
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    tiling = result.metadata.tiling
    edge = smallest_tile(tiling.halo, tiling.stride)
    np.testing.assert_array_equal(segment_image(sessions[1], image, tile=(edge, edge)), whole)


@pytest.mark.parametrize("name", ["unet", "patchunet"])
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    height=st.integers(1, 40) | st.integers(1100, 1300),
    width=st.integers(1, 64),
    islands=st.integers(0, 2),
    ground=st.integers(0, 255),
    seed=st.integers(0, 1000),
)
def test_constant_regions_are_spared_without_exception(
    sessions: Callable[[str], Session],
    name: str,
    height: int,
    width: int,
    islands: int,
    ground: int,
    seed: int,
) -> None:
    """The answer for a constant tile is the network's for every tile that is constant as far as it sees."""
    session = sessions(name)
    random = np.random.default_rng(seed)
    image = np.full((1, height, width), ground, np.uint8)
    for _ in range(islands):
        patch = image[:, int(random.integers(0, height)) :, int(random.integers(0, width)) :][:, :9, :9]
        patch[...] = random.integers(0, 256, patch.shape)
    answers = constant_tile_cache(session, batch=1, probabilities=False)
    found = segment_images(session, [image], constant_tiles=answers)[0]
    np.testing.assert_array_equal(found.labels, segment_image(session, image))
    if not islands:
        assert found.constant == image.size


@pytest.mark.parametrize("name", NETWORKS)
def test_the_self_test_is_the_int8_graphs_own(sessions: Callable[[str], Session], name: str) -> None:
    session = sessions(name)
    assert session.require_self_test().mismatches == 0
    metadata = session.model.metadata
    assert metadata.export.precision == "int8"
    assert metadata.export.calibration is not None
    assert metadata.export.calibration.crops == 32
    assert len(metadata.export.calibration.ranges) == 64
    assert metadata.export.accuracy is not None
    assert metadata.export.accuracy.images == 2
    assert metadata.export.pays_on == ("cpu",)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_is_an_integer_one(name: str) -> None:
    found = integer_layers(int8_graph(make_checkpoint(name, n_class=2)))
    assert len(found) > 18
    assert all(found)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_codes_are_upsampled_as_torch_upsamples(factor: int) -> None:
    """Two roundings, of columns and of rows: never further off than one level, and not to one side."""
    import onnxruntime

    kind = onnx.TensorProto.UINT8
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["small_floats"]),
        onnx.helper.make_node("Resize", ["small_floats", "", "factors"], ["large_floats"], mode="linear"),
        onnx.helper.make_node("QuantizeLinear", ["large_floats", "scale", "zero"], ["large"]),
    ]
    constants = {
        "scale": np.float32(0.25),
        "zero": np.uint8(37),
        "factors": np.float32([1, 1, factor, factor]),
    }
    graph = onnx.helper.make_graph(
        nodes,
        "upsampling",
        [onnx.helper.make_tensor_value_info("small", kind, ["batch", "channels", "rows", "columns"])],
        [onnx.helper.make_tensor_value_info("large", kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    floats = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    model = upsample_integers(floats)
    assert "Resize" not in {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    small = np.random.default_rng(factor).integers(0, 256, (2, 3, 5, 1), dtype=np.uint8)
    found = session.run(None, {"small": small})[0].astype(np.float64)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small).double(), scale_factor=factor, mode="bilinear", align_corners=False
    ).numpy()
    assert np.abs(found - expected).max() <= 1
    assert abs((found - expected).mean()) < 0.1


def test_pixelnet_is_upsampled_in_integers() -> None:
    model = int8_graph(make_checkpoint("pixelnet", n_class=2))
    assert not {"Resize", "Upsample"} & {node.op_type for node in model.graph.node}


def test_slices_of_large_weights_are_cut_at_export() -> None:
    """torch leaves them to the runtime, where a layer with such weights would stay in float."""

    class Sliced(torch.nn.Module):
        stride = 1

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1024, 2, kernel_size=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            wide = image.expand(-1, 512, -1, -1)
            parts = [
                torch.nn.functional.conv2d(wide, self.layer.weight[:, part])
                for part in (slice(0, 512), slice(512, 1024))
            ]
            return parts[0] + parts[1]

    deployed = DeployedNetwork(Sliced(), (0.0,), (1.0,)).eval()  # type: ignore[arg-type]
    model = to_onnx(deployed, 1, "uint8")
    constants = {item.name for item in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(layers) == 2
    assert all(node.input[1] in constants for node in layers)


def test_weights_and_activations_have_the_types_that_are_fast() -> None:
    """uint8 activations and int8 weights, one scale per output channel."""
    model = int8_graph(make_checkpoint("unet"))
    constants = {item.name: item for item in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(layers) == 27
    for layer in layers:
        activation, weight, bias = (producer[name] for name in layer.input)
        assert constants[activation.input[2]].data_type == onnx.TensorProto.UINT8
        levels = onnx.numpy_helper.to_array(constants[weight.input[0]])
        assert levels.dtype == np.int8
        assert (
            2 * 255 * np.abs(levels.astype(int)).max() < 2**15
        )  # two products in 16 bits, as AVX2 adds them
        assert constants[weight.input[1]].dims == [len(levels)]
        assert constants[bias.input[0]].data_type == onnx.TensorProto.INT32


def test_a_layer_that_is_kept_computes_in_fp32() -> None:
    checkpoint = make_checkpoint("unet")
    layers = layers_of(in_integer_operators(fp32_graph(checkpoint)))
    assert {"encoder.0.0", "up.0", "classifier"} <= set(layers)
    kept = int8_graph(checkpoint, ("encoder.0.0", "up.0"))
    layers_left = [node for node in onnx_ir.from_proto(kept).graph if node.op_type == "Conv"]
    floats = [node for node in layers_left if node.inputs[1] is not None and node.inputs[1].is_initializer()]
    assert {layer_name(node) for node in floats} == {"encoder.0.0", "up.0"}
    expected = run(fp32_graph(checkpoint), checkpoint.sample)[1]
    error = {
        count: np.abs(run(int8_graph(checkpoint, layers[:count]), checkpoint.sample)[1] - expected).mean()
        for count in (0, len(layers))
    }
    assert error[len(layers)] < error[0] / 2


@pytest.mark.parametrize("n_class", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_rewriting_changes_no_result(name: str, n_class: int) -> None:
    checkpoint = make_checkpoint(name, n_class=n_class)
    deployed = DeployedNetwork(checkpoint.network(), checkpoint.input.mean, checkpoint.input.std).eval()
    rewritten = in_integer_operators(fp32_graph(checkpoint))
    assert "ConvTranspose" not in {node.op_type for node in rewritten.graph.node}
    image = smooth(0, (96, 64))[np.newaxis, np.newaxis]
    with torch.inference_mode():
        labels, probabilities = (output.numpy() for output in deployed(torch.from_numpy(image)))
    found = run(rewritten, image)
    np.testing.assert_allclose(found[1], probabilities, atol=1e-4)
    assert (found[0] != labels).sum() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_two_classes_are_one_score(name: str) -> None:
    """The last layer computes the difference of two logits, and half as much."""
    checkpoint = make_checkpoint(name, n_class=2)
    plain = checkpoint.network().eval()
    single = with_one_score(checkpoint.network(), checkpoint.new_network(n_class=1))
    image = torch.randn(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, score = plain(image), single(image)
    assert score.shape == (1, 1, 64, 96)
    np.testing.assert_allclose(score[:, 0], logits[:, 1] - logits[:, 0], atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_kind_of_input(channels: int, dtype: str) -> None:
    """Pixels that cannot be taken as codes are normalised in fp32 first; 16 bits never meet fp16."""
    checkpoint = make_checkpoint("unet", channels=channels, n_class=2)
    factor = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    info = checkpoint.input.model_copy(
        update={
            "dtype": dtype,
            "mean": tuple(value * factor for value in checkpoint.input.mean),
            "std": tuple(value * factor for value in checkpoint.input.std),
        }
    )
    image = (checkpoint.sample.astype(np.float64) * factor).astype(dtype)
    checkpoint = dataclasses.replace(checkpoint, input=info, sample=image)
    model = fp32_graph(checkpoint)
    expected = run(model, image)
    for found in (run(int8_graph(checkpoint), image), run(to_half(model, [image]), image)):
        assert np.abs(found[1] - expected[1]).mean() < 0.05  # random weights, on noise
        assert found[1].dtype == np.float32


@pytest.mark.parametrize("name", NETWORKS)
def test_fp16_is_measured_and_says_where_it_pays(make: Make, loose: None, name: str, tmp_path: Path) -> None:
    del loose
    checkpoint, dataset = make(name)
    path = export_checkpoint(checkpoint, tmp_path / "half.onnx", precision="fp16", dataset=dataset).path
    session = Session.open(path, provider="cpu")
    assert session.require_self_test().mismatches == 0
    metadata = session.model.metadata
    assert metadata.export.calibration is None
    assert metadata.export.accuracy is not None
    assert metadata.precision_warning("cpu") is not None
    assert metadata.precision_warning("cuda") is None
    weights = [item for item in onnx.load(path).graph.initializer if len(item.dims) == 4]
    assert {item.data_type for item in weights if np.prod(item.dims) > 8} == {onnx.TensorProto.FLOAT16}


def test_activations_beyond_fp16_are_named(tmp_path: Path, make: Make) -> None:
    checkpoint, dataset = make("unet")
    weights = {
        key: value * 1e6 if key == "encoder.1.1.weight" else value
        for key, value in checkpoint.weights.items()
    }
    checkpoint = dataclasses.replace(checkpoint, weights=weights)
    model = fp32_graph(checkpoint)
    with pytest.raises(ExportError, match=r"fp16, 65504: .*encoder\.1\.0"):
        to_half(model, [checkpoint.sample])
    assert list(tmp_path.iterdir()) == []
    assert dataset.splits == ("train", "validate")


def test_an_int8_export_that_costs_too_much_names_the_layers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, dataset = make("unet")
    monkeypatch.setattr(fallback, "MOST_KEPT", 2)
    monkeypatch.setattr(fallback, "layers_of", lambda model: layers_of(model)[:3])
    monkeypatch.setattr("matseg_trainer.export.accuracy_check.LARGEST_LOSS", -1.0)
    with pytest.raises(ExportError, match=r"2 layers left in fp32; layers to blame.*(encoder|decoder|up)\."):
        export_checkpoint(checkpoint, tmp_path / "model.onnx", precision="int8", dataset=dataset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_modules_of_the_network(name: str) -> None:
    """Parts of PixelNet's hidden layer, computed one after the other, are one layer that is ranked once."""
    checkpoint = make_checkpoint(name, n_class=2)
    layers = layers_of(in_integer_operators(fp32_graph(checkpoint)))
    assert set(layers) <= {module for module, _ in checkpoint.network().named_modules()}
    assert len(layers) < 50


def test_layers_are_ranked_with_one_calibration_and_each_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int | None]] = []

    class Told(Progress):
        def stage(self, name: str, total: int | None = None, *, unit: str = "") -> None:
            told.append((f"{name} ({unit})", total))

        def advance(self, count: int = 1) -> None:
            told.append(("one more", count))

    calibrations: list[int] = []

    def counted(*arguments: Any) -> Any:
        calibrations.append(len(arguments[1]))
        return activation_ranges(*arguments)

    monkeypatch.setattr(fallback, "activation_ranges", counted)
    monkeypatch.setattr(fallback, "layers_of", lambda model: layers_of(model)[:3])
    checkpoint, _ = make("unet")
    check = AccuracyCheck(images=[], n_class=2, mean_iou_fp32=1.0, progress=Told())  # type: ignore[arg-type]
    gains = fallback.layer_gains(in_integer_operators(fp32_graph(checkpoint)), [checkpoint.sample], check)
    assert len(gains) == 3
    assert calibrations == [1]
    assert told == [("ranking layers by their error (layers)", 3), *[("one more", 1)] * 3]


def test_the_costliest_layer_goes_back_to_fp32(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that passes at the second attempt: one layer is left in fp32, recorded, and it is the right one."""
    checkpoint, dataset = make("unet")
    attempts: list[AccuracyInfo] = []
    original = AccuracyCheck.measure

    def second_time(self: AccuracyCheck, content: bytes) -> AccuracyInfo:
        found = original(self, content)
        attempts.append(found)
        lost = 1.0 if len(attempts) > 1 else 0.0
        return found.model_copy(update={"mean_iou": lost})

    monkeypatch.setattr(AccuracyCheck, "measure", second_time)
    monkeypatch.setattr("matseg_trainer.export.accuracy_check.LARGEST_LOSS", 0.002)
    gains = {"decoder.3.0": 1.0, "encoder.0.0": 3.0, "classifier": 2.0}
    monkeypatch.setattr(fallback, "layer_gains", lambda *_: gains)
    result = export_checkpoint(checkpoint, tmp_path / "model.onnx", precision="int8", dataset=dataset)
    assert result.metadata.export.calibration is not None
    assert result.metadata.export.calibration.fp32_layers == ("encoder.0.0",)
    weights = [item for item in onnx.load(result.path).graph.initializer if len(item.dims) == 4]
    floats = [item for item in weights if item.data_type == onnx.TensorProto.FLOAT and np.prod(item.dims) > 1]
    assert [item.name for item in floats] == ["network.encoder.0.0.weight"]


def test_lower_precisions_need_the_data_set_of_the_training(make: Make, tmp_path: Path) -> None:
    checkpoint, dataset = make("unet")
    path = tmp_path / "model.onnx"
    for precision in ("int8", "fp16"):
        with pytest.raises(UsageError, match=f"--precision {precision} needs the data set 'noise'"):
            export_checkpoint(checkpoint, path, precision=precision)  # type: ignore[arg-type]
    other = checkpoint.training.model_copy(update={"fingerprint": "f" * 64})
    with pytest.raises(DatasetError, match="fingerprint differs"):
        export_checkpoint(
            dataclasses.replace(checkpoint, training=other), path, precision="int8", dataset=dataset
        )
    assert not path.exists()


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("unet", n_class=2)
    config = checkpoint.config
    (tmp_path / "config.toml").write_text(
        f'[noise.v1]\nmodel = "unet"\nn_class = 2\nwidth = {config.width}\n', encoding="utf-8"
    )
    save_checkpoint(tmp_path / "saved" / "noise_v1.pth", checkpoint)
    command = ["noise", "v1", "--precision", "int8", "--workspace", str(tmp_path)]
    result = CliRunner().invoke(export_main, command)
    assert result.exit_code == 2
    assert "expected a data set" in result.output
    assert not (tmp_path / "saved" / "noise_v1.onnx").exists()


def test_the_command_writes_what_is_accurate_enough(make: Make, loose: None, tmp_path: Path) -> None:
    del loose
    checkpoint, dataset = make("unet")
    workspace = dataset.root.parent.parent
    (workspace / "config.toml").write_text(
        f'[noise.v1]\nmodel = "unet"\nn_class = 2\nwidth = {checkpoint.config.width}\n', encoding="utf-8"
    )
    save_checkpoint(workspace / "saved" / "noise_v1.pth", checkpoint)
    target = str(tmp_path / "small.onnx")
    command = ["noise", "v1", "--precision", "int8", "-o", target, "--workspace", str(workspace)]
    result = CliRunner().invoke(export_main, command)
    assert result.exit_code == 0, result.output
    assert "mean IoU on 2 images of validate" in result.output
    assert "pays on: cpu\n" in result.output
    for trace in (b"onnx.quantize", b"onnxruntime.quant", b".py", str(tmp_path).encode()):
        assert trace not in Path(target).read_bytes()


def test_nothing_is_exported_without_the_parity_of_fp32(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An int8 graph is measured against fp32; that fp32 is the torch network is proven first."""
    checkpoint, dataset = make("unet")

    def differs(*_: object) -> None:
        raise ExportError("differs")

    monkeypatch.setattr(export, "check_parity", differs)
    with pytest.raises(ExportError, match="differs"):
        export_checkpoint(checkpoint, tmp_path / "model.onnx", precision="int8", dataset=dataset)
    assert list(tmp_path.iterdir()) == []
