"""TIFFs that hold more than their image or stack: thumbnails, coarser copies; and stacks whose last axis is z."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tifffile

from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.open import open_source
from matseg_shared.errors import UsageError
from matseg_shared.images.read import read_any_dtype

VOLUME = onnx_models.random_pixels((6, 64, 80), "uint8", 1)
THUMBNAIL = np.stack([VOLUME[0, ::8, ::8]] * 3, -1)
Opened = Callable[..., Source]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """`open_source` of a settled file, closed when the test ends."""
    sources: list[Source] = []

    def call(path: Path, **options: Any) -> Source:
        past = time.time() - 60
        os.utime(path, (past, past))
        sources.append(open_source(str(path), SourceOptions(**options)))
        return sources[-1]

    yield call
    for source in sources:
        source.close()


def _pixels(source: Source) -> np.ndarray[Any, Any]:
    return np.stack(source.read(0, len(source.slices)))


def _write(path: Path, pages: list[tuple[Any, dict[str, Any]]], *, ome: bool = False) -> Path:
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for pixels, options in pages:
            writer.write(pixels, **{"metadata": None, **options})
    return path


def _small(step: int) -> Any:
    return VOLUME[0, ::step, ::step]


REDUCED: dict[str, Any] = {"subfiletype": 1}
RGB: dict[str, Any] = {"photometric": "rgb"}
EXTRA: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "flagged": [(THUMBNAIL, {**RGB, **REDUCED})],
    "not flagged": [(THUMBNAIL, RGB)],
    "several": [(THUMBNAIL, RGB), (_small(4), {}), (_small(16), REDUCED)],
    "pyramid as series": [(_small(2), {}), (_small(4), {}), (_small(8), {})],
    "flagged and nearly as large": [(VOLUME[0, :60, :70], REDUCED)],
}


@pytest.mark.parametrize("kind", EXTRA)
@pytest.mark.parametrize("depth", [1, 6])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_thumbnails_are_no_slices(
    kind: str, depth: int, options: dict[str, Any], tmp_path: Path, opened: Opened
) -> None:
    pages = [(page, options) for page in VOLUME[:depth]]
    path = _write(tmp_path / "scan.tif", [*pages, *EXTRA[kind]])
    source = opened(path)
    np.testing.assert_array_equal(_pixels(source), VOLUME[:depth])
    is_told = any("left out as thumbnails" in text for text in source.warnings())
    assert is_told == (kind not in ("flagged", "flagged and nearly as large"))
    if depth == 1:
        np.testing.assert_array_equal(read_any_dtype(path), VOLUME[0])


def test_thumbnails_between_and_before_the_pages(tmp_path: Path, opened: Opened) -> None:
    pages = [item for page in VOLUME for item in ((page[::4, ::4], REDUCED), (page, {}))]
    np.testing.assert_array_equal(_pixels(opened(_write(tmp_path / "scan.tif", pages))), VOLUME)
    pages = [(THUMBNAIL, {**RGB, "resolution": (3000, 3000), "resolutionunit": 3}), (VOLUME[0], {})]
    path = _write(tmp_path / "image.tif", pages)
    source = opened(path)
    np.testing.assert_array_equal(_pixels(source), VOLUME[:1])
    assert source.voxel_size() is None
    np.testing.assert_array_equal(read_any_dtype(path), VOLUME[0])


@pytest.mark.parametrize(("name", "ome"), [("scan.tif", False), ("scan.ome.tif", True)])
def test_pyramids_in_subifds_are_read_at_full_size(
    name: str, ome: bool, tmp_path: Path, opened: Opened
) -> None:
    axes = {"metadata": {"axes": "ZYX"}}
    pages = [
        (VOLUME, {"subifds": 1, **axes}),
        (VOLUME[:, ::2, ::2], REDUCED),
        (THUMBNAIL, {**RGB, **REDUCED}),
    ]
    np.testing.assert_array_equal(_pixels(opened(_write(tmp_path / name, pages, ome=ome))), VOLUME)


def test_an_ome_tiff_of_a_picture_its_label_and_its_overview(tmp_path: Path, opened: Opened) -> None:
    """As slide scanners write them: three images, of which one is meant."""
    described = {"metadata": {"axes": "YX"}}
    pages = [
        (VOLUME[0], described),
        (_small(3), described),
        (THUMBNAIL, {**RGB, "metadata": {"axes": "YXS"}}),
    ]
    path = _write(tmp_path / "scan.ome.tif", pages, ome=True)
    np.testing.assert_array_equal(_pixels(opened(path)), VOLUME[:1])


def test_a_stack_with_a_thumbnail_is_cut_along_another_axis(tmp_path: Path, opened: Opened) -> None:
    axes = {"metadata": {"axes": "ZYX"}}
    path = _write(tmp_path / "scan.tif", [(VOLUME, axes), (THUMBNAIL, {**RGB, **axes, "metadata": None})])
    np.testing.assert_array_equal(_pixels(opened(path, axis=1)), np.moveaxis(VOLUME, 1, 0))


def test_a_page_that_is_a_little_smaller_is_no_thumbnail(tmp_path: Path, opened: Opened) -> None:
    path = _write(tmp_path / "scan.tif", [(VOLUME[0], {}), (VOLUME[1], {}), (VOLUME[2, :40, :44], {})])
    with pytest.raises(UsageError, match="expected one stack, found 2 series"):
        opened(path)


def test_an_ome_tiff_in_several_files_is_read_as_their_folder(tmp_path: Path, opened: Opened) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    uuids = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="s{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(3)
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="80" SizeY="64" SizeZ="3" SizeC="1" SizeT="1">'
        f'<Channel ID="Channel:0" SamplesPerPixel="1"/>{uuids}</Pixels></Image></OME>'
    )
    for z in range(3):
        _write(folder / f"s{z}.ome.tif", [(VOLUME[z], {"description": xml}), (THUMBNAIL, {**RGB, **REDUCED})])
    np.testing.assert_array_equal(_pixels(opened(folder)), VOLUME[:3])
    with pytest.raises(UsageError, match="in other files, in another order or nowhere; name the folder"):
        opened(folder / "s0.ome.tif")


LAST = np.moveaxis(VOLUME[:, :, :64], 0, -1)
"""(64, 64, 6): rows, columns, slices."""


@pytest.mark.parametrize("kind", ["tif", "npy"])
def test_a_last_axis_that_may_be_z_is_told_with_the_option(kind: str, tmp_path: Path, opened: Opened) -> None:
    def save(array: np.ndarray[Any, Any]) -> Path:
        path = tmp_path / f"scan.{kind}"
        if kind == "npy":
            np.save(path, array)
        else:
            tifffile.imwrite(path, array, photometric="minisblack")
        return path

    (doubt,) = opened(save(LAST)).warnings()
    assert "is cut into 64 slices of 64 x 6 pixels" in doubt
    assert "use --axis 2" in doubt
    source = opened(save(LAST), axis=2)
    np.testing.assert_array_equal(_pixels(source), VOLUME[:, :, :64])
    assert source.warnings() == ()
    for fine in (VOLUME, VOLUME[:, :, :40], np.zeros((40, 64, 40), np.uint8)):
        assert opened(save(fine)).warnings() == ()


def test_a_last_axis_that_is_said_to_be_z_needs_the_option(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, LAST, photometric="minisblack", metadata={"axes": "YXZ"})
    with pytest.raises(
        UsageError, match="its last axis is z: 6 slices of 64 x 64 pixels; label them with --axis 2"
    ):
        opened(path)
    np.testing.assert_array_equal(_pixels(opened(path, axis=2)), VOLUME[:, :, :64])


def test_a_circle_of_pages_ends(tmp_path: Path, opened: Opened) -> None:
    path = _write(tmp_path / "scan.tif", [(VOLUME[0], {}), (THUMBNAIL, RGB), (VOLUME[1], {})])
    with tifffile.TiffFile(path) as tiff:
        first, last = (tiff.pages[number].aspage() for number in (0, 2))
        place = last.offset + 2 + 12 * len(last.tags)
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(first.offset.to_bytes(4, "little"))
    np.testing.assert_array_equal(opened(path).read(0, 1)[0], VOLUME[0])
