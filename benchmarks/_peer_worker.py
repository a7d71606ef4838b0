"""One contestant of `peers.py`, in a process and an environment of its own; nothing of MatSeg is imported for peers.

Reads slices, labels them one after another, writes the labels, and prints its time and versions as JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Label = Callable[[Any], Any]
"""(H, W) uint8 raw pixels to (H, W) uint8 class indices."""


def main() -> None:
    """Label the slices with the contestant named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=sorted(CONTESTANTS))
    for name in ("model", "slices", "labels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("threads", "tile", "halo", "stride"):
        parser.add_argument(f"--{name}", type=int, required=True)
    choices = parser.parse_args()
    limit_cores(choices.threads)
    slices = np.load(choices.slices)
    label = CONTESTANTS[choices.contestant](choices)
    label(slices[0])
    started = time.perf_counter()
    labels = np.stack([label(image) for image in slices])
    seconds = time.perf_counter() - started
    np.save(choices.labels, labels.astype(np.uint8))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES[choices.contestant]]
    print(json.dumps({"seconds": seconds, "versions": ", ".join(versions)}))


def limit_cores(count: int) -> None:
    """Not all peers offer a number of threads; all take no more than the cores of their process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def plain_session(choices: argparse.Namespace) -> Any:
    """onnxruntime with its defaults and the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = choices.threads
    return onnxruntime.InferenceSession(str(choices.model), options, providers=["CPUExecutionProvider"])


def pad(image: Any, stride: int) -> Any:
    """Reflected at the lower and right edge up to multiples of the stride."""
    height, width = image.shape
    return np.pad(image, ((0, -height % stride), (0, -width % stride)), mode="reflect")


def bare(choices: argparse.Namespace) -> Label:
    """The whole slice in one call of onnxruntime: what all others are compared with."""
    session = plain_session(choices)

    def label(image: Any) -> Any:
        height, width = image.shape
        batch = pad(image, choices.stride)[None, None]
        return session.run(["labels"], {"image": batch})[0][0, :height, :width]

    return label


def matseg_whole(choices: argparse.Namespace) -> Label:
    """MatSeg's runtime, whole slices as it takes them by default."""
    return matseg(choices, None)


def matseg_tiled(choices: argparse.Namespace) -> Label:
    """MatSeg's runtime with tiles as large as the peers'."""
    return matseg(choices, (choices.tile, choices.tile))


def matseg(choices: argparse.Namespace, tile: tuple[int, int] | None) -> Label:
    """MatSeg's runtime on one stream."""
    from matseg_runtime.inference.session import Session
    from matseg_runtime.inference.tiles import segment_image

    session = Session.open(choices.model, provider="cpu", threads=choices.threads)
    return lambda image: segment_image(session, image[None], tile=tile).labels


def monai_constant(choices: argparse.Namespace) -> Label:
    """MONAI's sliding window as it is by default: overlap 0.25, all windows weigh the same."""
    return monai_onnx(choices, overlap=0.25, mode="constant")


def monai_gaussian(choices: argparse.Namespace) -> Label:
    """MONAI's sliding window as it is used for quality: overlap 0.5, a Gaussian weight."""
    return monai_onnx(choices, overlap=0.5, mode="gaussian")


def monai_onnx(choices: argparse.Namespace, *, overlap: float, mode: str) -> Label:
    """The ONNX file inside MONAI's sliding window, which blends probabilities."""
    import torch

    session = plain_session(choices)

    def predict(windows: Any) -> Any:
        batch = windows.numpy().astype(np.uint8)
        return torch.from_numpy(session.run(["probabilities"], {"image": batch})[0])

    return sliding_window(choices, predict, overlap=overlap, mode=mode)


def monai_torch(choices: argparse.Namespace) -> Label:
    """The torch network of a checkpoint inside MONAI's sliding window, as MONAI is meant to be used."""
    from matseg_trainer.predict.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(choices.model)
    network = checkpoint.network()
    mean, std = checkpoint.input.mean[0], checkpoint.input.std[0]
    return sliding_window(
        choices, lambda windows: network((windows - mean) / std), overlap=0.25, mode="constant"
    )


def sliding_window(
    choices: argparse.Namespace, predict: Callable[[Any], Any], *, overlap: float, mode: str
) -> Label:
    """MONAI's inferer around a function from (N, 1, H, W) float32 to (N, K, H, W)."""
    import torch
    from monai.inferers import SlidingWindowInferer

    torch.set_num_threads(choices.threads)
    inferer = SlidingWindowInferer(
        roi_size=(choices.tile, choices.tile), sw_batch_size=1, overlap=overlap, mode=mode
    )

    def label(image: Any) -> Any:
        with torch.inference_mode():
            values = inferer(torch.from_numpy(image[None, None].astype(np.float32)), predict)
        return values.argmax(dim=1)[0].numpy().astype(np.uint8)

    return label


