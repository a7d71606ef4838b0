"""Labels as values: volumes of which some slices are labelled, arrays, text and label images beside pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result
from label_exports import (
    HEIGHT,
    WIDTH,
    box,
    cvat,
    ilastik,
    imported,
    labelme,
    labels,
    names,
    nothing_written,
    refused,
    save,
)
from PIL import Image

from matseg_shared.images.read import read_image
from matseg_trainer.commands.train import train_main

Prep = Callable[..., Result]


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "uint8"])
def test_the_labelled_slices_of_a_volume(prep: Prep, workspace: Path, volume: np.ndarray, dtype: str) -> None:
    drawn = np.zeros(volume.shape, dtype)
    drawn[2], drawn[5] = 1 + (volume[2] > 30000), 1 + (volume[5] > 30000)
    tifffile.imwrite(workspace / "labels.tif", drawn, compression="zlib")
    document = imported(
        prep("import", workspace / "volume.zarr", "set", "--labels", workspace / "labels.tif", "--json")
    )
    images = sorted((workspace / "data/set/train/images").iterdir())
    assert len(images) == 2
    assert (tifffile.imread(images[1]) == volume[5]).all()
    assert names(workspace) == ["label 1", "label 2"]
    assert (labels(workspace, images[0].stem) == (volume[2] > 30000)).all()
    assert document["unlabelled"] == 0
    assert "2 of 8 slices have labels" in document["notes"]


@pytest.mark.parametrize("suffix", ["zarr", "npy", "h5"])
def test_labels_in_other_formats(prep: Prep, workspace: Path, volume: np.ndarray, suffix: str) -> None:
    drawn = np.zeros(volume.shape, np.uint16)
    drawn[6] = 7 + 300 * (volume[6] > 30000)
    path = workspace / f"labels.{suffix}"
    if suffix == "zarr":  # which does not store chunks of nothing but 0
        array = zarr.create_array(str(path), shape=drawn.shape, chunks=(1, HEIGHT, WIDTH), dtype=drawn.dtype)
        array[:] = drawn
        assert not (path / "c" / "0").exists()
    elif suffix == "npy":
        np.save(path, drawn)
    else:
        with h5py.File(path, "w") as file:
            file["labels"] = drawn
    assert prep("import", workspace / "volume.zarr", "set", "--labels", path).exit_code == 0
    assert names(workspace) == ["label 7", "label 307"]
    assert (labels(workspace, "volume_0006") == (volume[6] > 30000)).all()


def test_strokes_in_a_volume_along_another_axis(prep: Prep, workspace: Path, volume: np.ndarray) -> None:
    drawn = np.zeros(volume.shape, np.int32)
    drawn[:, 3, 10:20], drawn[:, 3, 30:40] = 1, 2
    tifffile.imwrite(workspace / "labels.tif", drawn)
    words = ("import", workspace / "volume.tif", "set", "--labels", workspace / "labels.tif", "--axis", 1)
    told = imported(prep(*words, "--json"))
    assert any("add --unlabelled 0" in note for note in told["notes"])
    assert prep(*words, "--unlabelled", 0, "--overwrite").exit_code == 0
    assert names(workspace) == ["label 1", "label 2"]
    [image] = (workspace / "data/set/train/images").iterdir()
    assert (tifffile.imread(image) == volume[:, 3]).all()
    found = labels(workspace, image.stem)
    assert (found[:, 10:20] == 0).all()
    assert (found[:, 30:40] == 1).all()
    assert np.count_nonzero(found == 255) == 8 * (WIDTH - 20)
    assert prep("labels", "set", "train").exit_code == 0
    assert (np.load(workspace / f"data/set/train/labels_npy/{image.stem}.npy") == found).all()


def test_slices_keep_the_size_of_their_pixels(prep: Prep, workspace: Path, volume: np.ndarray) -> None:
    from matseg_runtime.source.tiff_scale import image_voxel_size

    tifffile.imwrite(workspace / "labels.tif", (volume > 30000).astype(np.uint8))
    assert (
        prep("import", workspace / "volume.tif", "set", "--labels", workspace / "labels.tif").exit_code == 0
    )
    size = image_voxel_size(next((workspace / "data/set/train/images").iterdir()))
    assert size is not None
    assert (size.column, size.unit) == (0.5, "um")


@pytest.mark.parametrize("suffix", [".npy", ""])
def test_signed_slices_are_written_through_the_window_of_later_runs(
    prep: Prep, workspace: Path, volume: np.ndarray, suffix: str
) -> None:
    from matseg_runtime.source.transform import Window

    signed = (volume.astype(np.int32) - 30000).astype(np.int16)
    source = workspace / f"signed{suffix}"
    if suffix:
        np.save(source, signed)
    else:  # a folder of slices
        source.mkdir()
        for number, pixels in enumerate(signed):
            tifffile.imwrite(source / f"signed_{number:04}.tif", pixels)
    tifffile.imwrite(workspace / "labels.tif", (volume > 30000).astype(np.uint8))
    words = ("import", source, "set", "--labels", workspace / "labels.tif")
    refused(prep(*words), "found int16; say with --window LO,HI", "here they are -")
    assert nothing_written(workspace)
    assert prep(*words, "--window", "-1000,20000").exit_code == 0
    written = tifffile.imread(workspace / "data/set/train/images/signed_0003.tif")
    assert written.dtype == np.uint16
    expected = np.rint(Window(-1000, 20000).shares(signed[3]) * 65535)
    assert (written == expected).all()
    assert written[signed[3] <= -1000].max() == 0
    assert written[signed[3] >= 20000].min() == 65535


def test_a_window_is_applied_to_pictures_that_the_export_carries(
    prep: Prep, workspace: Path, tmp_path: Path
) -> None:
    content = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH), 51, np.uint8)).save(content, "PNG")
    shape = {"label": "pore", "points": [[10, 5], [30, 15]], "shape_type": "rectangle"}
    labelme(tmp_path / "s0.json", [shape], imageData=base64.b64encode(content.getvalue()).decode())
    assert prep("import", tmp_path / "s0.json", "set", "--window", "0,255").exit_code == 0
    [image] = (workspace / "data/set/train/images").iterdir()
    assert image.name == "s0.tif"
    assert set(tifffile.imread(image).ravel().tolist()) == {51 * 257}


def test_a_window_gives_no_value_to_nan(prep: Prep, workspace: Path, volume: np.ndarray) -> None:
    real = volume.astype(np.float64)
    real[2, 0, 0] = np.nan
    np.save(workspace / "real.npy", real)
    tifffile.imwrite(workspace / "labels.tif", (volume > 30000).astype(np.uint8))
    words = ("import", workspace / "real.npy", "set", "--labels", workspace / "labels.tif", "--window", "0,9")
    refused(prep(*words), "real_0002: holds NaN")
    assert nothing_written(workspace)


def test_label_images_of_some_slices_of_a_folder(prep: Prep, workspace: Path, pictures: Path) -> None:
    save(workspace / "drawn" / "s1_L.png", box(5, 10, 15, 30, 2, ground=1))
    assert prep("import", pictures, "set", "--labels", workspace / "drawn").exit_code == 0
    assert (labels(workspace, "s1") == box(5, 10, 15, 30)).all()
    assert (workspace / "data/set/train/images/s1.tif").read_bytes() == (pictures / "s1.tif").read_bytes()
    save(workspace / "drawn" / "s10_labels.png", box(5, 10, 15, 30))
    refused(prep("import", pictures, "other", "--labels", workspace / "drawn"), "found none for s10_labels")
    (workspace / "drawn" / "s10_labels.png").rename(workspace / "drawn" / "s1 labels.png")
    refused(
        prep("import", pictures, "other", "--labels", workspace / "drawn"),
        "several of one image: s1 labels, s1_L",
    )


def test_ilastik_labels_of_one_picture(prep: Prep, workspace: Path, pictures: Path) -> None:
    strokes = box(5, 10, 15, 30, 2) + box(30, 0, 35, 5)
    source = ilastik(workspace / "s0_Labels.h5", strokes[..., None], "yxc")
    assert prep("import", source, "set", "--images", pictures / "s0.png").exit_code == 0
    expected = np.where(strokes == 0, 255, strokes - 1)
    assert (labels(workspace, "s0") == expected).all()
    refused(prep("import", source, "other"), "s0_Labels.h5", "--images")
    ilastik(source, strokes.T[..., None], "xyc")
    refused(prep("import", source, "other", "--images", pictures / "s0.png"), "s0_Labels.h5", "found xyc")


def test_a_folder_of_ilastik_segmentations(prep: Prep, workspace: Path, pictures: Path) -> None:
    folder = workspace / "out"
    folder.mkdir()
    for stem in ("s0", "s1"):
        ilastik(folder / f"{stem}_Simple Segmentation.h5", box(5, 10, 15, 30, 2, 1)[..., None], "yxc")
    assert prep("import", folder, "set", "--images", pictures).exit_code == 0
    assert (labels(workspace, "s1") == box(5, 10, 15, 30)).all()


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        (np.zeros((8, HEIGHT, WIDTH), np.uint8), "found 0 at every pixel of 8 slice(s)"),
        (np.ones((8, HEIGHT, WIDTH - 1), np.uint8), "(8, 40, 59)"),
        (np.ones((7, HEIGHT, WIDTH), np.uint8), "(7, 40, 60)"),
        (np.full((8, HEIGHT, WIDTH), 0.5, np.float32), "whole numbers"),
        (np.full((8, HEIGHT, WIDTH), 1e30, np.float32), "whole numbers"),
        (np.arange(8 * HEIGHT * WIDTH, dtype=np.int32).reshape(8, HEIGHT, WIDTH), "single particles"),
        (np.ones((8, HEIGHT, WIDTH), np.uint8), "expected 2 to 255 classes, found 1 (label 1)"),
    ],
)
@pytest.mark.usefixtures("volume")
def test_labels_that_do_not_fit_their_volume(
    prep: Prep, workspace: Path, drawn: np.ndarray, told: str
) -> None:
    tifffile.imwrite(workspace / "labels.tif", drawn)
    refused(prep("import", workspace / "volume.tif", "set", "--labels", workspace / "labels.tif"), told)
    assert nothing_written(workspace)


# --- label files beside pictures ----------------------------------------------------------------------------------


def strokes(at: int = 0) -> np.ndarray:
    """(40, 60) few strokes of 1 and 2 on 0."""
    drawn = np.zeros((HEIGHT, WIDTH))
    drawn[5 + at : 8 + at, 10:20], drawn[20:22, 30:50] = 1, 2
    return drawn


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "txt": lambda path, drawn: np.savetxt(path.with_suffix(".txt"), drawn),
    "csv": lambda path, drawn: np.savetxt(
        path.with_suffix(".csv"), drawn, delimiter=",", fmt="%d", header="labels"
    ),
    "excel": lambda path, drawn: path.with_suffix(".csv").write_text(
        "\ufeff" + "\r\n".join(";".join(f"{value:.0f}" for value in row) for row in drawn), encoding="utf-8"
    ),
    "no suffix": lambda path, drawn: path.write_text("\n".join(" ".join(map(str, row)) for row in drawn)),
    "float npy": lambda path, drawn: np.save(path.with_suffix(".npy"), drawn),
    "int npy of one slice": lambda path, drawn: np.save(
        path.with_suffix(".npy"), drawn[None].astype(np.int64)
    ),
    "tif of one slice": lambda path, drawn: tifffile.imwrite(
        path.with_suffix(".tif"), drawn[None].astype(np.uint8)
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_label_files_of_numbers(prep: Prep, workspace: Path, pictures: Path, kind: str) -> None:
    folder = workspace / "drawn"
    folder.mkdir()
    for number in (0, 1):
        WRITERS[kind](folder / f"s{number}_labels", strokes(number))
    words = ("import", pictures, "set", "--labels", folder, "--unlabelled", 0)
    document = imported(prep(*words, "--json"))
    assert document["images"] == 2
    assert names(workspace) == ["label 1", "label 2"]
    for number in (0, 1):
        drawn = strokes(number)
        assert (labels(workspace, f"s{number}") == np.where(drawn == 0, 255, drawn - 1)).all()


def test_label_files_are_an_export_of_their_own(prep: Prep, workspace: Path, pictures: Path) -> None:
    np.savetxt(pictures / "s0.txt", strokes())
    (pictures / "LICENSE.txt").write_text("MIT")
    told = imported(prep("import", pictures, "set", "--json"))
    assert "add --unlabelled 0" in " ".join(told["notes"])
    assert prep("import", pictures / "s0.txt", "set", "--overwrite", "--unlabelled", 0).exit_code == 0
    expected = np.where(strokes() == 0, 255, strokes() - 1)
    assert (labels(workspace, "s0") == expected).all()
    folder = workspace / "drawn"
    folder.mkdir()
    np.save(folder / "s1.npy", strokes())
    words = ("import", folder, "set", "--images", pictures, "--split", "validate", "--unlabelled", 0)
    assert prep(*words).exit_code == 0
    assert (labels(workspace, "s1", "validate") == expected).all()


def test_numbers_that_an_export_lists_are_no_labels(prep: Prep, workspace: Path, pictures: Path) -> None:
    source = cvat(workspace / "task")
    (source / "ImageSets" / "Segmentation" / "default.txt").write_text("0001 1\n0002 1\n")
    assert prep("import", source, "set", "--images", pictures).exit_code == 0


def test_labels_are_matched_by_numbers_and_order_and_say_so(prep: Prep, workspace: Path) -> None:
    for number in (3, 12):
        save(workspace / "raw" / f"{number:04}_for_training.png", np.full((HEIGHT, WIDTH), number, np.uint8))
        save(workspace / "drawn" / f"mask_{number}.png", box(0, 0, number, 9))
    words = ("import", workspace / "raw", "set", "--labels", workspace / "drawn", "--json")
    notes = " ".join(imported(prep(*words))["notes"])
    assert "by their numbers: mask_3 of 0003_for_training, mask_12 of 0012_for_training" in notes
    assert (labels(workspace, "0012_for_training") == box(0, 0, 12, 9)).all()
    (workspace / "drawn" / "mask_12.png").rename(workspace / "drawn" / "b.png")
    (workspace / "drawn" / "mask_3.png").rename(workspace / "drawn" / "a.png")
    notes = " ".join(imported(prep(*words, "--overwrite"))["notes"])
    assert "by their order: a of 0003_for_training, b of 0012_for_training" in notes


def test_files_that_say_the_same_of_one_picture_are_one(prep: Prep, workspace: Path, pictures: Path) -> None:
    folder = workspace / "drawn"
    folder.mkdir()
    np.save(folder / "s0_labels.npy", strokes())
    np.savetxt(folder / "s0_labels.txt", strokes())
    words = ("import", pictures, "set", "--labels", folder, "--unlabelled", 0, "--json")
    assert "say the same as another file" in " ".join(imported(prep(*words))["notes"])
    np.savetxt(folder / "s0_labels.txt", strokes(3))
    refused(prep(*words, "--overwrite"), "several of one image: s0_labels, s0_labels")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("s0.txt", "1 2 3\n4 5\n", "expected rows of as many whole numbers each"),
        ("s0.txt", "1 2 3\n4 x 5\n", "expected rows of as many whole numbers each"),
        ("s0.txt", "0.5 1 2\n" * 40, "expected whole numbers as labels, found float64 with fractions"),
        ("s0.txt", "1 2 3\n" * 40, "expected 40 x 60 pixels"),
        ("s0.npy", "no array", "expected a whole .npy file"),
    ],
)
def test_label_files_that_do_not_fit(
    prep: Prep, workspace: Path, pictures: Path, name: str, content: str, told: str
) -> None:
    folder = workspace / "drawn"
    folder.mkdir()
    (folder / name).write_text(content)
    refused(prep("import", pictures, "set", "--labels", folder), name, told)
    assert nothing_written(workspace)


def test_an_array_of_several_slices_is_no_label_file_of_one_picture(
    prep: Prep, workspace: Path, pictures: Path
) -> None:
    folder = workspace / "drawn"
    folder.mkdir()
    np.save(folder / "s0.npy", np.ones((4, HEIGHT, WIDTH)))
    refused(
        prep("import", pictures, "set", "--labels", folder),
        "s0.npy",
        "found an array of the shape (4, 40, 60)",
    )


# --- channels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "chosen", "taken"),
    [
        ("zcyx", (), [0, 1, 2, 3, 4]),
        ("zyxc", (), [0, 1, 2, 3, 4]),
        ("zcyx", ("--channels", "0,4"), [0, 4]),
        ("zcyx", ("--channels", 3), 3),
    ],
)
def test_volumes_with_channels(
    prep: Prep, workspace: Path, axes: str, chosen: tuple[object, ...], taken: object
) -> None:
    values = np.random.default_rng(2).integers(0, 60000, (4, 5, HEIGHT, WIDTH)).astype(np.uint16)
    np.save(workspace / "scan.npy", values if axes == "zcyx" else np.moveaxis(values, 1, -1))
    drawn = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    drawn[2] = box(0, 0, 9, 9, 2, 1)
    np.save(workspace / "labels.npy", drawn)
    words = ("import", workspace / "scan.npy", "set", "--labels", workspace / "labels.npy", "--axes", axes)
    result = prep(*words, *chosen)
    assert result.exit_code == 0, result.output
    [image] = (workspace / "data/set/train/images").iterdir()
    expected = values[2][taken]
    assert np.array_equal(read_image(image), expected if expected.ndim == 2 else np.moveaxis(expected, 0, -1))
    assert (labels(workspace, image.stem) == box(0, 0, 9, 9)).all()


def test_channels_of_pictures_are_picked(prep: Prep, workspace: Path) -> None:
    values = np.random.default_rng(2).integers(0, 255, (6, HEIGHT, WIDTH)).astype(np.uint8)
    (workspace / "raw").mkdir()
    tifffile.imwrite(workspace / "raw" / "s0.tif", values, photometric="minisblack")
    np.savetxt(workspace / "raw" / "s0.txt", box(0, 0, 9, 9))
    assert prep("import", workspace / "raw", "set", "--channels", "1,5").exit_code == 0
    [image] = (workspace / "data/set/train/images").iterdir()
    assert np.array_equal(read_image(image), np.moveaxis(values[[1, 5]], 0, -1))
    refused(prep("import", workspace / "raw", "other", "--channels", "1,6"), "found 6 of them")


# --- stray values -------------------------------------------------------------------------------------------------


def codes(seed: int, *shifts: int) -> np.ndarray:
    """(400, 60) three 16-bit codes, that lie apart by `shifts` in another image, and twelve stray values."""
    rng = np.random.default_rng(seed)
    found = np.repeat(np.array([8000, 20000, 50000]) + shifts, (100, 220, 80))[:, None].repeat(WIDTH, 1)
    rows, columns = rng.integers(0, 400, 12), rng.integers(0, WIDTH, 12)
    found[rows, columns] = found[rows, columns] + rng.integers(100, 2000, 12)
    return found.astype(np.uint16)


@pytest.fixture
def coded(workspace: Path) -> Path:
    """Pictures and labels of two splits, in `raw` and `drawn`."""
    for name, drawn in (("a", codes(0, 0, 0, 0)), ("b", codes(1, 2, 0, -4))):
        for folder, pixels in (("raw", np.full((400, WIDTH), 9, np.uint8)), ("drawn", drawn)):
            (workspace / folder).mkdir(exist_ok=True)
            tifffile.imwrite(workspace / folder / f"{name}.tif", pixels)
    return workspace


def meant(drawn: np.ndarray) -> np.ndarray:
    return np.digitize(drawn, (15000, 40000))


def test_stray_values_are_refused_with_what_to_type(prep: Prep, coded: Path) -> None:
    words = ("import", coded / "raw", "set", "--labels", coded / "drawn")
    told = (
        "expected 3 classes",
        "12 pixel(s), value (pixels)",
        "--nearest would move 0.05% of the image",
        "--class NAME=VALUE",
    )
    refused(prep(*words), *told)
    assert nothing_written(coded)
    notes = " ".join(imported(prep(*words, "--nearest", "--json"))["notes"])
    assert "24 pixel(s) of 24 stray value(s) in 2 label image(s) were taken for the nearest class" in notes
    assert "became one class: 8002 and 8000, 50000 and 49996" in notes
    assert names(coded) == ["label 8002", "label 20000", "label 50000"]
    for name in ("a", "b"):
        assert (labels(coded, name) == meant(tifffile.imread(coded / "drawn" / f"{name}.tif"))).all()


def test_a_second_split_has_the_codes_of_the_first(prep: Prep, coded: Path) -> None:
    def words(name: str, split: str) -> tuple[object, ...]:
        files = (coded / "raw" / f"{name}.tif", "set", "--labels", coded / "drawn" / f"{name}.tif")
        return ("import", *files, "--split", split)

    assert prep(*words("a", "train"), "--nearest").exit_code == 0
    refused(prep(*words("b", "validate")), "b.tif", "add --nearest")
    assert prep(*words("b", "validate"), "--nearest").exit_code == 0
    assert (labels(coded, "b", "validate") == meant(tifffile.imread(coded / "drawn" / "b.tif"))).all()
    table = coded / "data/set/classes.toml"
    table.write_text(table.read_text().replace("label 8000", "pore"))
    again = (*words("b", "validate"), "--nearest", "--overwrite")
    refused(prep(*again), "expected classes among pore", "say --class NAME=VALUE")
    named = [
        word for pair in ("pore=8002", "label 20000=20000", "label 50000=49996") for word in ("--class", pair)
    ]
    assert prep(*again, *named).exit_code == 0


def test_classes_are_named_and_counted(prep: Prep, workspace: Path, pictures: Path) -> None:
    drawn = box(0, 0, 9, 9, 200, ground=7)
    drawn[30:, 30:] = 9
    save(workspace / "drawn" / "s0.png", drawn)
    words = ("import", pictures, "set", "--labels", workspace / "drawn", "--overwrite")
    assert prep(*words, "--class", "ore=200", "--class", "rest of it=rest").exit_code == 0
    assert names(workspace) == ["ore", "rest of it"]
    assert (labels(workspace, "s0") == (drawn != 200)).all()
    assert prep(*words, "--class", "ore=200", "--class", "rock=7", "--class", "rock=9").exit_code == 0
    assert names(workspace) == ["ore", "rock"]
    refused(prep(*words, "--classes", 2), "expected 2 classes (values 7, 9)", "200 (81)")
    assert prep(*words, "--classes", 3).exit_code == 0
    assert names(workspace) == ["label 7", "label 9", "label 200"]
    refused(
        prep(*words, "--class", "ore=1,2,3", "--class", "rock=7"),
        "expected 2 classes (values (1, 2, 3), (7, 7, 7))",
    )


def test_classes_are_colours(prep: Prep, workspace: Path, pictures: Path) -> None:
    painted = np.array(Image.open(pictures / "s0.png").convert("RGB"))
    painted[:5], painted[5:9], painted[9:12] = (0, 0, 255), (255, 0, 0), 0
    save(workspace / "drawn" / "s0.png", painted)
    words = ("import", pictures, "set", "--labels", workspace / "drawn", "--unlabelled", 0)
    refused(prep(*words), "s0.png: expected one label value per pixel, found colours", "--class NAME=R,G,B")
    named = ("--class", "matrix=rest", "--class", "ore=0,0,255", "--class", "pore=255,0,0")
    result = prep(*words, *named)
    assert result.exit_code == 0, result.output
    expected = box(0, 0, 5, WIDTH)
    expected[5:9], expected[(painted == 0).all(axis=2)] = 2, 255
    assert (labels(workspace, "s0") == expected).all()


def test_rare_numbers_are_classes_and_told(prep: Prep, workspace: Path, volume: np.ndarray) -> None:
    drawn = (volume > 30000).astype(np.uint8)
    drawn[3, 0, :2] = 5
    np.save(workspace / "labels.npy", drawn)
    words = ("import", workspace / "volume.tif", "set", "--labels", workspace / "labels.npy")
    notes = " ".join(imported(prep(*words, "--json"))["notes"])
    assert names(workspace) == ["label 0", "label 1", "label 5"]
    assert "rare values became classes, too, value (pixels): 5 (2)" in notes


def test_options_of_values_do_not_apply_to_shapes(prep: Prep, pictures: Path) -> None:
    labelme(pictures / "s0.json", [{"label": "a", "points": [[0, 0], [9, 0], [9, 9]]}])
    for option in (("--nearest",), ("--classes", 2), ("--class", "a=1"), ("--axes", "zyx")):
        refused(prep("import", pictures, "set", *option), f"{option[0]} applies to", "LabelMe")


def test_strokes_as_text_are_trained_on(prep: Prep, workspace: Path, pictures: Path) -> None:
    for number in (0, 1):
        np.savetxt(pictures / f"s{number}.txt", strokes(number))
    for split in ("train", "validate"):
        assert prep("import", pictures, "set", "--unlabelled", 0, "--split", split).exit_code == 0
    (workspace / "config.toml").write_text(
        '[set.v1]\nmodel = "unet"\nn_class = 2\nwidth = 2\ncrop = 32\nepoch = 1\nbatch_size = 1\namp = "fp32"\n'
    )
    result = CliRunner().invoke(train_main, ["set", "v1", "--workspace", str(workspace), "--no-report"])
    assert result.exit_code == 0, result.output
    assert "2.92% of the pixels to train" in " ".join(result.output.split())
