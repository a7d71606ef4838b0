"""Ways in which inputs come in, and what must come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest
from numpy.typing import NDArray

from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.open import open_source
from matseg_shared.errors import ImageError, MatsegError
from matseg_shared.images.read import read_image


def direct(model: Path, image: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels of (H, W) or (H, W, 3) pixels straight from onnxruntime, padded here and not by the runtime."""
    height, width = image.shape[:2]
    channels = image[np.newaxis] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    margins = ((0, 0), (0, -height % onnx_models.STRIDE), (0, -width % onnx_models.STRIDE))
    padded = np.pad(channels, margins, mode="reflect")
    return onnx_models.run_graph(onnx.load(model), padded[np.newaxis])[0][0, :height, :width]


def stored(path: Path | str, **options: Any) -> NDArray[Any]:
    """All slices of an input as the runtime reads them."""
    source = open_source(str(path), SourceOptions(**options))
    try:
        return np.stack(list(source.read(0, len(source.slices))))
    finally:
        source.close()


def refusal(path: Path | str, **options: Any) -> str:
    """Reason for which an input is refused, by whichever way it comes in; one sentence that names the file."""
    with pytest.raises(MatsegError) as caught:
        stored(path, **options)
    message = str(caught.value)
    assert Path(path).name.partition("::")[0] in message
    assert "\n" not in message
    return message


def refusal_of_image(path: Path) -> str:
    """Reason for which one image of a folder is refused; the trainer reads its images in the same way."""
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)
