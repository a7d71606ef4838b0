"""int8 and fp16: what is computed in integers, what it costs, and when an export says no."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkpoints import NETWORKS, make_checkpoint
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from segmenting import segment_image

from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import constant_tile_cache, segment_images
from matseg_shared.contract.classes import write_classes
from matseg_shared.contract.metadata import AccuracyInfo, ClassInfo
from matseg_shared.contract.tiling import smallest_tile
from matseg_shared.errors import DatasetError, ExportError, UsageError
from matseg_trainer.commands.export import export_main
from matseg_trainer.data.folder import Dataset
from matseg_trainer.export import export
from matseg_trainer.export.export import export_checkpoint, sensitive
from matseg_trainer.export.fold import with_cut_weights
from matseg_trainer.export.gate import AccuracyCheck
from matseg_trainer.export.graph import DeployedNetwork, Graph
from matseg_trainer.export.half import to_half
from matseg_trainer.export.index import GraphIndex
from matseg_trainer.export.plan import computed_tensors, layers_of
from matseg_trainer.export.quantise import quantise
from matseg_trainer.export.ranges import Code, least_confusion_code, least_error_code, sample_tensors
from matseg_trainer.export.rewrite import in_integer_operators, with_one_score
from matseg_trainer.export.upsample import Upsampling
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
    import torch

    made: dict[tuple[str, int], tuple[Checkpoint, Dataset]] = {}

    def get(name: str, n_class: int = 2) -> tuple[Checkpoint, Dataset]:
        if (name, n_class) in made:
            return made[name, n_class]
        checkpoint = make_checkpoint(name, n_class=n_class)
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
        made[name, n_class] = dataclasses.replace(checkpoint, training=training), dataset
        return made[name, n_class]

    return get


@pytest.fixture(scope="module")
def loose() -> Any:
    """A gate that networks of random weights pass: theirs are all the pixels between two classes."""
    patch = pytest.MonkeyPatch()
    patch.setattr("matseg_trainer.export.gate.LARGEST_LOSS", 1.0)
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
    deployed = DeployedNetwork(checkpoint.network(), checkpoint.input.mean, checkpoint.input.std).eval()
    return with_one_score(export.to_onnx(deployed, checkpoint.input.channels, checkpoint.input.dtype))


def int8_graph(checkpoint: Checkpoint, keep: frozenset[str] = frozenset()) -> onnx.ModelProto:
    model = in_integer_operators(fp32_graph(checkpoint))
    samples = sample_tensors(model, computed_tensors(GraphIndex.of(model)), [checkpoint.sample])
    return quantise(model, samples, checkpoint.input, keep=keep, weight_levels=sensitive.WEIGHT_LEVELS)[0]


def run(model: onnx.ModelProto, image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    return Graph(model.SerializeToString())(image)


def optimised(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """The operators that onnxruntime makes of a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


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
    assert metadata.export.pays_on == ("cpu", "openvino")


def test_a_u_net_is_all_integers(tmp_path: Path) -> None:
    """From the raw pixels to the labels: every convolution, pooling and joining, the up-convolutions too."""
    model = int8_graph(make_checkpoint("unet", n_class=2))
    kinds = optimised(model, tmp_path / "optimised.onnx")
    assert kinds["QLinearConv"] == 27
    assert kinds["NhwcMaxPool"] == 4
    assert not {"Conv", "FusedConv", "ConvTranspose", "MaxPool", "ArgMax"} & set(kinds)
    assert kinds["QuantizeLinear"] == 0
    assert kinds["DequantizeLinear"] == 1  # the score, for the probabilities
    assert "Div" not in kinds  # raw pixels are the first codes


