"""Arrays in zarr, HDF5 and npy: every dtype, order and axis as it is meant, or a refusal; nothing filled in unasked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ways_in import direct, refusal, stored

VOLUME = np.random.default_rng(0).integers(0, 128, (6, 24, 32)).astype(np.uint8)
FORMATS = ("npy", "zarr2", "zarr3", "hdf5")


def save(folder: Path, format_: str, array: np.ndarray, **options: Any) -> Path:
    """Write an array as `scan` in a format."""
    if format_ == "npy":
        np.save(folder / "scan.npy", array)
        return folder / "scan.npy"
    if format_ == "hdf5":
        h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
        with h5py.File(folder / "scan.h5", "w") as file:
            file.create_dataset("data", data=array, **options)
        return folder / "scan.h5"
    path = folder / "scan.zarr"
    zarr.create_array(str(path), data=array, zarr_format=int(format_[-1]), overwrite=True, **options)
    return path


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "dtype", ["int8", "int16", ">i2", ">u2", "uint32", "int64", "float16", ">f4", "float64"]
)
def test_array_of_any_dtype_and_byte_order_keeps_its_values(tmp_path: Path, format_: str, dtype: str) -> None:
    found = stored(save(tmp_path, format_, VOLUME.astype(dtype)))
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, VOLUME)


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float16", "float64", "uint16"])
def test_array_of_another_dtype_than_the_model_s_needs_a_window(
    tmp_path: Path, models, run, labels, dtype: str
) -> None:
    path = save(tmp_path, "npy", VOLUME.astype(dtype))
    refused = run(models(), path, "-o", tmp_path / "out")
    assert refused.exit_code == 2
    assert f"has {dtype} pixels, this model takes uint8; map them with --window LO,HI" in refused.output
    assert not (tmp_path / "out").exists()
    for found, image in zip(labels(models(), path, "--window", "0,255"), VOLUME, strict=True):
        np.testing.assert_array_equal(found, direct(models(), image))


@pytest.mark.parametrize("format_", FORMATS)
def test_array_of_complex_numbers_is_refused(tmp_path: Path, format_: str) -> None:
    message = refusal(save(tmp_path, format_, VOLUME.astype(np.complex64)))
    assert "expected an array of numbers, found complex64" in message


@pytest.mark.parametrize("dtype", ["U4", "S3", "V2", "M8[s]", [("red", "u1")]])
def test_array_of_text_times_or_records_is_refused(tmp_path: Path, dtype: Any) -> None:
    assert "expected an array of numbers, found" in refusal(
        save(tmp_path, "npy", np.zeros((2, 24, 32), dtype))
    )


def test_zarr_of_bfloat16_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "zarr3", VOLUME.astype(np.uint16))
    document = tmp_path / "scan.zarr" / "zarr.json"
    document.write_text(document.read_text().replace('"uint16"', '"bfloat16"'))
    assert "expected a zarr array or group, found" in refusal(tmp_path / "scan.zarr")


@pytest.mark.parametrize("format_", FORMATS)
def test_array_of_true_and_false_is_black_and_white(tmp_path: Path, format_: str) -> None:
    found = stored(save(tmp_path, format_, VOLUME > 60))
    np.testing.assert_array_equal(found, np.where(VOLUME > 60, 255, 0))


def test_npy_in_fortran_order_is_not_transposed(tmp_path: Path, models, labels) -> None:
    path = save(tmp_path, "npy", np.asfortranarray(VOLUME))
    assert b"'fortran_order': True" in path.read_bytes()[:128]
    for found, image in zip(labels(models(), path), VOLUME, strict=True):
        np.testing.assert_array_equal(found, direct(models(), image))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("channels", [2, 4])
def test_array_with_alpha_is_not_cut_into_strips(tmp_path: Path, format_: str, channels: int) -> None:
    image = np.moveaxis(VOLUME[:channels], 0, -1)
    path = save(tmp_path, format_, image)
    message = refusal(path)
    assert f"an image with an alpha channel or a volume of slices {channels} pixels wide" in message
    np.testing.assert_array_equal(stored(path, axis=0), image)


def test_array_with_its_colours_first_is_not_taken_for_three_slices(tmp_path: Path) -> None:
    for array in (VOLUME[:3], VOLUME[np.newaxis, :3]):
        path = save(tmp_path, "npy", array)
        assert "an image with its 3 colours first or a volume of 3 slices" in refusal(path)
        np.testing.assert_array_equal(stored(path, axis=0), VOLUME[:3])


def test_array_with_one_channel_last_is_grey(tmp_path: Path) -> None:
    np.testing.assert_array_equal(stored(save(tmp_path, "npy", VOLUME[0][..., np.newaxis])), VOLUME[:1])
    np.testing.assert_array_equal(stored(save(tmp_path, "npy", VOLUME[..., np.newaxis])), VOLUME)


def name_axes(path: Path, names: Sequence[str], array: np.ndarray) -> Path:
    """A zarr v3 array with named dimensions."""
    zarr.create_array(str(path), data=array, dimension_names=names)
    return path


def ome(path: Path, names: Sequence[str], array: np.ndarray) -> Path:
    """An OME-Zarr image with these axes."""
    root = zarr.open_group(str(path), mode="w")
    root.create_array("0", data=array)
    steps = [{"type": "scale", "scale": [1.0] * array.ndim}]
    image = {
        "axes": [{"name": name} for name in names],
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }
    root.attrs.put({"ome": {"version": "0.5", "multiscales": [image]}})
    return path


@pytest.mark.parametrize("make", [name_axes, ome])
@pytest.mark.parametrize(
    ("names", "shape", "told"),
    [
        ("xyz", (6, 24, 32), "expected its axes in the order z, y, x, found x, y, z"),
        ("zxy", (6, 24, 32), "expected its axes in the order z, y, x, found z, x, y"),
        ("tzyx", (2, 3, 24, 32), "with the axes t,z,y,x"),
    ],
)
def test_zarr_whose_axes_are_named_otherwise_is_refused(
    tmp_path: Path, make: Any, names: str, shape: tuple[int, ...], told: str
) -> None:
    assert told in refusal(make(tmp_path / "scan.zarr", names, VOLUME.reshape(shape)))


@pytest.mark.parametrize("make", [name_axes, ome])
def test_zarr_whose_axes_are_named_is_read_by_their_names(tmp_path: Path, make: Any) -> None:
    three = VOLUME[:3]
    np.testing.assert_array_equal(stored(make(tmp_path / "a.zarr", "zyx", three)), three)
    colours = stored(make(tmp_path / "b.zarr", "czyx", VOLUME.reshape(3, 2, 24, 32)))
    np.testing.assert_array_equal(colours, np.moveaxis(VOLUME.reshape(3, 2, 24, 32), 0, -1))
    two = VOLUME.reshape(2, 3, 24, 32)
    np.testing.assert_array_equal(stored(make(tmp_path / "two.zarr", "czyx", two)), np.moveaxis(two, 0, -1))
    np.testing.assert_array_equal(stored(make(tmp_path / "c.zarr", "tczyx", VOLUME[None, None])), VOLUME)
    if make is name_axes:
        np.testing.assert_array_equal(stored(make(tmp_path / "d.zarr", "tyx", VOLUME)), VOLUME)


def test_zarr_chunk_that_is_missing_is_not_filled_in_unasked(tmp_path: Path) -> None:
    path = save(tmp_path, "zarr3", VOLUME, chunks=(2, 24, 32), fill_value=7)
    (path / "c" / "1" / "0" / "0").unlink()
    assert "its chunk c/1/0/0 is missing" in refusal(path)
    np.testing.assert_array_equal(stored(path, fill_missing_chunks=True)[2:4], np.full((2, 24, 32), 7))


def test_hdf5_chunk_that_was_never_written_is_not_filled_in_unasked(
    tmp_path: Path, models, run, labels
) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (6, 24, 32), "u1", chunks=(2, 12, 32), fillvalue=9)
        data[:4] = VOLUME[:4]
        data[4:, :12] = VOLUME[4:, :12]
    assert "its chunk at (4, 12, 0) was never written, so that HDF5 would fill in 9" in refusal(path)
    result = run(models(), path, "-o", tmp_path / "out")
    assert result.exit_code == 4, result.output
    assert result.output.count("was never written") == 2  # the other four are labelled
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png"))[-1] == "scan_0003.png"
    filled = VOLUME.copy()
    filled[4:, 12:] = 9
    for found, image in zip(labels(models(), path, "--fill-missing-chunks"), filled, strict=True):
        np.testing.assert_array_equal(found, direct(models(), image))


def test_hdf5_dataset_that_was_never_written_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    for chunks, message in (
        (None, "nothing was written into it"),
        ((2, 24, 32), "its chunk at (0, 0, 0) was never written"),
    ):
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            file.create_dataset("data", (6, 24, 32), "u1", chunks=chunks)
        assert f"{message}, so that HDF5 would fill in 0" in refusal(tmp_path / "scan.h5")
        assert not stored(tmp_path / "scan.h5", fill_missing_chunks=True).any()


def test_hdf5_virtual_dataset_with_a_file_missing_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    layout = h5py.VirtualLayout((6, 24, 32), "u1")
    for number in range(2):
        with h5py.File(tmp_path / f"part{number}.h5", "w") as file:
            file["data"] = VOLUME[3 * number : 3 * number + 3]
        layout[3 * number : 3 * number + 3] = h5py.VirtualSource(f"part{number}.h5", "data", (3, 24, 32))
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(stored(tmp_path / "scan.h5"), VOLUME)
    (tmp_path / "part1.h5").unlink()
    assert "takes values from part1.h5, which is not there" in refusal(tmp_path / "scan.h5")
    np.testing.assert_array_equal(stored(tmp_path / "scan.h5", fill_missing_chunks=True)[:3], VOLUME[:3])


def test_hdf5_filters_are_undone_and_scale_attributes_change_no_value(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    options = {"chunks": (2, 24, 32), "scaleoffset": True, "shuffle": True, "compression": "gzip"}
    path = save(tmp_path, "hdf5", VOLUME.astype(">i2"), **options)
    with h5py.File(path, "a") as file:
        file["data"].attrs.update({"scale_factor": 0.1, "add_offset": -5.0, "MinMax": (0.0, 1.0)})
    np.testing.assert_array_equal(stored(path), VOLUME)


def test_hdf5_image_that_says_zero_is_white_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    path = save(tmp_path, "hdf5", VOLUME)
    with h5py.File(path, "a") as file:
        file["data"].attrs["IMAGE_WHITE_IS_ZERO"] = np.uint8(1)
    assert "says that zero is white" in refusal(path)
