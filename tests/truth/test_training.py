"""The trainer's side: label images and training images as they are meant, or a refusal, or a note in the check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw
from raw_png import PALETTE, write_png
from scipy import ndimage

from matseg_shared.contract.metadata import PixelSize
from matseg_shared.errors import DatasetError, ImageError, UsageError
from matseg_shared.images.read import read_image
from matseg_trainer.check.alignment import find_turn
from matseg_trainer.commands.prep import main as prep_main
from matseg_trainer.data.examples import Examples
from matseg_trainer.data.folder import Dataset
from matseg_trainer.data.labels import scan_label
from matseg_trainer.data.pixel_size import common_pixel_size, parse_pixel_size
from matseg_trainer.data.statistics import SplitStatistics, require_one_kind

Prep = Callable[..., Result]


def blobs(seed: int, shape: tuple[int, int] = (96, 96)) -> tuple[np.ndarray, np.ndarray]:
    """Smooth dark regions in noise: (H, W) uint8 image and labels 0 and 255."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 6)
    labels = np.where(field > field.std() / 2, 255, 0).astype(np.uint8)
    image = np.where(labels == 255, 90, 150) + rng.normal(0, 12, shape)
    return image.clip(0, 255).astype(np.uint8), labels


def save(path: Path, pixels: np.ndarray | Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set with one good pair in train."""
    root = tmp_path / "data" / "steel"
    image, labels = blobs(0)
    save(root / "train" / "images" / "good.png", image)
    save(root / "train" / "labels" / "good.png", labels)
    return root


@pytest.fixture
def prep(tmp_path: Path) -> Prep:
    """`matseg-prep` in the temporary workspace."""

    def call(*words: object) -> Result:
        return CliRunner().invoke(prep_main, [*map(str, words), "--workspace", str(tmp_path)])

    return call


def refused(prep: Prep, root: Path) -> str:
    """Refusal with which `matseg-prep labels` makes no arrays at all."""
    result = prep("labels", "steel", "train", "--classes", 2)
    assert result.exit_code == 2, result.output
    assert not list(root.rglob("*.npy"))
    return result.output


def add(
    root: Path, labels: np.ndarray | Image.Image, name: str = "odd.png", image: np.ndarray | None = None
) -> None:
    save(root / "train" / "images" / "odd.png", blobs(1)[0] if image is None else image)
    save(root / "train" / "labels" / name, labels)


# label images


def test_label_image_with_smooth_edges_is_refused_and_its_values_named(root: Path, prep: Prep) -> None:
    smooth = Image.fromarray(blobs(1)[1]).resize((192, 192)).resize((96, 96), Image.Resampling.BILINEAR)
    add(root, smooth)
    message = refused(prep, root)
    assert "odd.png" in message
    assert "--nearest" in message


def test_label_image_saved_as_jpeg_is_refused(root: Path, prep: Prep) -> None:
    add(root, blobs(1)[1], "odd.jpg")
    assert "odd.jpg" in refused(prep, root)


def test_label_image_with_transparent_pixels_is_refused(root: Path, prep: Prep) -> None:
    labels = Image.fromarray(blobs(1)[1]).convert("RGBA")
    ImageDraw.Draw(labels).rectangle((3, 3, 9, 9), fill=(255, 255, 255, 0))
    add(root, labels)
    assert "has transparent pixels" in refused(prep, root)


def test_label_image_with_a_transparent_palette_colour_keeps_its_indices(tmp_path: Path) -> None:
    chunks = {b"PLTE": bytes([0, 0, 0, 255, 0, 0]), b"tRNS": bytes([0, 255])}
    path = write_png(tmp_path / "a.png", 4, 8, PALETTE, [bytes([0, 1, 1, 0])], chunks)
    assert scan_label(path).values.tolist() == [0, 1]
    with pytest.raises(ImageError, match="has transparent pixels"):
        read_image(path)  # as an image its colours would count


@pytest.mark.parametrize(
    "dtype", ["uint16", "int16", "uint8", "int32", "uint32", "int64", "float32", "float64"]
)
def test_label_image_of_whole_numbers_keeps_its_values(tmp_path: Path, dtype: str) -> None:
    labels = (blobs(1)[1] // 255).astype(dtype) * np.dtype(dtype).type(100)
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack")
    assert scan_label(tmp_path / "a.tif").values.tolist() == [0, 100]


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_label_image_of_other_numbers_is_refused(root: Path, prep: Prep, dtype: str) -> None:
    path = root / "train" / "labels" / "odd.tif"
    add(root, blobs(1)[1])
    (root / "train" / "labels" / "odd.png").unlink()
    tifffile.imwrite(path, blobs(1)[1].astype(dtype) / 2, photometric="minisblack")
    assert f"expected whole numbers as labels, found {dtype}" in refused(prep, root)


@pytest.mark.parametrize("change", ["cropped", "transposed"])
def test_label_image_of_another_size_is_refused(root: Path, prep: Prep, change: str) -> None:
    image, labels = blobs(1, (96, 80))
    add(root, labels[:90] if change == "cropped" else np.ascontiguousarray(labels.T), image=image)
    assert "expected 96 x 80 pixels as in odd.png, found" in refused(prep, root)


def test_label_image_with_a_rotation_flag_is_refused(root: Path, prep: Prep) -> None:
    add(root, blobs(1)[1])
    tag = [(274, "H", 1, 6, True)]
    (root / "train" / "labels" / "odd.png").unlink()
    tifffile.imwrite(
        root / "train" / "labels" / "odd.tif", blobs(1)[1], photometric="minisblack", extratags=tag
    )
    assert "carries a rotation flag (orientation 6)" in refused(prep, root)


TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned by 90 degrees to the right": np.rot90,  # what brings back labels that were turned to the left
    "turned by 180 degrees": lambda labels: labels[::-1, ::-1],
    "mirrored left to right": np.fliplr,
    "mirrored top to bottom": np.flipud,
    "mirrored along the falling diagonal": np.transpose,
}


@pytest.mark.parametrize("words", TURNS)
def test_label_image_that_was_turned_is_found_by_the_check(root: Path, prep: Prep, words: str) -> None:
    add(root, np.ascontiguousarray(TURNS[words](blobs(1)[1])))
    assert prep("labels", "steel", "train", "--classes", 2).exit_code == 0
    result = prep("check", "steel", "--json")
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["kind"], Path(finding["path"]).name) == ("turned", "odd.png")
    assert f"its labels would fit better {words}" in finding["message"]


def test_real_label_images_are_not_taken_for_turned() -> None:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "tomography" / "validate"
    if not folder.is_dir():
        pytest.skip(f"the real data set {folder.parent} is not here")
    turned = []
    for label in sorted((folder / "labels").iterdir())[:4]:
        pixels = np.asarray(Image.open(folder / "images" / label.name.replace("_L.", ".")).convert("L"))
        classes = (np.asarray(Image.open(label).convert("L")) > 127).astype(np.uint8)
        assert find_turn(pixels.astype(np.float32), classes) is None
        turned.append(find_turn(pixels.astype(np.float32), np.ascontiguousarray(classes[::-1])))
    assert turned.count("mirrored top to bottom") >= 3, turned


# training images


@pytest.mark.parametrize("other", ["uint16", "float32", "colour"])
def test_training_images_of_two_kinds_are_refused(root: Path, prep: Prep, other: str) -> None:
    image, labels = blobs(1)
    odd = np.stack([image, image, 255 - image], axis=-1) if other == "colour" else image.astype(other)
    add(root, labels)
    (root / "train" / "images" / "odd.png").unlink()
    photometric: Any = "rgb" if other == "colour" else "minisblack"
    tifffile.imwrite(root / "train" / "images" / "odd.tif", odd, photometric=photometric)
    assert prep("labels", "steel", "train", "--classes", 2).exit_code == 0
    found = prep("check", "steel")
    assert found.exit_code != 0
    assert "expected images of one" in found.output
    statistics = SplitStatistics(Examples(Dataset.open(root).samples("train"), n_class=2), 2)
    with pytest.raises(DatasetError, match="expected images of one kind, found several"):
        require_one_kind(statistics, statistics, root)


def test_training_image_of_another_bit_depth_in_the_same_dtype_is_noted(root: Path, prep: Prep) -> None:
    add(root, blobs(1)[1])
    save(root / "train" / "labels" / "third.png", blobs(2)[1])
    for seed, (stem, factor) in enumerate({"good": 257, "odd": 16, "third": 257}.items()):
        (root / "train" / "images" / f"{stem}.png").unlink(missing_ok=True)
        save(root / "train" / "images" / f"{stem}.png", blobs(seed)[0].astype(np.uint16) * np.uint16(factor))
    assert prep("labels", "steel", "train", "--classes", 2).exit_code == 0
    (finding,) = json.loads(prep("check", "steel", "--json").stdout)["findings"]
    assert (finding["kind"], Path(finding["path"]).name) == ("scale", "odd.png")
    assert "see whether it is of another bit depth or unit" in finding["message"]


def test_two_images_or_label_images_of_one_name_are_refused(root: Path, prep: Prep) -> None:
    add(root, blobs(1)[1])
    shutil.copy(root / "train" / "labels" / "odd.png", root / "train" / "labels" / "odd_L.png")
    assert "odd.png has several label images (odd.png, odd_L.png)" in refused(prep, root)
    (root / "train" / "labels" / "odd_L.png").unlink()
    tifffile.imwrite(root / "train" / "images" / "odd.tif", blobs(1)[0], photometric="minisblack")
    assert "expected one image per stem, found odd.png and odd.tif" in refused(prep, root)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_crops_keep_depth_and_values(root: Path, prep: Prep, dtype: str) -> None:
    pixels = blobs(0)[0].astype(dtype) * np.dtype(dtype).type(1 if dtype == "uint8" else 201)
    (root / "train" / "images" / "good.png").unlink()
    tifffile.imwrite(root / "train" / "images" / "good.tif", pixels, photometric="minisblack", byteorder=">")
    shutil.copytree(root / "train", root / "validate")
    assert prep("labels", "steel", "train", "validate", "--classes", 2).exit_code == 0
    assert prep("crop", "steel", 32, 2, 1, "-r", "small").exit_code == 0
    for crop in (root.parent / "small" / "train" / "images").iterdir():
        x, y = (int(part[1:]) for part in crop.stem.split("_")[-2:])
        found = read_image(crop)
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, pixels[y : y + 32, x : x + 32])


def test_crops_of_transparent_colours_are_refused(root: Path, prep: Prep) -> None:
    shutil.copytree(root / "train", root / "validate")
    assert prep("labels", "steel", "train", "validate", "--classes", 2).exit_code == 0
    chunks = {b"PLTE": bytes([0, 0, 0, 255, 0, 0]), b"tRNS": bytes([0, 255])}
    rows = [bytes(96)] * 96
    write_png(root / "train" / "images" / "good.png", 96, 8, PALETTE, rows, chunks)
    result = prep("crop", "steel", 32, 2, 1, "-r", "small")
    assert result.exit_code == 2
    assert "has transparent pixels" in result.output


# pixel size


def sized(path: Path, per_um: float) -> Path:
    metadata = {"unit": "um"}
    tifffile.imwrite(path, blobs(0)[0], imagej=True, resolution=(per_um, per_um), metadata=metadata)
    return path


def test_a_training_set_s_pixel_size_goes_into_the_model_where_all_images_agree(tmp_path: Path) -> None:
    paths = [sized(tmp_path / f"{number}.tif", 2.0) for number in range(3)]
    assert common_pixel_size(paths) == PixelSize(value=0.5, unit="um")
    assert common_pixel_size([*paths, sized(tmp_path / "other.tif", 4.0)]) is None
    assert common_pixel_size([*paths, save(tmp_path / "silent.png", blobs(0)[0])]) is None
    assert parse_pixel_size("0.65um") == PixelSize(value=0.65, unit="um")
    for text in ("0.65", "1.3,0.65um", "um", "-1um"):
        with pytest.raises(UsageError, match="--pixel-size"):
            parse_pixel_size(text)


def test_images_of_several_magnifications_are_noted_by_the_check(root: Path, prep: Prep) -> None:
    add(root, blobs(1)[1])
    for stem, per_um in (("good", 2.0), ("odd", 4.0)):
        (root / "train" / "images" / f"{stem}.png").unlink()
        sized(root / "train" / "images" / f"{stem}.tif", per_um)
    assert prep("labels", "steel", "train", "--classes", 2).exit_code == 0
    output = " ".join(prep("check", "steel").output.split())
    assert "the images say that their pixels are of several sizes: 0.5 x 0.5 um, 0.25 x 0.25 um" in output