def test_a_patch_u_net_moves_whole_lines(tmp_path: Path) -> None:
    """Patches are read and written with the channels last, and skips are summed in integers."""
    model = int8_graph(make_checkpoint("patchunet", n_class=2))
    kinds = optimised(model, tmp_path / "optimised.onnx")
    assert kinds["QLinearConv"] == 1 + 8 + 3 + 3 * 2 + 6 + 1  # stem, encoder, down, up, decoder, classifier
    assert kinds["QLinearAdd"] == 3
    assert kinds["QuantizeLinear"] == 0
    assert kinds["DequantizeLinear"] == 1
    assert not {"Conv", "ConvTranspose", "DepthToSpace", "Add", "Gather", "Div"} & set(kinds)


@pytest.mark.parametrize("name", ["segnet", "pixelnet"])
def test_every_convolution_is_an_integer_one(name: str, tmp_path: Path) -> None:
    kinds = optimised(int8_graph(make_checkpoint(name, n_class=2)), tmp_path / "optimised.onnx")
    assert kinds["QLinearConv"] > 20
    assert not {"Conv", "FusedConv"} & set(kinds)


def test_segnet_unpools_what_its_own_pooling_took() -> None:
    """Masks are drawn from the codes: as many ones as windows, whatever ties the rounding makes."""
    checkpoint = make_checkpoint("segnet", n_class=2)
    model = int8_graph(checkpoint)
    masks = [node.input[0] for node in model.graph.node if node.output[0].endswith("_mask_uint8")][:4]
    for name in masks:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None))
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.full((1, 1, 64, 64), 77, dtype=np.uint8)  # one value: every window is a tie
    found = np.stack(session.run(masks, {"image": image}))
    np.testing.assert_array_equal(found.sum(axis=0), 1)


def test_segnet_moves_whole_lines(tmp_path: Path) -> None:
    """Its pooling and unpooling stay with the channels last, and its masks are products, not selections."""
    kinds = optimised(int8_graph(make_checkpoint("segnet", n_class=2)), tmp_path / "optimised.onnx")
    assert kinds["Transpose"] == 2  # of the image and of the scores
    assert kinds["QLinearMul"] == 20
    assert "Where" not in kinds


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_codes_are_upsampled_as_torch_upsamples(factor: int) -> None:
    """Two roundings, of columns and of rows: never further off than one level, and not to one side."""
    import onnxruntime
    import torch

    upsampling = Upsampling(name="large", factor=factor, zero_point="zero")
    upsampling.write("small")
    kind = onnx.TensorProto.UINT8
    graph = onnx.helper.make_graph(
        upsampling.nodes,
        "upsampling",
        [onnx.helper.make_tensor_value_info("small", kind, ["batch", "channels", "rows", "columns"])],
        [onnx.helper.make_tensor_value_info("large", kind, None)],
        [*upsampling.constants, onnx.numpy_helper.from_array(np.uint8(37), "zero")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    small = np.random.default_rng(factor).integers(0, 256, (2, 3, 5, 1), dtype=np.uint8)
    found = session.run(None, {"small": small})[0].astype(np.float64)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small).double(), scale_factor=factor, mode="bilinear", align_corners=False
    ).numpy()
    assert np.abs(found - expected).max() <= 1
    assert abs((found - expected).mean()) < 0.1


def test_pixelnet_is_all_integers(tmp_path: Path) -> None:
    """Upsampling and the sums of the hidden layer too; only the class scores are summed in float."""
    kinds = optimised(int8_graph(make_checkpoint("pixelnet", n_class=2)), tmp_path / "optimised.onnx")
    assert not {"Resize", "Upsample", "Conv", "FusedConv"} & set(kinds)
    assert kinds["QLinearAdd"] > 4 * 60