def bioimageio(choices: argparse.Namespace) -> Label:
    """bioimageio.core's blockwise prediction with the halo that the model's metadata give."""
    from bioimageio.core import Sample, Tensor, create_prediction_pipeline

    description = bioimageio_description(choices)
    pipeline = create_prediction_pipeline(description)
    pipeline.load()
    block = {"image": {"batch": 1, "channel": 1, "y": choices.tile, "x": choices.tile}}

    def label(image: Any) -> Any:
        tensor = Tensor(image[None, None], dims=("batch", "channel", "y", "x"))
        sample = Sample(members={"image": tensor}, stat={}, id=None)
        result = pipeline.predict_sample_with_fixed_blocking(sample, input_block_shape=block)
        return np.asarray(result.members["labels"].data)[0, 0].astype(np.uint8)

    return label


def bioimageio_description(choices: argparse.Namespace) -> Any:
    """A model description of the bioimage.io format 0.5.

    Around an ONNX file whose only output is (N, 1, H, W) labels: blockwise prediction passes over outputs that have no
    channel axis, and would take the time to copy probabilities.
    """
    from bioimageio.spec.model import v0_5

    folder = choices.labels.parent
    edge = max(choices.tile, 2 * choices.halo + choices.stride)
    for name in ("image", "labels"):
        np.save(folder / f"test_{name}.npy", np.ones((1, 1, edge, edge), np.uint8))
    size = v0_5.ParameterizedSize(min=2 * choices.halo + choices.stride, step=choices.stride)
    image = v0_5.InputTensorDescr(
        id=v0_5.TensorId("image"),
        axes=[
            v0_5.BatchAxis(),
            v0_5.ChannelAxis(channel_names=[v0_5.Identifier("grey")]),
            *[v0_5.SpaceInputAxis(id=v0_5.AxisId(axis), size=size) for axis in "yx"],
        ],
        data=v0_5.IntervalOrRatioDataDescr(type="uint8"),
        test_tensor=v0_5.FileDescr(source=folder / "test_image.npy"),
    )
    labels = v0_5.OutputTensorDescr(
        id=v0_5.TensorId("labels"),
        axes=[
            v0_5.BatchAxis(),
            v0_5.ChannelAxis(channel_names=[v0_5.Identifier("label")]),
            *[
                v0_5.SpaceOutputAxisWithHalo(
                    id=v0_5.AxisId(axis),
                    size=v0_5.SizeReference(tensor_id=v0_5.TensorId("image"), axis_id=v0_5.AxisId(axis)),
                    halo=choices.halo,
                )
                for axis in "yx"
            ],
        ],
        data=v0_5.IntervalOrRatioDataDescr(type="uint8"),
        test_tensor=v0_5.FileDescr(source=folder / "test_labels.npy"),
    )
    return v0_5.ModelDescr(
        name="benchmark",
        description="a model to be timed",
        authors=[v0_5.Author(name="MatSeg")],
        cite=[v0_5.CiteEntry(text="none", url=v0_5.HttpUrl("https://example.com"))],
        license=v0_5.LicenseId("MIT"),
        inputs=[image],
        outputs=[labels],
        weights=v0_5.WeightsDescr(onnx=v0_5.OnnxWeightsDescr(source=choices.model, opset_version=17)),
    )


CONTESTANTS: dict[str, Callable[[argparse.Namespace], Label]] = {
    "bare": bare,
    "matseg-whole": matseg_whole,
    "matseg-tiled": matseg_tiled,
    "monai-constant": monai_constant,
    "monai-gaussian": monai_gaussian,
    "monai-torch": monai_torch,
    "bioimageio": bioimageio,
}
PACKAGES: dict[str, tuple[str, ...]] = {
    "bare": ("onnxruntime",),
    "matseg-whole": ("matseg", "onnxruntime"),
    "matseg-tiled": ("matseg", "onnxruntime"),
    "monai-constant": ("monai", "torch", "onnxruntime"),
    "monai-gaussian": ("monai", "torch", "onnxruntime"),
    "monai-torch": ("monai", "torch"),
    "bioimageio": ("bioimageio.core", "onnxruntime"),
}
"""Whose versions are told."""

if __name__ == "__main__":
    main()
