"""Place and scale of OME-Zarr outputs: for every input, axis, range and word of the user, those of the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import Result
from PIL import Image

from matseg_runtime.source.open import open_source
from matseg_shared.contract.metadata import PixelSize
from matseg_shared.contract.onnx_properties import encode

Run = Callable[..., Result]
VOLUME = onnx_models.random_pixels((6, 40, 52), "uint8", 1)
COLOURS = onnx_models.random_pixels((40, 52, 3), "uint8", 1)
UM = "micrometer"


def _npy(path: Path) -> Path:
    np.save(path / "scan.npy", VOLUME)
    return path / "scan.npy"


def _folder(path: Path) -> Path:
    (path / "scan").mkdir()
    for number, image in enumerate(VOLUME):
        Image.fromarray(image).save(path / "scan" / f"s{number}.png")
    return path / "scan"


def _tiff(path: Path, pixels: Any = VOLUME, **metadata: Any) -> Path:
    tifffile.imwrite(
        path / "scan.tif", pixels, imagej=True, resolution=(4, 2), metadata={"unit": "um", **metadata}
    )
    return path / "scan.tif"


def _page(path: Path) -> Path:
    return _tiff(path, VOLUME[0])


def _stack(path: Path) -> Path:
    return _tiff(path, spacing=1.5, axes="ZYX")


def _pages(path: Path) -> Path:
    return _tiff(path, axes="ZYX")


def _colour_hdf5(path: Path) -> Path:
    with h5py.File(path / "scan.h5", "w") as file:
        file.create_dataset("a", data=COLOURS).attrs["element_size_um"] = [9.0, 0.5, 0.25]
    return path / "scan.h5"


def _ome(
    path: Path, units: tuple[str | None, ...] = (UM,) * 3, sizes: tuple[float, ...] = (2, 0.5, 0.5)
) -> Path:
    axes = [
        {"name": name, "type": "space"} | ({} if unit is None else {"unit": unit})
        for name, unit in zip("zyx", units, strict=True)
    ]
    steps = [
        {"type": "scale", "scale": list(sizes)},
        {"type": "translation", "translation": [10.0, 0.0, 1.0]},
    ]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    group = zarr.create_group(
        str(path / "scan.zarr"), attributes={"ome": {"version": "0.5", "multiscales": [image]}}
    )
    group.create_array("0", data=VOLUME)
    return path / "scan.zarr"


def _ome_of_two_units(path: Path) -> Path:
    return _ome(path, ("nanometer", UM, UM), (2000, 0.5, 0.5))


def _ome_without_units(path: Path) -> Path:
    return _ome(path, (None,) * 3)


NOUGHT = [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "options", "scale", "units", "translation"),
    [
        (_npy, [], [1, 1, 1], [None] * 3, NOUGHT),
        (_npy, ["--range", "2:5"], [1, 1, 1], [None] * 3, [2, 0, 0]),
        (_npy, ["--voxel-size", "2,0.5,0.5um"], [2, 0.5, 0.5], [UM] * 3, NOUGHT),
        (_npy, ["--voxel-size", "2,1,3um", "--axis", "1", "--range", "7:"], [2, 1, 3], [UM] * 3, [0, 7, 0]),
        (_folder, [], [1, 1, 1], [None] * 3, NOUGHT),
        (_folder, ["--voxel-size", "0.5um"], [0.5] * 3, [UM] * 3, NOUGHT),
        (_page, [], [0.5, 0.5, 0.25], [None, UM, UM], NOUGHT),
        (_stack, ["--range", "1:"], [1.5, 0.5, 0.25], [UM] * 3, [1.5, 0, 0]),
        (_pages, ["--range", "1:"], [0.5, 0.5, 0.25], [None, UM, UM], [0.5, 0, 0]),
        (_colour_hdf5, [], [0.5, 0.5, 0.25], [None, UM, UM], NOUGHT),
        (_ome, ["--range", "1:"], [2, 0.5, 0.5], [UM] * 3, [12, 0, 1]),
        (_ome, ["--axis", "2", "--range", "4:"], [2, 0.5, 0.5], [UM] * 3, [10, 0, 3]),
        (_ome, ["--range", "1:", "--voxel-size", "4,1,1nm"], [4, 1, 1], ["nanometer"] * 3, [24, 0, 2]),
        (_ome_of_two_units, [], [2000, 0.5, 0.5], ["nanometer", UM, UM], [10, 0, 1]),
        (_ome_without_units, [], [2, 0.5, 0.5], [None] * 3, [10, 0, 1]),
    ],
)
def test_labels_lie_where_their_input_does(
    run: Run,
    model: Path,
    tmp_path: Path,
    make: Callable[[Path], Path],
    options: list[str],
    scale: list[float],
    units: list[str | None],
    translation: list[float],
) -> None:
    if make is _colour_hdf5:
        model = onnx_models.save_model(tmp_path / "rgb_v1.onnx", channels=3, name="rgb_v1")
    out = tmp_path / "labels.zarr"
    result = run(model, make(tmp_path), "-o", out, *options)
    assert result.exit_code == 0, result.output
    assert _placed(out) == (pytest.approx(scale), units, pytest.approx(translation))
    report = json.loads((tmp_path / "labels.zarr.matseg" / "report.json").read_text())
    _require_voxel_of_report(out, report, options)


def _placed(path: Path) -> tuple[list[float], list[str | None], list[float]]:
    """The finest level, which has a scale and at most a translation of as many numbers as there are axes."""
    image = zarr.open_group(str(path), mode="r").attrs.asdict()["ome"]["multiscales"][0]
    steps = image["datasets"][0]["coordinateTransformations"]
    assert [step["type"] for step in steps] in (["scale"], ["scale", "translation"])
    values = [step[step["type"]] for step in steps]
    assert {len(value) for value in values} == {len(image["axes"])} == {3}
    return values[0], [axis.get("unit") for axis in image["axes"]], values[1] if len(values) > 1 else NOUGHT


def _require_voxel_of_report(out: Path, report: dict[str, Any], options: list[str]) -> None:
    """Labels say of themselves the same as the run's report."""
    axis = int(options[options.index("--axis") + 1]) if "--axis" in options else 0
    from matseg_runtime.source.base import SourceOptions

    labels = open_source(str(out), SourceOptions(axis=axis or None))
    found, told = labels.voxel_size(), report["voxel_size"]
    labels.close()
    if told is None:
        assert found is None
        return
    assert found is not None
    assert (found.row, found.column, found.unit) == (
        pytest.approx(told["row"]),
        pytest.approx(told["column"]),
        told["unit"],
    )
    assert found.step == (None if told["step"] is None else pytest.approx(told["step"]))


