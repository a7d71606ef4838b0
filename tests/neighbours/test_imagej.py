"""TIFFs of labels as ImageJ and Fiji read them, by tifffile's reading of ImageJ's own format.

ImageJ itself is no Python package; that it shows these files with slices, class colours and voxel size is looked at
by hand (docs/neighbours.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import Result
from numpy.typing import NDArray
from ome_images import VOLUME, make_image

from matseg_runtime.source.open import open_source

Run = Callable[..., Result]


def test_a_stack(run: Run, tmp_path: Path, model: Path, expected: NDArray[Any]) -> None:
    """Slices, not channels or times; class colours; the voxel size of the input."""
    image = make_image(tmp_path / "scan.ome.zarr", "0.5")
    assert run(model, image, "-o", tmp_path / "labels.tif").exit_code == 0
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        assert tiff.is_imagej
        (series,) = tiff.series
        assert (series.axes, series.shape) == ("ZYX", VOLUME.shape)
        np.testing.assert_array_equal(series.asarray(), expected)
        told = tiff.imagej_metadata
        assert (told["unit"], told["spacing"], told["images"]) == ("mm", 0.002, 12)
        page = tiff.pages.first
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
        assert (page.colormap[:, 1] >> 8).tolist() == [230, 159, 0]
        top, bottom = page.tags["XResolution"].value
        assert bottom / top == pytest.approx(0.0013)
        # ImageJ reads all slices from behind the first page, without looking for the others
        starts = [page.dataoffsets[0] for page in tiff.pages]
        assert np.diff(starts).tolist() == [VOLUME[0].size] * 11
    again = open_source(str(tmp_path / "labels.tif"))
    assert again.volume is not None
    assert again.volume.spacing is not None
    assert again.volume.spacing.scale == pytest.approx((0.002, 0.0013, 0.0013))
    again.close()


def test_an_image_per_slice(run: Run, tmp_path: Path, model: Path, expected: NDArray[Any]) -> None:
    image = make_image(tmp_path / "scan.ome.zarr", "0.5")
    assert run(model, image, "-o", tmp_path / "labels", "--format", "tiff").exit_code == 0
    with tifffile.TiffFile(tmp_path / "labels" / "scan_0003.tif") as tiff:
        assert tiff.imagej_metadata["unit"] == "mm"
        assert tiff.series[0].axes == "YX"
        np.testing.assert_array_equal(tiff.asarray(), expected[3])


def test_without_a_voxel_size_nothing_is_said(run: Run, tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    assert run(model, tmp_path / "scan.npy", "-o", tmp_path / "labels.tif").exit_code == 0
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        assert {"unit", "spacing"}.isdisjoint(tiff.imagej_metadata)
        assert tiff.pages.first.tags["XResolution"].value == (1, 1)
