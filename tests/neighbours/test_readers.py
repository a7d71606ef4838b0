"""Labels as other programs see them, by those programs' own packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from ome_images import VOLUME, make_image

Ask = Callable[..., Any]
Run = Callable[..., Result]
pytestmark = pytest.mark.xdist_group("neighbours")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_napari_shows_image_and_labels_together(
    version: Any, ask: Ask, run: Run, tmp_path: Path, model: Path, expected: NDArray[Any]
) -> None:
    image = make_image(tmp_path / "scan.ome.zarr", version, consolidated=version == "0.4")
    assert run(model, image, "--label", "phases").exit_code == 0
    shown, labels = ask("napari_layers.py", image)
    assert [shown["kind"], labels["kind"]] == ["image", "labels"]
    assert shown["total"] == int(VOLUME.astype(np.int64).sum())
    assert labels["total"] == int(expected.astype(np.int64).sum())
    assert labels["shapes"] == shown["shapes"]
    for key in ("scale", "translate", "units"):
        assert labels[key] == shown[key]
    assert labels["classes"] == ["phase 0", "phase 1", "phase 2"]
    assert labels["colours"]["1"] == pytest.approx([230 / 255, 159 / 255, 0, 1])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_reads_them(
    version: Any, ask: Ask, run: Run, tmp_path: Path, model: Path, expected: NDArray[Any]
) -> None:
    image = make_image(tmp_path / "scan.ome.zarr", version)
    assert run(model, image, "--label", "phases").exit_code == 0
    found = ask("ome_zarr_nodes.py", image)
    labels = found[-1]
    assert labels["total"] == int(expected.astype(np.int64).sum())
    assert labels["shapes"] == found[0]["shapes"]
    assert set(labels["colours"]) == {"0", "1", "2"}


def test_labels_of_their_own(ask: Ask, run: Run, tmp_path: Path, model: Path, expected: NDArray[Any]) -> None:
    """The usual output is a label image without an image."""
    image = make_image(tmp_path / "scan.ome.zarr", "0.5")
    assert run(model, image, "-o", tmp_path / "out" / "labels.zarr", "--pyramid").exit_code == 0
    (layer,) = ask("napari_layers.py", tmp_path / "out" / "labels.zarr")
    assert layer["kind"] == "labels"
    assert layer["total"] == int(expected.astype(np.int64).sum())
    assert layer["scale"] == [0.002, 0.0013, 0.0013]
