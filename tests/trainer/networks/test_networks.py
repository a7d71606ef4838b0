"""The networks are the papers': sizes, operators, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_trainer.networks.base import count_parameters, decide, vgg16_blocks
from matseg_trainer.networks.halo import measure_halo
from matseg_trainer.networks.registry import build_network
from matseg_trainer.networks.segnet import max_pool_with_origin, max_unpool
from matseg_trainer.predict import tiled
from matseg_trainer.predict.tiled import TorchPredictor

NETWORKS = ("unet", "segnet", "pixelnet", "patchunet", "effunet", "vggunet")
VGG16_CONVOLUTIONS = (
    14_714_688  # Simonyan and Zisserman 2015, configuration D, 3 input channels, weights and biases
)
VGG16_BATCH_NORM = 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)


def convolution_weights(module: nn.Module) -> int:
    """Weights and biases of convolutions alone, without batch norm."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return sum(count_parameters(item) for item in module.modules() if isinstance(item, kinds))


def test_unet_has_the_papers_weights() -> None:
    """Five levels of 64 to 1024 channels, counted layer by layer (3 x 3 without bias, up-convolutions with)."""
    widths = [64, 128, 256, 512, 1024]
    expected, before = 0, 1
    for width in widths:
        expected += 9 * before * width + 9 * width * width + 4 * width
        before = width
    for below, level in zip(widths[:0:-1], widths[-2::-1], strict=True):
        expected += 4 * below * level + level + 9 * 2 * level * level + 9 * level * level + 4 * level
    expected += 64 * 2 + 2
    assert count_parameters(build_network("unet", in_channels=1, n_class=2)) == expected == 31_036_546


def test_segnet_has_the_papers_weights() -> None:
    """Table 6 of the paper: 29.45 M parameters with 12 classes and 3 channels; the encoder is VGG-16's."""
    network = build_network("segnet", in_channels=3, n_class=12)
    assert convolution_weights(network.encoder) == VGG16_CONVOLUTIONS
    assert round(count_parameters(network) / 1e6, 2) == 29.45


def test_pixelnet_has_vgg16_and_a_hidden_layer_over_1472_channels() -> None:
    network = build_network("pixelnet", in_channels=3, n_class=4)
    assert convolution_weights(network.encoder) == VGG16_CONVOLUTIONS
    mlp = 1472 * 2048 + 2048 + 2048 * 4 + 4
    assert count_parameters(network) == VGG16_CONVOLUTIONS + VGG16_BATCH_NORM + mlp


def test_vgg16_pools_between_its_five_blocks() -> None:
    depths = [sum(isinstance(layer, nn.Conv2d) for layer in block) for block in vgg16_blocks(3, 64)]
    assert depths == [2, 2, 3, 3, 3]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_output_has_the_inputs_size(name: str, channels: int) -> None:
    network = build_network(name, in_channels=channels, n_class=5, width=2).eval()
    stride = network.stride
    assert network(torch.zeros(2, channels, stride, 3 * stride)).shape == (2, 5, stride, 3 * stride)


@pytest.mark.parametrize("levels", [2, 3, 1000])
def test_unpooling_is_torchs_with_ties_and_batches(levels: int) -> None:
    """Few grey levels mean ties in nearly every window; torch's own unpooling, which does not export, is the oracle."""
    generator = torch.Generator().manual_seed(levels)
    x = torch.randint(0, levels, (3, 4, 16, 24), generator=generator).float()
    values = torch.randn(3, 4, 8, 12, generator=generator)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    ours, origin = max_pool_with_origin(x)
    assert torch.equal(ours, pooled)
    assert torch.equal(max_unpool(values, origin), F.max_unpool2d(values, indices, 2))


def test_unpooling_hands_gradients_back_where_torch_does() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    pooled, origin = max_pool_with_origin(x)
    gradient = torch.autograd.grad(max_unpool(pooled**2, origin).sin().sum(), x)[0]
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    expected = torch.autograd.grad(F.max_unpool2d(pooled**2, indices, 2).sin().sum(), x)[0]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("scale", [1, 2])
def test_pixelnet_trains_on_the_function_it_is_deployed_as(scale: int) -> None:
    """Sampled hypercolumns (training) and slices of hidden units at each map's own resolution agree."""
    network = build_network("pixelnet", in_channels=1, n_class=3, width=4, scale=scale).eval()
    height, width = 32 * scale, 48 * scale
    images = torch.randn(2, 1, height, width)
    labels = torch.randint(0, 3, (2, height, width))
    pixels = torch.stack([torch.randperm(height * width)[:300] for _ in range(2)])
    sampled, wanted = network.loss_inputs(images, labels, pixels)
    dense = network(images).flatten(2).gather(2, pixels.unsqueeze(1).expand(-1, 3, -1))
    torch.testing.assert_close(sampled, dense, rtol=1e-4, atol=1e-5)
    assert torch.equal(wanted, labels.flatten(1).gather(1, pixels))


@pytest.mark.parametrize(
    ("name", "scale"), [*((name, 1) for name in NETWORKS), ("unet", 2), ("patchunet", 4), ("pixelnet", 2)]
)
def test_halo_is_exactly_what_tiles_need(name: str, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the measured halo tiles equal the whole; with one stride less they do not."""
    torch.manual_seed(0)
    network = build_network(name, in_channels=1, n_class=3, width=2, scale=scale).eval()
    info = InputInfo(
        channels=1,
        dtype="uint8",
        mean=(120.0,),
        std=(50.0,),
        histogram=Histogram(low=0, high=255, counts=(1,)),
    )
    halo = measure_halo(network, 1)
    image = np.random.default_rng(0).integers(
        0, 256, (1, 2 * halo + 5 * network.stride + 3, 45), dtype=np.uint8
    )

    def logits(halo: int) -> np.ndarray:
        return TorchPredictor(network=network, input=info, device=torch.device("cpu"), halo=halo).logits(
            image
        )

    whole = logits(halo)
    monkeypatch.setattr(tiled, "TILE_BYTES", 1)
    rounding = np.abs(logits(halo) - whole).max()
    assert rounding < 1e-4
    assert np.abs(logits(halo - network.stride) - whole).max() > 10 * max(rounding, 1e-6)


@pytest.mark.parametrize("n_class", [2, 3, 5])
def test_the_decision_is_argmax(n_class: int) -> None:
    """Ties included: few values, so that many pixels have them."""
    logits = torch.randint(0, 3, (2, n_class, 30, 40), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(decide(logits), logits.argmax(dim=1))


@pytest.mark.parametrize("scale", [2, 8])
def test_a_coarser_resolution_is_means_in_and_interpolated_logits_out(scale: int) -> None:
    fine, coarse = (
        build_network("unet", in_channels=2, n_class=3, width=2, scale=n).eval() for n in (1, scale)
    )
    coarse.load_state_dict(fine.state_dict())
    assert coarse.stride == scale * fine.stride
    image = torch.randn(1, 2, 32 * scale, 16 * scale)
    means = image.unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).mean(dim=(3, 5))
    with torch.no_grad():
        logits, small = coarse(image), fine(means)
    assert logits.shape == (1, 3, 32 * scale, 16 * scale)
    torch.testing.assert_close(
        logits[..., :1, :1], small[..., :1, :1]
    )  # before the first centre there is no other
    blocks = logits.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
    middle = blocks[..., scale // 2 - 1 : scale // 2 + 1, :, scale // 2 - 1 : scale // 2 + 1].mean(dim=(3, 5))
    # as far before the centre of a square as behind it: near its own logits, but for the bend between squares
    assert float((middle - small).abs().mean()) < float(small.std()) / 2
