"""Labels as other programs see them, by those programs' own packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from ome_images import VOLUME, make_image

from matseg_runtime.cli.run import run_main

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def seen(ask: Ask, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both readers' view of labels in an image of version 0.4 and of 0.5, and of labels alone."""
    folder = tmp_path_factory.mktemp("zarrs")
    paths = {}
    for version in ("0.4", "0.5"):
        image = make_image(folder / f"{version}.ome.zarr", version, consolidated=version == "0.4")
        _label(model, image, "--label", "phases")
        paths[version] = image
    paths["alone"] = folder / "out" / "labels.zarr"
    _label(model, paths["0.5"], "-o", paths["alone"], "--pyramid")
    return dict(zip(paths, ask("open_zarrs.py", *paths.values()), strict=True))


def _label(*arguments: object) -> None:
    done = CliRunner().invoke(run_main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_napari_shows_image_and_labels_together(
    version: str, seen: dict[str, Any], expected: NDArray[Any]
) -> None:
    shown, labels = seen[version]["napari"]
    assert [shown["kind"], labels["kind"]] == ["image", "labels"]
    assert shown["total"] == int(VOLUME.astype(np.int64).sum())
    assert labels["total"] == int(expected.astype(np.int64).sum())
    assert labels["shapes"] == shown["shapes"]
    for key in ("scale", "translate", "units"):
        assert labels[key] == shown[key]
    assert labels["classes"] == ["phase 0", "phase 1", "phase 2"]
    assert labels["colours"]["1"] == pytest.approx([230 / 255, 159 / 255, 0, 1])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_reads_them(version: str, seen: dict[str, Any], expected: NDArray[Any]) -> None:
    image, labels = seen[version]["ome_zarr"][0], seen[version]["ome_zarr"][-1]
    assert labels["total"] == int(expected.astype(np.int64).sum())
    assert labels["shapes"] == image["shapes"]
    assert set(labels["colours"]) == {"0", "1", "2", "255"}  # the last for no data


def test_labels_of_their_own(seen: dict[str, Any], expected: NDArray[Any]) -> None:
    """The usual output is a label image without an image."""
    (layer,) = seen["alone"]["napari"]
    assert layer["kind"] == "labels"
    assert layer["total"] == int(expected.astype(np.int64).sum())
    assert layer["scale"] == [0.002, 0.0013, 0.0013]
