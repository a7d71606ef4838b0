"""Segment raw images and volumes with an exported model; needs no torch.

```python
import matseg_runtime

model = matseg_runtime.open_model("steel_v1.onnx")        # or "zoo:tomography"
labels = matseg_runtime.segment(model, image)             # (H, W) uint8 class indices
summary = matseg_runtime.run_job("steel_v1.onnx", "raw_slices/", output="labels.zarr")
```
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from matseg_runtime.inference.providers import ProviderChoice
    from matseg_runtime.inference.session import Session
    from matseg_runtime.run.finalize import Summary

__all__ = ["open_model", "run_job", "segment"]

_TILE = 2048
"""Edge in pixels of the largest tile; labels do not depend on it."""


def open_model(
    model: str | Path,
    *,
    provider: ProviderChoice = "auto",
    device: str | None = None,
    threads: int | None = None,
) -> Session:
    """Open a model, and make sure that it gives the labels here that it gave when it was exported.

    Args:
        model: a file that matseg-export wrote, or `zoo:NAME`.
        provider: where the network runs; `auto` takes the best that works.
        device: `cpu`, `cuda:N`, or several GPUs as in `cuda:0,cuda:1`; None: the first of the provider.
        threads: None: all cores this process may use.

    Returns:
        The open model; `model.model.metadata.classes` has the names and colours of its classes.

    Raises:
        ModelError: the file cannot be used.
        UnsupportedError: this machine cannot run it, or gives other labels.
    """
    from matseg_runtime.inference.providers import Devices
    from matseg_runtime.inference.session import Session
    from matseg_runtime.model.file import choose_model, read_model

    path, trust = choose_model(Path(model), None)
    devices = None if device is None else Devices.parse(device)
    session = Session.open(read_model(path, trust), provider=provider, devices=devices, threads=threads)
    session.require_self_test()
    return session


def segment(
    model: Session, image: NDArray[Any], *, window: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Label one image, whatever its size.

    Args:
        model: from `open_model`.
        image: (H, W) or (H, W, C), in the dtype that the model takes; for a model with context a slice with its
            neighbours as channels, slice by slice in the order of the volume.
        window: intensities that become the model's darkest and brightest, for images of another dtype or range.

    Returns:
        (H, W) uint8 class indices; 255 where the image is NaN, which is no data.

    Raises:
        ImageError: the image does not fit the model.
    """
    import numpy as np

    from matseg_runtime.inference.tiles import segment_images
    from matseg_runtime.source.transform import Transform, Window, join_converted, not_numbers
    from matseg_shared.contract.classes import UNLABELLED
    from matseg_shared.errors import ImageError
    from matseg_shared.images.channels import pick_channels

    if not np.size(image):
        raise ImageError("the image", f"holds no pixels: its shape is {np.shape(image)}")
    info = model.model.metadata.input
    transform = Transform(info=info.of_slice, window=None if window is None else Window(*window))
    image = np.asarray(image)
    slices = 2 * info.context + 1
    if info.context and (image.ndim != 3 or image.shape[-1] != info.channels):
        raise ImageError(
            "the image",
            f"expected {info.channels} channels, of a slice with {info.context} neighbours on either side, found the "
            f"shape {image.shape}; label a volume with run_job",
        )
    if image.ndim == 3 and image.shape[-1] != info.channels:
        image = pick_channels(image, info.picked, "the image")
    parts = np.split(image, slices, axis=-1) if info.context else [image]
    absent = [not_numbers(part) for part in parts]
    converted = [transform.convert(part, "the image", gone) for part, gone in zip(parts, absent, strict=True)]
    pixels = join_converted(converted, absent, info.mean)
    labels = segment_images(model, [pixels], tile=(_TILE, _TILE), batch=1)[0].labels
    if (gone := absent[info.context]) is not None:
        labels[gone] = UNLABELLED
    return labels


def run_job(
    model: str | Path, input: str | Path, output: str | Path | None = None, **options: Any
) -> Summary:
    """Label every slice of an input, as `matseg-run` does; goes on where an earlier run stopped.

    Args:
        model: a file that matseg-export wrote, or `zoo:NAME`.
        input: a folder of images, or a volume.
        output: a folder, or a volume such as `labels.zarr`; None: a folder beside the input.
        options: fields of `matseg_runtime.run.options.RunOptions`, such as `memory=2_000_000_000`.

    Returns:
        What became of it; `summary.report` is what `report.json` holds.

    Raises:
        MatsegError: as the command does.
    """
    from matseg_runtime.model.file import choose_model
    from matseg_runtime.run.job import run_job as run_options
    from matseg_runtime.run.options import RunOptions
    from matseg_runtime.sink.target import OutputOptions

    path, trust = choose_model(Path(model), None)
    target = OutputOptions(path=None if output is None else Path(output))
    return run_options(RunOptions(model=path, input=str(input), trust=trust, output=target, **options))