def test_slices_of_large_weights_are_cut_at_export() -> None:
    """torch leaves them to the runtime, where a layer with such weights would stay in float."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 2, 1, 1)).astype(np.float32)
    bounds = {"start": [2], "end": [2**63 - 1], "axis": [0], "step": [3]}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Slice", ["weight", *bounds], ["part"]),
            onnx.helper.make_node("Conv", ["image", "part"], ["labels"]),
        ],
        "sliced",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 2, 4, 4])],
        [onnx.helper.make_tensor_value_info("labels", onnx.TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            *(onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in bounds.items()),
        ],
    )
    cut = with_cut_weights(onnx.helper.make_model(graph))
    assert [node.op_type for node in cut.graph.node] == ["Conv"]
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in cut.graph.initializer}
    np.testing.assert_array_equal(constants["part"], weight[2::3])
    assert list(constants) == ["part"]


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
    layers = layers_of(GraphIndex.of(in_integer_operators(fp32_graph(checkpoint))))
    assert {"encoder.0.0", "up.0", "classifier"} <= set(layers)
    expected = run(fp32_graph(checkpoint), checkpoint.sample)[1]
    error = {
        count: np.abs(
            run(int8_graph(checkpoint, frozenset(layers[:count])), checkpoint.sample)[1] - expected
        ).mean()
        for count in (0, len(layers) - 1, len(layers))
    }
    assert error[len(layers)] < 1e-6
    assert error[0] > error[len(layers) - 1] > error[len(layers)]


@pytest.mark.parametrize("n_class", [2, 3])
def test_rewriting_changes_no_result(n_class: int) -> None:
    for name in NETWORKS:
        checkpoint = make_checkpoint(name, n_class=n_class)
        deployed = DeployedNetwork(checkpoint.network(), checkpoint.input.mean, checkpoint.input.std).eval()
        plain = export.to_onnx(deployed, 1, "uint8")
        rewritten = in_integer_operators(with_one_score(plain))
        assert "ConvTranspose" not in {node.op_type for node in rewritten.graph.node}
        assert (len(with_one_score(plain).graph.node) < len(plain.graph.node)) == (n_class == 2)
        image = smooth(0, (96, 64))[np.newaxis, np.newaxis]
        expected, found = run(plain, image), run(rewritten, image)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
        assert (found[0] != expected[0]).sum() == 0


def test_the_mean_that_is_no_grey_level_goes_into_the_bias() -> None:
    """Raw codes need an integer zero point; inside the image what it leaves over must not be lost."""
    checkpoint = make_checkpoint("unet", n_class=2)
    info = checkpoint.input.model_copy(update={"mean": (127.5 - 1e-6,), "std": (5.0,)})
    checkpoint = dataclasses.replace(checkpoint, input=info)
    image = np.clip(smooth(1, (64, 64)) // 16 + 120, 0, 255)[np.newaxis, np.newaxis].astype(np.uint8)
    checkpoint = dataclasses.replace(checkpoint, sample=image)
    model = int8_graph(checkpoint)
    expected = run(fp32_graph(checkpoint), image)[1]
    found = run(model, image)[1]
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    first = next(node for node in spoilt.graph.node if node.op_type == "Conv")
    producer = {name: node for node in spoilt.graph.node for name in node.output}
    assert producer[first.input[0]].input[0] == "image"
    name = producer[first.input[2]].input[0]
    for item in spoilt.graph.initializer:
        if item.name == name:  # the bias as it would be without the correction
            layer = GraphIndex.of(fp32_graph(checkpoint))
            weight = layer.constants[next(n for n in layer.nodes if n.op_type == "Conv").input[1]]
            scales = {c.name: c for c in spoilt.graph.initializer}[producer[first.input[2]].input[1]]
            shift = (127 - info.mean[0]) / 5.0 if round(info.mean[0]) == 127 else (128 - info.mean[0]) / 5.0
            lost = shift * weight.sum(axis=(1, 2, 3)) / onnx.numpy_helper.to_array(scales)
            item.CopyFrom(
                onnx.numpy_helper.from_array(
                    (onnx.numpy_helper.to_array(item) - np.rint(lost)).astype(np.int32), item.name
                )
            )
    assert np.abs(found - expected).mean() < np.abs(run(spoilt, image)[1] - expected).mean()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_kind_of_input(channels: int, dtype: str) -> None:
    """What cannot be taken as codes raw is normalised in fp32 first; 16 bits never meet fp16."""
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
    samples = sample_tensors(model, computed_tensors(GraphIndex.of(model)), [image])
    for found in (run(int8_graph(checkpoint), image), run(to_half(model, samples), image)):
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
    samples = sample_tensors(model, computed_tensors(GraphIndex.of(model)), [checkpoint.sample])
    with pytest.raises(ExportError, match=r"fp16, 65504: .*encoder\.1\.0"):
        to_half(model, samples)
    assert list(tmp_path.iterdir()) == []
    assert dataset.splits == ("train", "validate")


def test_an_int8_export_that_costs_too_much_names_the_layers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, dataset = make("unet")
    monkeypatch.setattr(sensitive, "MOST_TRIALS", 3)
    monkeypatch.setattr(sensitive, "MOST_KEPT", 2)
    monkeypatch.setattr("matseg_trainer.export.gate.LARGEST_LOSS", -1.0)
    with pytest.raises(ExportError, match=r"2 layers left in fp32; layers to blame.*(encoder|decoder|up)\."):
        export_checkpoint(checkpoint, tmp_path / "model.onnx", precision="int8", dataset=dataset)
    assert list(tmp_path.iterdir()) == []


def test_the_costliest_layer_goes_back_to_fp32(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that opens at the second attempt: one layer is left in fp32, recorded, and it is the right one."""
    checkpoint, dataset = make("unet")
    attempts: list[AccuracyInfo] = []
    original = AccuracyCheck.measure

    def second_time(self: AccuracyCheck, content: bytes) -> AccuracyInfo:
        found = original(self, content)
        attempts.append(found)
        lost = 1.0 if len(attempts) > 1 else 0.0
        return found.model_copy(update={"mean_iou": lost})

    monkeypatch.setattr(AccuracyCheck, "measure", second_time)
    monkeypatch.setattr("matseg_trainer.export.gate.LARGEST_LOSS", 0.002)
    monkeypatch.setattr(sensitive, "MOST_TRIALS", 3)
    gains = {"decoder.3.0": 1.0, "encoder.0.0": 3.0, "classifier": 2.0}
    monkeypatch.setattr(sensitive.Quantiser, "_gains", lambda _: gains)
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


