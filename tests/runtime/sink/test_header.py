"""Labels as MetaImage, NRRD, MRC and NIfTI: others find classes, voxel size and place where they look for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mrcfile
import nibabel
import nrrd
import numpy as np
import onnx_models
import pytest
from click.testing import CliRunner, Result
from volume_files import EDGES, write_mhd, write_nrrd

from matseg_runtime.cli.quantify import quantify_main
from matseg_runtime.source.base import Source
from matseg_runtime.source.open import open_source

Run = Callable[..., Result]
VOLUME = onnx_models.random_pixels((6, 40, 52), "uint8", 1)
OUTPUTS = ("labels.mhd", "labels.mha", "labels.nrrd", "labels.mrc", "labels.nii")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    write_mhd(tmp_path / "scan.mhd", VOLUME)
    return tmp_path / "scan.mhd"


def _micrometres(source: Source) -> tuple[float, ...]:
    found = source.voxel_size()
    assert found is not None
    assert found.step is not None
    factor = {"um": 1, "mm": 1e3, "nm": 1e-3}[found.unit]
    return tuple(edge * factor for edge in (found.step, found.row, found.column))


@pytest.mark.parametrize("name", OUTPUTS)
def test_labels_have_the_input_s_voxels(run: Run, model: Path, scan: Path, tmp_path: Path, name: str) -> None:
    result = run(model, scan, "-o", tmp_path / name, "--range", "2:5")
    assert result.exit_code == 0, result.output
    source = open_source(str(tmp_path / name))
    assert _micrometres(source) == pytest.approx(EDGES)
    assert source.volume is not None
    assert source.volume.shape == (3, 40, 52)
    assert source.volume.dtype == "uint8"
    assert source.warnings() == ()


def test_the_plan_says_how_large_voxels_are_and_who_says_so(run: Run, model: Path, scan: Path) -> None:
    assert "voxels: 3 x 0.5 x 0.5 um (the input says so)" in run(model, scan, "--dry-run").output
    asked = run(model, scan, "--dry-run", "--voxel-size", "2um")
    assert "voxels: 2 x 2 x 2 um (--voxel-size says so)" in asked.output


def test_readers_of_others_find_the_same(run: Run, model: Path, scan: Path, tmp_path: Path) -> None:
    for name in OUTPUTS:
        assert run(model, scan, "-o", tmp_path / name, "--range", "2:5").exit_code == 0
    labels, header = nrrd.read(str(tmp_path / "labels.nrrd"), index_order="C")
    np.testing.assert_array_equal(header["space directions"], np.diag(EDGES[::-1]))
    np.testing.assert_array_equal(header["space origin"], [0, 0, 2 * EDGES[0]])
    assert header["space units"] == ["um"] * 3
    assert json.loads(header["matseg"])["model_name"] == "alloy_v1"
    with mrcfile.open(tmp_path / "labels.mrc") as file:
        np.testing.assert_array_equal(file.data, labels)
        assert file.voxel_size.tolist() == pytest.approx([edge * 1e4 for edge in EDGES[::-1]])
        assert float(file.header.origin.z) == pytest.approx(2e4 * EDGES[0])
    assert mrcfile.validate(tmp_path / "labels.mrc")
    lines = (tmp_path / "labels.mhd").read_bytes().partition(b"LOCAL\n")[0].decode().splitlines()
    assert {"ElementSpacing = 0.0005 0.0005 0.003", "Offset = 0 0 0.006", "DistanceUnits = mm"} <= set(lines)


@pytest.mark.parametrize("form", ["sform", "qform", "none"])
def test_labels_of_a_nifti_keep_its_affine(run: Run, model: Path, tmp_path: Path, form: str) -> None:
    """A turned and mirrored one: labels lie voxel on voxel, and voxel [i, j, k] of both is at one place."""
    affine = np.array([[0, -0.5, 0, 7], [-0.5, 0, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.asarray(VOLUME).T, None if form == "none" else affine)
    image.header.set_xyzt_units("micron")
    if form != "none":
        image.set_sform(affine, code=int(form == "sform"))
        image.set_qform(affine, code=int(form == "qform"))
    else:
        image.header.set_zooms(EDGES[::-1])
    nibabel.save(image, tmp_path / "scan.nii")
    np.save(tmp_path / "scan.npy", VOLUME)
    assert run(model, tmp_path / "scan.nii", "-o", tmp_path / "labels.nii").exit_code == 0
    assert run(model, tmp_path / "scan.npy", "-o", tmp_path / "labels.nrrd").exit_code == 0
    labels, given = nibabel.load(tmp_path / "labels.nii"), nibabel.load(tmp_path / "scan.nii")
    np.testing.assert_array_equal(np.asarray(labels.dataobj), nrrd.read(str(tmp_path / "labels.nrrd"))[0])
    np.testing.assert_allclose(labels.affine, given.affine, rtol=1e-6)
    assert labels.header.get_xyzt_units()[0] == "micron"
    assert int(labels.header["sform_code"]) == (form != "none")


def test_a_volume_longer_than_a_nifti_may_be(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.zeros((2, 40, 2**15), np.uint8))
    result = run(model, tmp_path / "scan.npy", "-o", tmp_path / "labels.nii", "--accept-intensities")
    assert result.exit_code == 2, result.output
    assert "at most 32767 voxels along an axis" in " ".join(result.output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.npy"]


def test_a_run_of_unknown_voxels_invents_none(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    for name in ("labels.mhd", "labels.nrrd", "labels.nii"):
        assert run(model, tmp_path / "scan.npy", "-o", tmp_path / name).exit_code == 0
        source = open_source(str(tmp_path / name))
        assert (source.voxel_size(), source.warnings()) == (None, ())


@pytest.mark.parametrize("name", ["labels.mhd", "labels.nrrd", "labels.nii"])
def test_labels_lie_where_a_turned_volume_lies(run: Run, model: Path, tmp_path: Path, name: str) -> None:
    """As 3D Slicer saves volumes: x and y run the other way, in space to the left and backwards."""
    path = tmp_path / "scan.nrrd"
    write_nrrd(path, VOLUME)
    content = path.read_bytes().replace(b"space dimension: 3", b"space: right-anterior-superior")
    content = content.replace(
        b"(0.5,0,0) (0,0.5,0) (0,0,3.0)", b"(0,-0.5,0) (0.5,0,0) (0,0,3.0)\nspace origin: (7,8,9)"
    )
    path.write_bytes(content)
    assert run(model, path, "-o", tmp_path / name, "--range", "3:6").exit_code == 0
    volume = open_source(str(tmp_path / name)).volume
    assert volume is not None
    assert volume.spacing is not None
    factor = 1e-3 if name == "labels.mhd" else 1
    assert volume.spacing.directions == ((1, 0, 0), (0, 0, -1), (0, 1, 0))
    assert volume.spacing.translation == pytest.approx([place * factor for place in (9 + 3 * 3, -8, -7)])


@pytest.mark.parametrize("name", ["labels.mhd", "labels.nrrd", "labels.mrc", "labels.nii", "labels.tif"])
def test_labels_along_another_axis_are_measured(
    run: Run, model: Path, scan: Path, tmp_path: Path, name: str
) -> None:
    result = run(model, scan, "-o", tmp_path / name, "--axis", "1", "--quantify")
    assert result.exit_code == 0, result.output
    measured = CliRunner().invoke(quantify_main, [str(tmp_path / name), "-o", str(tmp_path / "tables")])
    assert measured.exit_code == 0, measured.output
    tables = [folder / "region_sizes.csv" for folder in (tmp_path / "tables", tmp_path / f"{name}.matseg")]
    assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.mark.parametrize("axis", [1, 2])
def test_labels_along_another_axis_are_written_piece_by_piece(
    run: Run, model: Path, scan: Path, tmp_path: Path, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole.nrrd", "pieces.nrrd"):
        assert run(model, scan, "-o", tmp_path / name, "--axis", axis).exit_code == 0
        monkeypatch.setattr("matseg_runtime.sink.header._MAPPED", 2 * 40 * 52)
    whole, pieces = (nrrd.read(str(tmp_path / name))[0] for name in ("whole.nrrd", "pieces.nrrd"))
    np.testing.assert_array_equal(pieces, whole)


def test_an_unfinished_output_of_another_size_is_named(
    run: Run, model: Path, scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.nrrd"
    assert run(model, scan, "-o", out).exit_code == 0
    out.write_bytes(out.read_bytes()[:-1])
    result = run(model, scan, "-o", out)
    assert result.exit_code == 1
    assert "is not what matseg-run wrote" in result.output


@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.raw", "labels.dm4"])
def test_formats_that_are_not_written_are_no_folders(
    run: Run, model: Path, scan: Path, tmp_path: Path, name: str
) -> None:
    result = run(model, scan, "-o", tmp_path / name)
    assert result.exit_code == 2
    assert "a volume (.zarr, .mhd, .nrrd, .mrc, .nii), not" in result.output
