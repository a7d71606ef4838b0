"""Slips that are put in on purpose are found, and good labels are left in peace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from matseg_shared.contract.classes import UNLABELLED
from matseg_trainer.check import check as check_module
from matseg_trainer.check.alignment import find_misalignment
from matseg_trainer.check.label_agreement import shift_class
from matseg_trainer.check.label_help import find_tiny_regions
from matseg_trainer.check.similarity import grey, nearest_neighbours, thumbnail


def blobs(seed: int, size: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Smooth dark regions in noise: (H, W) uint8 image and labels 0, 255."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), 8)
    labels = ndimage.median_filter(np.where(field > field.std() / 2, 255, 0), 9).astype(np.uint8)
    image = np.where(labels == 255, 90, 150) + rng.normal(0, 12, labels.shape)
    return image.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def steel(small, prep):
    """Two different images a split, with label arrays."""

    def build(change=lambda _split, _number, image, label: (image, label)):
        for number, split in enumerate(("train", "train", "validate", "validate", "test", "test")):
            image, label = change(split, number, *blobs(number))
            small.add(split, f"s{number}", label, image=image)
        assert prep("labels", "steel", "train", "validate", "test", "--classes", 2).exit_code == 0
        return small

    return build


def found(prep, *kinds: str) -> list[dict]:
    """Findings of a check, which must not be a problem."""
    result = prep("check", "steel", "--json")
    assert result.exit_code == 0, result.output
    findings = json.loads(result.stdout)["findings"]
    assert {item["kind"] for item in findings} == set(kinds)
    return findings


def test_good_labels_are_left_in_peace(steel, prep) -> None:
    steel()
    assert found(prep) == []
    printed = prep("check", "steel").output
    assert "most alike across splits" in printed
    assert "look at" not in printed


def test_stray_pixels_are_counted_and_located(steel, prep) -> None:
    def slip(_split, number, image, label):
        if number == 2:
            label[:40, :40] = 0
            label[5, 7] = label[20, 30] = 255
            label[20, 31] = 255
        return image, label

    steel(slip)
    (finding,) = found(prep, "tiny_regions")
    assert finding["path"].endswith("s2.png")
    assert "2 of class 1 (x 7 y 5, x 30 y 20)" in finding["message"]


def test_a_diagonal_line_is_one_region_and_five_pixels_are_not_tiny() -> None:
    labels = np.eye(5, dtype=np.uint8)
    assert find_tiny_regions(labels) == ()
    labels = np.zeros((9, 9), dtype=np.uint8)
    labels[4, 4:8] = 3
    (tiny,) = find_tiny_regions(labels)
    assert (tiny.index, tiny.count, tiny.places) == (3, 1, ((4, 4),))


@pytest.mark.parametrize("shift", [(0, 3), (-2, 0), (5, -4), (9, 12)])
def test_a_shifted_label_image_is_found_with_its_shift(steel, prep, shift: tuple[int, int]) -> None:
    def move(_split, number, image, label):
        return image, ndimage.shift(label, shift, order=0, mode="nearest") if number == 1 else label

    steel(move)
    (finding,) = found(prep, "misaligned")
    assert finding["path"].endswith("s1.png")
    dy, dx = -shift[0], -shift[1]  # what brings it back
    vertical, horizontal = "down" if dy > 0 else "up", "right" if dx > 0 else "left"
    words = f"moved {abs(dy)} pixel(s) {vertical} and {abs(dx)} to the {horizontal}"
    assert words in finding["message"]


def test_images_in_which_nothing_can_be_aligned() -> None:
    noise = np.random.default_rng(0).normal(size=(80, 80)).astype(np.float32)
    _, label = blobs(1, 80)
    flat = np.zeros((80, 80), np.float32)
    for pixels, labels in ((noise, label // 255), (flat, label // 255), (noise, flat.astype(np.uint8))):
        assert find_misalignment(pixels, labels) is None
    assert find_misalignment(noise[:4, :5], np.zeros((4, 5), np.uint8)) is None


def noisier(image: np.ndarray) -> np.ndarray:
    return (image + np.random.default_rng(9).normal(0, 5, image.shape)).clip(0, 255)


@pytest.mark.parametrize(
    ("turn", "change", "kind"),
    [
        (np.array, np.array, "copy"),
        (np.rot90, np.array, "copy"),
        (np.fliplr, np.array, "copy"),
        (lambda picture: np.rot90(np.flipud(picture), 3), np.array, "copy"),
        (np.array, lambda image: image * 0.6 + 40, "copy"),
        (np.flipud, noisier, "near_copy"),
    ],
)
def test_a_copy_in_another_split_is_found(steel, prep, turn, change, kind: str) -> None:
    def leak(_split, number, image, label):
        if number == 4:
            image, label = (np.ascontiguousarray(turn(picture)) for picture in blobs(0))
            image = change(image).astype(np.uint8)
        return image, label

    steel(leak)
    (finding,) = found(prep, kind)
    text = finding["path"] + " " + finding["message"]
    assert "s0.png" in text
    assert "s4.png" in text
    assert "remove it from one" in text


def test_a_copy_in_its_own_split_is_named_once(steel, prep) -> None:
    steel(lambda _split, number, image, label: blobs(0) if number == 1 else (image, label))
    (finding,) = found(prep, "copy")
    text = finding["path"] + " " + finding["message"]
    assert "s0.png" in text
    assert "train/images/s1.png" in text
    assert "remove one" in text


def test_crops_of_one_image_in_two_splits_are_found_by_name(small, prep) -> None:
    for number, (split, stem) in enumerate(
        (("train", "a_x0_y0"), ("validate", "a_x64_y0"), ("validate", "b_x0_y0"))
    ):
        image, label = blobs(number)
        small.add(split, stem, label, image=image)
    prep("labels", "steel", "train", "validate", "--classes", 2)
    (finding,) = found(prep, "shared_source")
    assert "a_x64_y0.png" in finding["message"]
    assert "b_x0_y0" not in finding["message"]


def test_an_array_that_does_not_follow_its_label_image_is_a_problem(steel, prep) -> None:
    small = steel()
    path = small.root / "validate" / "labels_npy" / "s3.npy"
    labels = np.load(path)
    labels[10:12, 10:15] ^= 1
    np.save(path, labels)
    result = prep("check", "steel")
    assert result.exit_code == 2
    assert "s3.npy: expected the classes of s3_L.png, found 10 pixel(s) of others; run" in result.output


def test_images_of_different_sizes_tiny_and_blank_ones_can_be_compared(tmp_path: Path) -> None:
    image, _ = blobs(3)
    pictures = {
        "whole": image,
        "half": np.asarray(Image.fromarray(image).resize((80, 80), Image.Resampling.BOX)),
        "blank": np.full((64, 64), 7, np.uint8),
        "tiny": image[:8, :8],
    }
    thumbnails = []
    for name, pixels in pictures.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path)
        thumbnails.append(thumbnail("train" if name == "whole" else "test", path, grey(path)))
    assert thumbnails[2] is thumbnails[3] is None
    neighbours = nearest_neighbours([item for item in thumbnails if item is not None])
    assert {item.path.stem for item in neighbours} == {"whole", "half"}
    assert all(item.detail is not None and item.detail > 0.99 for item in neighbours)
    assert nearest_neighbours(thumbnails[:1]) == ()


def test_without_its_packages_a_check_says_what_it_left_out(steel, prep, monkeypatch) -> None:
    steel()
    monkeypatch.setattr(check_module.importlib.util, "find_spec", lambda _: None)
    result = prep("check", "steel")
    assert result.exit_code == 0
    assert "slips in labels were not looked for: that needs the extra `train`" in result.output
    assert prep("check", "steel", "--label-agreement").exit_code == 3


def test_the_agreement_of_a_strip_is_exact_and_of_a_disc_near() -> None:
    strip = np.zeros((40, 60), np.uint8)
    strip[:, 20:40] = 1
    half, whole = shift_class(strip, 1, (0.5, 1.0))
    assert (half.area, half.gained, half.lost) == (800, 40, 40)
    assert half.iou == pytest.approx((20 / 21 + 19 / 20) / 2)
    assert (whole.gained, whole.lost) == (80, 80)
    y, x = np.mgrid[:120, :120] - 59.5
    disc = (y**2 + x**2 < 40**2).astype(np.uint8)
    for shift, found_class in zip((0.5, 1.0), shift_class(disc, 1, (0.5, 1.0)), strict=True):
        expected = (40**2 / (40 + shift) ** 2 + (40 - shift) ** 2 / 40**2) / 2
        assert 1 - found_class.iou == pytest.approx(1 - expected, rel=0.1)


def test_the_agreement_of_classes_that_are_nowhere_or_everywhere() -> None:
    labels = np.zeros((5, 5), np.uint8)
    (everywhere,) = shift_class(labels, 0, (1.0,))
    (nowhere,) = shift_class(labels, 1, (1.0,))
    assert everywhere.iou == 1
    assert nowhere.iou is None


def test_the_agreement_is_printed_per_split(steel, prep) -> None:
    steel()
    result = prep("check", "steel", "--label-agreement")
    assert "IoU of labels whose boundaries are moved by 0.5 and 1 px" in result.output
    document = json.loads(prep("check", "steel", "--label-agreement", "--json").stdout)
    assert [(item["split"], item["shift"]) for item in document["label_agreement"]] == [
        (split, shift) for split in ("train", "validate", "test") for shift in (0.5, 1.0)
    ]
    for smaller, larger in zip(
        document["label_agreement"][::2], document["label_agreement"][1::2], strict=True
    ):
        assert 0.5 < larger["iou"][1] < smaller["iou"][1] < 1


def test_real_slices_are_left_in_peace_and_a_shifted_one_is_found(real) -> None:
    root = real("tomography")
    for number, image in enumerate(sorted((root / "validate" / "images").iterdir())[::3]):
        stem = image.stem
        with Image.open(root / "validate" / "labels" / f"{stem}_L.png") as picture:
            labels = (np.asarray(picture.convert("RGB"))[..., 0] > 127).astype(np.uint8)
        pixels = grey(image)
        assert find_misalignment(pixels, labels) is None
        moved = find_misalignment(pixels, np.roll(labels, (4, -3), (0, 1)))
        assert moved is not None, (number, stem)
        assert max(abs(moved.dy + 4), abs(moved.dx - 3)) <= 1
        assert find_tiny_regions(labels) == ()


def strokes(label: np.ndarray) -> np.ndarray:
    """Labels (as 0, 255) in every third band of eight rows only; 128 elsewhere, but for three single pixels."""
    partly = np.where(np.arange(len(label))[:, None] // 8 % 3 == 0, label, 128).astype(np.uint8)
    partly[12, [20, 60, 100]] = label[12, [20, 60, 100]]
    return partly


def test_labels_of_a_part_are_left_in_peace_and_their_share_is_told(small, prep) -> None:
    for number, split in enumerate(("train", "validate", "test")):
        image, label = blobs(number)
        small.add(split, f"s{number}", strokes(label), image=image)
    classes = "".join(
        f"[[class]]\nname = 'class {n}'\ncolour = [{n}, 0, 0]\nlabel_value = {255 * n}\n" for n in (0, 1)
    )
    (small.root / "classes.toml").write_text(f"{classes}[unlabelled]\nlabel_value = 128\n")
    assert prep("labels", "steel", "train", "validate", "test", "--classes", 2).exit_code == 0
    assert found(prep) == []
    printed = prep("check", "steel", "--label-agreement").output
    assert "labelled" in printed
    document = json.loads(prep("check", "steel", "--json").stdout)
    assert 0.3 < document["splits"][0]["labelled"] < 0.4


def test_shifted_labels_of_a_part_are_found() -> None:
    image, label = blobs(3, 320)
    moved = np.roll(label, (5, -4), (0, 1))
    partly = np.where(np.arange(320)[:, None] // 40 % 2 == 0, moved // 255, UNLABELLED).astype(np.uint8)
    shift = find_misalignment(image.astype(np.float32), partly)
    assert shift is not None
    assert (shift.dy, shift.dx) == (-5, 4)


def test_agreement_counts_labelled_pixels_only() -> None:
    """The boundary of a half plane, of which a quarter is labelled."""
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 1
    whole = shift_class(labels[:10], 1, (1.0,))[0]
    labels[10:] = UNLABELLED
    assert shift_class(labels, 1, (1.0,))[0] == whole
