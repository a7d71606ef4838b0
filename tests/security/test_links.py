"""Files named in content are read only where a reader would expect them; what is missing is never made up."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result

from matseg_runtime.cli.run import run_main
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.open import open_source
from matseg_runtime.source.zarr_chunks import refuse_object_codecs
from matseg_shared.errors import UsageError

VOLUME = onnx_models.random_pixels((4, 40, 44), "uint8", 1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(run_main, [str(argument) for argument in arguments])


def put(path: Path, name: str = "data") -> Path:
    """An HDF5 file with the volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[name] = VOLUME
    return path


def virtual(path: Path, source: str) -> Path:
    """A volume twice as deep, both halves from the file `source`."""
    layout = h5py.VirtualLayout((8, 40, 44), "uint8")
    for start in (0, 4):
        layout[start : start + 4] = h5py.VirtualSource(source, "data", VOLUME.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("entry", layout, fillvalue=7)
    return path


def linked(path: Path, target: str) -> Path:
    with h5py.File(path, "w") as file:
        file["entry"] = h5py.ExternalLink(target, "/data")
    return path


def raw(path: Path, target: str, size: int) -> Path:
    """A volume whose bytes are those of any file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("entry", (1, 1, size), "uint8", external=[(target, 0, size)])
    return path


@pytest.mark.parametrize("make", [virtual, linked])
def test_a_master_file_reads_what_lies_beside_and_below(make: object, tmp_path: Path, model: Path) -> None:
    put(tmp_path / "scan" / "raw" / "data_1.h5")
    master = make(tmp_path / "scan" / "master.h5", "raw/data_1.h5")  # type: ignore[operator]
    source = open_source(f"{master}::/entry")
    np.testing.assert_array_equal(source.read(0, 4), VOLUME)
    source.close()
    assert run(model, f"{master}::/entry", "-o", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("make", [virtual, linked])
@pytest.mark.parametrize("absolute", [True, False])
def test_files_elsewhere_need_a_word_of_the_user(
    make: object, absolute: bool, tmp_path: Path, model: Path
) -> None:
    secret = put(tmp_path / "home" / "secret.h5")
    (tmp_path / "scan").mkdir()
    target = str(secret) if absolute else "../home/secret.h5"
    master = make(tmp_path / "scan" / "master.h5", target)  # type: ignore[operator]
    result = run(model, f"{master}::/entry", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"takes values from {secret}, which does not lie in the folder of master.h5" in result.stderr
    assert not (tmp_path / "out").exists()
    assert run(model, f"{master}::/entry", "-o", tmp_path / "out", "--follow-links").exit_code == 0


def test_links_are_seen_through_the_files_they_lead_to(tmp_path: Path, model: Path) -> None:
    """The file beside is virtual itself."""
    put(tmp_path / "home" / "secret.h5")
    (tmp_path / "scan").mkdir()
    inner = virtual(tmp_path / "scan" / "inner.h5", "../home/secret.h5")
    with h5py.File(inner, "a") as file:
        file.move("entry", "data")
    layout = h5py.VirtualLayout((8, 40, 44), "uint8")
    layout[:] = h5py.VirtualSource("inner.h5", "data", (8, 40, 44))
    with h5py.File(tmp_path / "scan" / "outer.h5", "w") as file:
        file.create_virtual_dataset("entry", layout)
    result = run(model, tmp_path / "scan" / "outer.h5", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "secret.h5, which does not lie in the folder" in result.stderr


def test_the_bytes_of_any_file_are_no_pixels(tmp_path: Path, model: Path) -> None:
    """Raw storage outside makes labels of a password file, as it would of any."""
    secret = tmp_path / "secret.txt"
    secret.write_bytes(bytes(range(64)))
    (tmp_path / "scan").mkdir()
    result = run(model, raw(tmp_path / "scan" / "x.h5", str(secret), 64), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"takes values from {secret}" in result.stderr


def test_missing_sources_are_named_and_not_filled(tmp_path: Path, model: Path) -> None:
    """HDF5 hands out the fill value, and a network labels it like any other."""
    master = virtual(tmp_path / "master.h5", "data_1.h5")
    result = run(model, master, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "data_1.h5" in result.stderr
    assert "--fill-missing-chunks" in result.stderr
    assert not (tmp_path / "out").exists()
    filled = open_source(str(master), SourceOptions(fill_missing_chunks=True))
    assert np.all(np.asarray(filled.read(0, 8)) == 7)
    filled.close()


def test_a_dataset_made_of_itself_ends(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        layout = h5py.VirtualLayout((4, 40, 44), "uint8")
        layout[:] = h5py.VirtualSource("loop.h5", "entry", (4, 40, 44))
        file.create_virtual_dataset("entry", layout)
    open_source(str(tmp_path / "loop.h5")).close()


def test_changes_of_a_linked_file_make_another_input(tmp_path: Path, model: Path) -> None:
    source = put(tmp_path / "data_1.h5")
    master = virtual(tmp_path / "master.h5", "data_1.h5")
    assert run(model, master, "-o", tmp_path / "out").exit_code == 0
    with h5py.File(source, "a") as file:
        file["data"][0] = 0
    os.utime(source, (1, 1))
    result = run(model, master, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "the results there are of another job" in result.stderr


@pytest.mark.parametrize("name", ["../secret.tif", "{secret}", "a/../../secret.tif", "..&#47;secret.tif"])
def test_an_ome_tiff_has_no_file_opened_elsewhere(
    name: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tifffile opens what the XML names as soon as it is asked for series; a pipe there would be waited for."""
    secret, scan = tmp_path / "secret.tif", tmp_path / "scan"
    scan.mkdir()
    tifffile.imwrite(secret, VOLUME[0])
    blocks = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{file}">urn:uuid:{z}</UUID></TiffData>'
        for z, file in enumerate(("s.ome.tif", name.format(secret=secret)))
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="44" SizeY="40" SizeZ="2" SizeC="1" SizeT="1">'
        f'<Channel ID="Channel:0" SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
    )
    path = scan / "s.ome.tif"
    tifffile.imwrite(path, VOLUME[0], description=xml, metadata=None)
    opened: list[str] = []
    really = tifffile.TiffFile.__init__

    def noted(self: tifffile.TiffFile, file: object, *more: object, **options: object) -> None:
        opened.append(str(file))
        really(self, file, *more, **options)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", noted)
    for location in (path, scan):
        result = run(model, location, "-o", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert "its OME-XML says that planes of it are in" in result.stderr
    assert set(opened) == {str(path)}


@pytest.mark.parametrize("field", ["filters", "compressor"])
def test_a_zarr_that_asks_to_be_unpickled_is_refused(field: str, tmp_path: Path, model: Path) -> None:
    """numcodecs, below zarr, has a codec that runs whatever a chunk says."""

    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    path = tmp_path / "scan.zarr"
    path.mkdir()
    codec = {"id": "pickle"}
    document = {
        **{"zarr_format": 2, "shape": [2, 40, 40], "chunks": [2, 40, 40], "dtype": "|u1", "order": "C"},
        **{"fill_value": 0, "compressor": None, "filters": None},
        field: [codec] if field == "filters" else codec,
    }
    (path / ".zarray").write_text(json.dumps(document))
    (path / "0.0.0").write_bytes(pickle.dumps(Touch()))
    result = run(model, path, "-o", tmp_path / "out", "--fill-missing-chunks")
    assert result.exit_code == 2
    assert not (tmp_path / "owned").exists()


def test_pickles_are_refused_whatever_zarr_thinks_of_them() -> None:
    """Earlier releases of zarr that we support take the codec for any dtype."""
    pickle = SimpleNamespace(codec_id="pickle")
    for filters, compressor in (([pickle], None), (None, pickle)):
        metadata = SimpleNamespace(zarr_format=2, filters=filters, compressor=compressor)
        with pytest.raises(UsageError, match="coded as Python objects"):
            refuse_object_codecs("scan.zarr", SimpleNamespace(metadata=metadata))


def test_datasets_of_an_ome_zarr_lie_in_it(tmp_path: Path, model: Path) -> None:
    """A path in its metadata that climbs out of it is no path in a zarr."""
    zarr.save_array(str(tmp_path / "secret.zarr"), VOLUME)
    root = zarr.open_group(str(tmp_path / "scan.zarr"), mode="w", zarr_format=3)
    image = {"axes": [{"name": axis, "type": "space"} for axis in "zyx"], "name": "x"}
    for path in ("../secret.zarr", "/../secret.zarr", str(tmp_path / "secret.zarr")):
        datasets = [
            {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]}
        ]
        root.attrs.put({"ome": {"version": "0.5", "multiscales": [{**image, "datasets": datasets}]}})
        result = run(model, tmp_path / "scan.zarr", "-o", tmp_path / "out")
        assert result.exit_code == 2, path
        assert "its OME-Zarr metadata are not valid" in result.stderr
    result = run(model, f"{tmp_path / 'scan.zarr'}::../secret.zarr", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "expected a zarr array or group" in result.stderr
