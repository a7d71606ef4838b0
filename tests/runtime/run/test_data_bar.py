"""The bar of data below a picture of an electron microscope: cut as the file says, or the user, or the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tifffile
from command_runs import report_of, run
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from matseg_shared.contract.onnx_properties import encode
from matseg_shared.images.data_bar import data_bar_rows

ROWS, COLUMNS, BAR = 200, 240, 24
FEI = (
    "[User]\r\nUser=x\r\n[Scan]\r\nPixelWidth=3.1e-009\r\nPixelHeight=3.1e-009\r\n"
    f"[Image]\r\nResolutionX={COLUMNS}\r\nResolutionY={ROWS}\r\n"
)
FEI_PRIVATE = (
    f"[Scan]\r\nPixelWidth=3.1e-009\r\nPixelHeight=3.1e-009\r\n[PrivateFei]\r\nDatabarHeight={BAR}\r\n"
)
ZEISS = (
    "0\r\n0\r\n0\r\n3.1e-009\r\nDP_IMAGE_STORE\r\nStore resolution = "
    f"{COLUMNS} * {ROWS}\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 3.100 nm\r\n"
)
TESCAN = f"\x01\x02[MAIN]\r\nImageStripSize={BAR}\r\nPixelSizeX=3.1e-09\r\nPixelSizeY=3.1e-09\r\n[SEM]\r\nHV=5e3\r\n"
TAGS = {
    "fei": (34682, "s", 0, FEI, True),
    "fei_old": (34680, "s", 0, FEI_PRIVATE, True),
    "zeiss": (34118, "s", 0, ZEISS, True),
    "tescan": (50431, "B", len(TESCAN), TESCAN.encode("latin-1"), True),
}


def picture(seed: int = 1, bar: int = BAR) -> NDArray[np.uint8]:
    """A smooth random picture with a bar of text below it."""
    pixels = onnx_models.random_pixels((ROWS, COLUMNS), "uint8", seed)
    if not bar:
        return pixels
    below = Image.new("L", (COLUMNS, bar), 0)
    draw = ImageDraw.Draw(below)
    for column, text in ((5, "HV 5.00 kV"), (90, "mag 10 000 x"), (180, "WD 4 mm")):
        draw.text((column, bar // 2 - 6), text, fill=255)
    return np.vstack([pixels, np.asarray(below)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing of bars."""
    return onnx_models.save_model(tmp_path_factory.mktemp("models") / "alloy_v1.onnx", width=2)


def labels_of(output: Path, name: str = "a") -> NDArray[np.uint8]:
    """(H, W) labels of one picture."""
    return np.asarray(Image.open(output / f"{name}.png"))


@pytest.mark.parametrize("maker", list(TAGS))
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_bar_is_cut_by_what_the_file_says(model: Path, tmp_path: Path, maker: str, is_folder: bool) -> None:
    (tmp_path / "sem").mkdir()
    tifffile.imwrite(tmp_path / "sem" / "a.tif", picture(), extratags=[TAGS[maker]], metadata=None)
    said = run(model, tmp_path / ("sem" if is_folder else "sem/a.tif"), tmp_path / "out")
    labels = labels_of(tmp_path / "out")
    assert labels.shape == (ROWS + BAR, COLUMNS)
    assert (labels[ROWS:] == 255).all()
    assert (labels[:ROWS] < 3).all()
    assert f"are no data, the lowest {BAR} rows (a data bar) among them" in said
    assert "seem to end in a data bar" not in said
    voxel = report_of(tmp_path / "out").voxel_size
    assert voxel is not None
    assert (voxel.row, voxel.column, voxel.unit) == (pytest.approx(3.1), pytest.approx(3.1), "nm")