def test_the_command_writes_what_the_gate_lets_pass(make: Make, loose: None, tmp_path: Path) -> None:
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
    assert "pays on: cpu, openvino" in result.output
    for trace in (b"onnx.quantize", b"onnxruntime.quant", b".py", str(tmp_path).encode()):
        assert trace not in Path(target).read_bytes()


def test_codes_hold_zero_and_reach_both_ends() -> None:
    code = Code.spanning(-1.0, 3.0)
    assert code.zero_point == 64
    values = np.array([-1.0, 0.0, 3.0, 9.0], np.float32)
    np.testing.assert_allclose(code.rounded(values), [-1.0, 0.0, 3.0, 3.0], atol=code.scale)
    assert code.rounded(np.zeros(1, np.float32))[0] == 0
    assert Code.spanning(2.0, 5.0).zero_point == 0
    assert Code.spanning(0.0, 0.0) == Code(1.0, 0)


def test_an_outlier_is_cut_off_where_that_loses_less() -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 100_000)).astype(np.float32)
    values[0, 0] = 300
    code = least_error_code([values])
    widest = Code.spanning(float(values.min()), 300.0)
    assert code.scale < 0.95 * widest.scale
    assert np.square(code.rounded(values) - values).mean() < np.square(widest.rounded(values) - values).mean()


def test_scores_keep_their_sign_before_their_size() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 0.1, 5000), rng.uniform(-40, 40, 50)]).astype(np.float32)[
        np.newaxis
    ]
    code, widest = least_confusion_code(scores), Code.spanning(-40, 40)
    wrong = [int(((item.rounded(scores) > 0) != (scores > 0)).sum()) for item in (code, widest)]
    assert wrong[0] < wrong[1]


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
