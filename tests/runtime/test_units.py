"""Voxel sizes: what users write, what files say, and who is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx_models
import pytest
import tifffile
import zarr

from matseg_runtime.sink.base import LabelInfo
from matseg_runtime.sink.imagej import tiff_tags
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.open import open_source
from matseg_runtime.units import (
    VoxelSize,
    choose_voxel_size,
    ome_unit,
    parse_voxel_size,
    uneven_warning,
    unit_of,
    voxel_of_model,
)
from matseg_shared.contract.metadata import PixelSize
from matseg_shared.errors import UsageError

VOLUME = np.zeros((3, 4, 5), np.uint8)


def _sizes(voxel: VoxelSize | None) -> tuple[float | None, float, float, str] | None:
    return (
        None
        if voxel is None
        else (voxel.step, pytest.approx(voxel.row), pytest.approx(voxel.column), voxel.unit)
    )


@pytest.mark.parametrize(
    ("text", "axis", "expected"),
    [
        ("0.65um", 0, (0.65, 0.65, 0.65, "um")),
        (" 1.3 , 0.65 µm ", 0, (1.3, 0.65, 0.65, "um")),
        ("1.3,0.65um", 1, (1.3, 0.65, 0.65, "um")),
        ("1.3,0.65um", 2, (1.3, 0.65, 0.65, "um")),
        ("3,2,1nm", 0, (3, 2, 1, "nm")),
        ("3,2,1 nm", 1, (2, 3, 1, "nm")),
        ("3,2,1 nanometer", 2, (1, 3, 2, "nm")),
        ("6.5e-1 micron", 0, (0.65, 0.65, 0.65, "um")),
        ("2 Å", 0, (2, 2, 2, "angstrom")),
        ("1e-6m", 0, (1e-6, 1e-6, 1e-6, "m")),
    ],
)
def test_what_users_write(text: str, axis: int, expected: tuple[Any, ...]) -> None:
    found = parse_voxel_size(text, axis)
    assert (found.step, found.row, found.column, found.unit) == expected
    assert found.origin == "--voxel-size"


@pytest.mark.parametrize("was", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cut_along_another_axis(was: int, axis: int) -> None:
    """Sizes given for slices along one axis mean the same voxels along every other."""
    said, wanted = parse_voxel_size("3,2,1nm", was), parse_voxel_size("3,2,1nm", axis)
    assert said.cut_along(axis, was) == wanted
    flat = VoxelSize(step=None, row=2, column=1, unit="nm", origin="a photograph")
    assert flat.cut_along(axis, was) == (flat if axis == was else None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "um",
        "0.65",
        "0.65 pixel",
        "0um",
        "-1um",
        "1,2,3,4um",
        "1,,2um",
        "nan um",
        "1e999um",
        "1e300um",
        "1e-300um",
        "1 furlong",
        "1.2.3um",
    ],
)
def test_what_is_no_voxel_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected the edge of a voxel with its unit .*0\.65um"):
        parse_voxel_size(text)


def test_units() -> None:
    assert [unit_of(text) for text in ("micrometer", "\\u00B5m", "MICRON", "inch", "pixel", "", None)] == [
        *("um", "um", "um", "inch"), None, None, None,
    ]  # fmt: skip
    assert ome_unit("um") == "micrometer"


def test_the_user_goes_before_the_input_before_the_model() -> None:
    user, found = parse_voxel_size("2um"), parse_voxel_size("1um")
    model = voxel_of_model(PixelSize(value=1000, unit="nm"))
    assert choose_voxel_size(user, found, model)[0] is user
    assert choose_voxel_size(None, found, model) == (found, None), "1 um is 1000 nm"
    assert choose_voxel_size(None, None, model) == (model, None)
    assert choose_voxel_size(None, None, None) == (None, None)
    _, warning = choose_voxel_size(user, found, model)
    assert warning is not None
    assert "trained on pixels of 1000 nm, these are of 2 x 2 um (--voxel-size says so)" in warning
    assert voxel_of_model(PixelSize(value=3, unit="pixel")) is None


def _imagej(path: Path, **metadata: Any) -> Path:
    tifffile.imwrite(path, VOLUME, imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", **metadata})
    return path


def test_tiff_of_imagej(tmp_path: Path) -> None:
    path = _imagej(tmp_path / "a.tif", unit="micron", spacing=1.5)
    source = open_source(str(path))
    assert _sizes(source.voxel_size()) == (1.5, 0.5, 0.25, "um")
    assert source.volume is not None
    assert source.volume.spacing is not None
    assert source.volume.spacing.units == ("micrometer",) * 3, "as OME-Zarr outputs spell it"
    source.close()
    across = open_source(str(path), SourceOptions(axis=1))
    assert _sizes(across.voxel_size()) == (0.5, 1.5, 0.25, "um")
    across.close()


@pytest.mark.parametrize(
    ("said", "step", "edge", "unit"),
    [
        ("2,0.5um", "2", (2, 1), "micron"),
        ("3e-10,2e-10m", "300", (1, 200), "pm"),
        ("3e7,2e7nm", "30", (1, 20), "mm"),
    ],
)
def test_tiffs_of_labels_hold_any_size(
    said: str, step: str, edge: tuple[int, int], unit: str, tmp_path: Path
) -> None:
    """A TIFF has 32 bits for pixels per unit: ten thousand million per metre are written per picometre."""
    metadata = onnx_models.build_metadata()
    tags = tiff_tags(LabelInfo(metadata=metadata, provenance="{}", voxel=parse_voxel_size(said)), slices=3)
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, **tags)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.tags["XResolution"].value == edge
        assert f"unit={unit}\nspacing={step}\n" in tiff.pages.first.description


def test_tiffs_of_labels_without_room_for_the_size() -> None:
    voxel = parse_voxel_size("1,1e-9,1m")
    tags = tiff_tags(LabelInfo(metadata=onnx_models.build_metadata(), provenance="{}", voxel=voxel), slices=3)
    assert "resolution" not in tags
    assert "unit=" not in tags["description"]


def test_tiff_of_imagej_without_a_distance_of_pages_or_without_a_unit(tmp_path: Path) -> None:
    known = open_source(str(_imagej(tmp_path / "a.tif", unit="um")))
    assert _sizes(known.voxel_size()) == (None, 0.5, 0.25, "um")
    assert known.volume is not None
    assert known.volume.spacing is None, "a distance nobody knows must not become 1"
    known.close()
    unknown = open_source(str(_imagej(tmp_path / "b.tif")))
    assert unknown.voxel_size() is None
    unknown.close()


def test_tiff_of_ome(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(
        path, VOLUME, metadata={**metadata, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    )
    source = open_source(str(path))
    assert _sizes(source.voxel_size()) == (2.0, 0.3, 0.2, "um")
    source.close()


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20_000, 20_000), "CENTIMETER", (None, 5e-5, 5e-5, "cm")),
        ((50_800, 25_400), "INCH", (None, 1 / 25_400, 1 / 50_800, "inch")),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((118.11, 118.11), "CENTIMETER", None),
        ((5, 5), "NONE", None),
    ],
)
def test_resolution_tags_of_microscopes_and_of_printers(
    tmp_path: Path, resolution: tuple[float, float], unit: str, expected: tuple[Any, ...] | None
) -> None:
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(
            tmp_path / name,
            VOLUME[0],
            resolution=resolution,
            resolutionunit=tifffile.RESUNIT[unit],
            metadata=None,
        )
    assert _sizes(open_source(str(tmp_path)).voxel_size()) == expected


def test_a_folder_whose_images_disagree(tmp_path: Path) -> None:
    for name, dots in (("a.tif", 20_000), ("b.tif", 10_000)):
        tifffile.imwrite(tmp_path / name, VOLUME[0], resolution=(dots, dots), resolutionunit=3, metadata=None)
    assert open_source(str(tmp_path)).voxel_size() is None


def test_hdf5_of_fiji_and_ilastik(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("good", data=VOLUME).attrs["element_size_um"] = [2.0, 0.5, 0.25]
        file.create_dataset("bad", data=VOLUME).attrs["element_size_um"] = "large"
        file.create_dataset("vast", data=VOLUME).attrs["element_size_um"] = [1e308] * 3
        file.create_dataset("tiny", data=VOLUME).attrs["element_size_um"] = [1e-320] * 3
    for name, expected in (("good", (2.0, 0.5, 0.25, "um")), ("bad", None), ("vast", None), ("tiny", None)):
        source = open_source(f"{tmp_path / 'a.h5'}::/{name}")
        assert _sizes(source.voxel_size()) == expected
        assert source.volume is not None
        assert (source.volume.spacing is None) == (expected is None)
        source.close()


@pytest.mark.parametrize(("unit", "expected"), [("micrometer", (2.0, 0.5, 0.25, "um")), (None, None)])
def test_ome_zarr(tmp_path: Path, unit: str | None, expected: tuple[Any, ...] | None) -> None:
    axes = [{"name": name, "type": "space", **({} if unit is None else {"unit": unit})} for name in "zyx"]
    scale = {"type": "scale", "scale": [2.0, 0.5, 0.25]}
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    group = zarr.create_group(
        str(tmp_path / "a.zarr"), attributes={"ome": {"version": "0.5", "multiscales": [image]}}
    )
    group.create_array("0", data=VOLUME)
    assert _sizes(open_source(str(tmp_path / "a.zarr")).voxel_size()) == expected


def test_slices_along_several_axes_of_voxels_that_are_no_cubes() -> None:
    cube = VoxelSize(step=2.0, row=2.0, column=2.0, unit="um", origin="the input")
    assert uneven_warning(cube, 0, (0, 1, 2)) is None
    flat = replace(cube, step=5.0)
    assert "slices along axis 1 have pixels 5 um high and 2 wide" in str(uneven_warning(flat, 0, (0, 1)))
    assert "slices along axis 2 have pixels 2 um high and 5 wide" in str(uneven_warning(flat, 1, (1, 2)))
    unknown = replace(cube, step=None)
    assert "how far apart the slices along axis 0 are is not known" in str(uneven_warning(unknown, 0, (0, 2)))
