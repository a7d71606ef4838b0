"""Volumes that ITK writes, and labels as it reads them: ITK-SNAP and 3D Slicer are made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from ome_images import VOLUME

from matseg_runtime.cli.run import run_main
from matseg_runtime.source.open import open_source

Ask = Callable[..., Any]
PLAIN = ("scan.mhd", "scan.mha", "scan.nrrd", "scan.nhdr", "scan.nii")
PACKED = ("packed.mhd", "packed.mha", "packed.nrrd", "packed.nhdr", "packed.nii.gz")


@pytest.fixture(scope="module")
def scans(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("itk")
    np.save(folder / "volume.npy", VOLUME)
    ask("itk_images.py", "write", folder / "volume.npy", *(folder / name for name in (*PLAIN, *PACKED)))
    return folder


@pytest.mark.parametrize("name", [*PLAIN, *PACKED])
def test_what_itk_writes_is_read(scans: Path, name: str) -> None:
    source = open_source(str(scans / name))
    np.testing.assert_array_equal(np.stack(source.read(0, len(VOLUME))), VOLUME)
    assert str(source.voxel_size()) == "3 x 0.5 x 0.5 mm"


def test_itk_shows_labels_where_the_turned_volume_is(ask: Ask, scans: Path, model: Path) -> None:
    suffixes = (".mhd", ".mha", ".nrrd", ".nii")
    outputs = [scans / f"{name}_labels{suffix}" for name in (*PLAIN, *PACKED) for suffix in suffixes]
    for output in outputs:
        arguments = [model, scans / output.name.partition("_labels")[0], "-o", output, "--no-report"]
        done = CliRunner().invoke(run_main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
    found = ask("itk_images.py", "read", *outputs)
    for item in found:
        assert item["labels"] == found[0]["labels"]
        np.testing.assert_allclose(item["spacing"], (0.5, 0.5, 3))
        np.testing.assert_allclose(item["origin"], (1, 2, 3))
        np.testing.assert_allclose(item["direction"], (0, -1, 0, 1, 0, 0, 0, 0, 1))