def test_a_picture_that_was_cropped_or_scaled_loses_no_rows(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sem").mkdir()
    cropped, scaled = picture(bar=0), picture(bar=0)[::2, ::2]
    for name, pixels in (("a", cropped), ("b", scaled)):
        tifffile.imwrite(tmp_path / "sem" / f"{name}.tif", pixels, extratags=[TAGS["fei"]], metadata=None)
    run(model, tmp_path / "sem", tmp_path / "out")
    assert (labels_of(tmp_path / "out") < 3).all()
    assert (labels_of(tmp_path / "out", "b") < 3).all()


def test_rows_are_cut_as_the_user_says(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sem").mkdir()
    Image.fromarray(picture()).save(tmp_path / "sem" / "a.png")
    tifffile.imwrite(tmp_path / "sem" / "b.tif", picture(2), extratags=[TAGS["fei"]], metadata=None)
    run(model, tmp_path / "sem", tmp_path / "out", "--crop-bottom", 30)
    for name in "ab":
        assert (labels_of(tmp_path / "out", name)[-30:] == 255).all()
        assert (labels_of(tmp_path / "out", name)[:-30] < 3).all()
    assert "no data: lowest 30 rows then, none now" in run(
        model, tmp_path / "sem", tmp_path / "out", exit_code=2
    )
    run(model, tmp_path / "sem", tmp_path / "all", "--crop-bottom", 0)
    assert (labels_of(tmp_path / "all", "b") < 3).all()
    said = run(model, tmp_path / "sem", tmp_path / "none", "--crop-bottom", 300, exit_code=2)
    assert "is 224 rows high, of which the lowest 300 are to be cut off" in said


def test_rows_are_cut_as_the_model_was_trained_and_said(tmp_path: Path) -> None:
    graph, metadata = onnx_models.build_graph(width=2), onnx_models.build_metadata()
    info = metadata.input.model_copy(update={"crop_bottom": BAR})
    metadata = metadata.model_copy(update={"input": info})
    properties = encode(metadata, onnx_models.self_test_of(graph, 1, "uint8"))
    model = onnx_models.save(graph, properties, tmp_path / "alloy_v1.onnx")
    (tmp_path / "sem").mkdir()
    Image.fromarray(picture()).save(tmp_path / "sem" / "a.png")

    said = run(model, tmp_path / "sem", tmp_path / "out")

    assert (labels_of(tmp_path / "out")[ROWS:] == 255).all()
    assert (
        f"the lowest {BAR} rows of 1 slices were left out as those of the model's training pictures" in said
    )
    assert "left out as those" not in run(model, tmp_path / "sem", tmp_path / "all", "--crop-bottom", 0)
    assert (labels_of(tmp_path / "all") < 3).all()


def test_a_bar_of_which_nobody_told_is_warned_of(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sem").mkdir()
    Image.fromarray(picture()).save(tmp_path / "sem" / "a.png")
    Image.fromarray(picture(2, bar=0)).save(tmp_path / "sem" / "b.png")
    said = run(model, tmp_path / "sem", tmp_path / "out")
    assert f"seem to end in a data bar, such as the lowest {BAR} rows of {tmp_path / 'sem' / 'a.png'}" in said
    assert f"leave it out with --crop-bottom {BAR}" in said


def test_text_files_beside_pictures_are_not_skipped_loudly(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sem").mkdir()
    Image.fromarray(picture(bar=0)).save(tmp_path / "sem" / "a.bmp")
    for name in ("a.txt", "a-bmp.hdr", "notes.txt"):
        (tmp_path / "sem" / name).write_text("$CM_TITLE x")
    run(model, tmp_path / "sem", tmp_path / "out")
    assert [item.path.name for item in report_of(tmp_path / "out").skipped] == ["notes.txt"]


@pytest.mark.parametrize(
    "change",
    [
        np.asarray,
        lambda pixels: 255 - pixels,
        lambda pixels: pixels * np.uint16(200),
        lambda pixels: np.stack([pixels, *np.zeros((6, *pixels.shape))], axis=-1),
    ],
)
def test_a_bar_is_known_by_its_looks(change: Any) -> None:
    assert data_bar_rows(change(picture())) == BAR
    assert data_bar_rows(change(picture(bar=0))) == 0


def test_an_even_foot_is_no_bar() -> None:
    pixels = picture(bar=0)
    pixels[170:] = 0  # as below a sample
    assert data_bar_rows(pixels) == 0
    pixels[180:184, 50:90] = 255
    assert data_bar_rows(pixels) == 0
    assert data_bar_rows(np.zeros((100, 100), np.uint8)) == 0
    assert data_bar_rows(np.full((8, 8), np.nan, np.float32)) == 0