def test_the_pixel_size_of_a_model_is_no_distance_of_slices(run: Run, tmp_path: Path) -> None:
    graph = onnx_models.build_graph()
    metadata = onnx_models.build_metadata().model_copy(update={"pixel_size": PixelSize(value=1.3, unit="µm")})
    model = onnx_models.save(
        graph, encode(metadata, onnx_models.self_test_of(graph, 1, "uint8")), tmp_path / "m.onnx"
    )
    assert run(model, _npy(tmp_path), "-o", tmp_path / "labels.zarr").exit_code == 0
    assert _placed(tmp_path / "labels.zarr") == ([1.3] * 3, [None, UM, UM], NOUGHT)


def test_another_voxel_size_is_another_job_where_it_is_in_the_files(
    run: Run, model: Path, tmp_path: Path
) -> None:
    command = (model, _npy(tmp_path), "-o", tmp_path / "labels.zarr")
    assert run(*command, "--voxel-size", "1um").exit_code == 0
    again = run(*command, "--voxel-size", "2um")
    assert again.exit_code == 2
    assert "voxels of 1 x 1 x 1 um then" in " ".join(again.output.split())


def test_levels_of_a_flat_volume_are_as_thick_as_it_is(run: Run, model: Path, tmp_path: Path) -> None:
    pixels = onnx_models.random_pixels((3, 1, 300), "uint8", 1)
    np.save(tmp_path / "scan.npy", pixels)
    out = tmp_path / "labels.zarr"
    result = run(model, tmp_path / "scan.npy", "-o", out, "--pyramid", "--voxel-size", "3,2,1um")
    assert result.exit_code == 0, result.output
    group = zarr.open_group(str(out), mode="r")
    datasets = group.attrs.asdict()["ome"]["multiscales"][0]["datasets"]
    found = [(group[item["path"]].shape, item["coordinateTransformations"][0]["scale"]) for item in datasets]
    assert found == [
        ((3, 1, 300), [3, 2, 1]),
        ((2, 1, 150), [6, 2, 2]),
        ((1, 1, 75), [12, 2, 4]),
        ((1, 1, 38), [12, 2, 8]),
    ]
