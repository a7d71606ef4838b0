"""Exports of other tools, in each tool's own layout, become data sets that can be trained on."""

from __future__ import annotations

import base64
import io
import json
import tomllib
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import Result
from label_exports import (
    HEIGHT,
    WIDTH,
    as_text,
    box,
    coco,
    cvat,
    feature,
    imported,
    labelbox,
    labelme,
    labels,
    names,
    nothing_written,
    packed,
    rectangle,
    refused,
    ring,
    run_lengths,
    save,
    square,
    via,
)
from PIL import Image
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi, roiwrite

from matseg_trainer.prepare.imports.coco import unpack_counts
from matseg_trainer.prepare.imports.shapes import ellipse, fill

Prep = Callable[..., Result]


# --- pixels of shapes ---------------------------------------------------------------------------------------------


def by_the_rule(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(H, W) pixels whose centres have an odd number of edges to their left, one by one."""
    mask = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        y, x = row + 0.5, column + 0.5
        for corners in rings:
            for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                if (ya <= y) != (yb <= y) and xa + (y - ya) * (xb - xa) / (yb - ya) <= x:
                    mask[row, column] ^= True
    return mask


@pytest.mark.parametrize("seed", range(6))
def test_a_pixel_belongs_to_a_polygon_that_holds_its_centre(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-6, 26, (count, 2)) for count in (3, 7)]
    rings.append(np.round(rng.uniform(0, 20, (5, 2)) * 2) / 2)  # corners on pixel centres and edges
    top, left, found = fill(rings, (18, 22))
    mask = np.zeros((18, 22), bool)
    mask[top : top + found.shape[0], left : left + found.shape[1]] = found
    assert (mask == by_the_rule(rings, (18, 22))).all()


def test_neighbouring_polygons_share_no_pixel_and_leave_none_out() -> None:
    corner = np.array([7.5, 4.5])  # on a pixel's centre
    frame = np.array([(0, 0), (20, 0), (20, 10), (0, 10)], float)
    total = np.zeros((10, 20), int)
    for number in range(4):
        top, left, mask = fill([np.array([frame[number], frame[(number + 1) % 4], corner])], (10, 20))
        total[top : top + mask.shape[0], left : left + mask.shape[1]] += mask
    assert (total == 1).all()


def test_a_circle_has_its_area() -> None:
    _, _, mask = fill([ellipse(100.0, 100.0, 80.0, 80.0)], (200, 200))
    assert mask.sum() == pytest.approx(np.pi * 80**2, rel=2e-3)


def test_run_lengths_are_those_of_the_coco_api() -> None:
    assert unpack_counts("231N") == [2, 3, 1, 1]  # M=[0 0 1 1 1 0 1] of its documentation


# --- CVAT ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [lambda folder: folder, packed], ids=["folder", "zip"])
def test_cvat_masks(prep: Prep, workspace: Path, pictures: Path, pack: Callable[[Path], Path]) -> None:
    source = pack(cvat(workspace / "task"))
    document = imported(prep("import", source, "set", "--images", pictures, "--json"))
    assert names(workspace) == ["background", "crack", "pore"]
    assert (labels(workspace, "s0") == box(5, 20, 10, 30)).all()
    assert [item["colour"] for item in document["classes"]] == [[0, 0, 0], [250, 50, 83], [51, 221, 255]]
    assert any("'pore' is declared and found nowhere" in note for note in document["notes"])
    assert (workspace / "data/set/train/images/s1.tif").read_bytes() == (pictures / "s1.tif").read_bytes()
    assert prep("labels", "set", "train").exit_code == 0
    assert (np.load(workspace / "data/set/train/labels_npy/s0.npy") == box(5, 20, 10, 30)).all()


def test_cvat_masks_with_their_pictures_need_no_folder(prep: Prep, workspace: Path) -> None:
    source = cvat(workspace / "task")
    for stem in ("s0", "s1"):
        save(source / "JPEGImages" / f"{stem}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert prep("import", packed(source), "set").exit_code == 0


def test_cvat_without_its_background_is_unlabelled(prep: Prep, workspace: Path, pictures: Path) -> None:
    source = cvat(workspace / "task", ("s0",))
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[:3], mask[3:6] = (250, 50, 83), (51, 221, 255)
    save(source / "SegmentationClass" / "s0.png", mask)
    document = imported(
        prep("import", source, "set", "--images", pictures, "--outside", "unlabelled", "--json")
    )
    assert [item["name"] for item in document["classes"]] == ["crack", "pore"]
    assert sorted(np.unique(labels(workspace, "s0"))) == [0, 1, 255]
    assert document["unlabelled"] == (HEIGHT - 6) * WIDTH
    assert "[unlabelled]\nlabel_value = 255" in (workspace / "data/set/classes.toml").read_text()


def test_a_colour_of_no_cvat_class_is_named(prep: Prep, workspace: Path, pictures: Path) -> None:
    source = cvat(workspace / "task")
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[0, :3] = 9, 9, 9
    save(source / "SegmentationClass" / "s1.png", mask)
    refused(prep("import", source, "set", "--images", pictures), "s1.png", "(9, 9, 9) (3)")
    assert nothing_written(workspace)


@pytest.mark.parametrize(
    ("labelmap", "told"),
    [
        ("crack:250,50\n", "line 1"),
        ("crack:250,50,300::\n", "line 1"),
        ("a:1,2,3::\nb:1,2,3::\n", "line 2"),
        ("# nothing\n", "found none"),
    ],
)
def test_a_damaged_labelmap_is_told(
    prep: Prep, workspace: Path, pictures: Path, labelmap: str, told: str
) -> None:
    source = cvat(workspace / "task", labelmap=labelmap)
    refused(prep("import", source, "set", "--images", pictures), "labelmap.txt", told)


# --- COCO ---------------------------------------------------------------------------------------------------------


def test_coco_polygons_in_the_order_of_the_file(prep: Prep, workspace: Path, pictures: Path) -> None:
    source = coco(
        pictures / "instances.json",
        [
            {"segmentation": [rectangle(5, 10, 15, 30), rectangle(20, 10, 25, 30)]},
            {"segmentation": [rectangle(5, 20, 10, 25)], "category_id": 7},
            {"segmentation": [], "image_id": 2},
        ],
    )
    document = imported(prep("import", source, "set", "--json"))
    expected = box(5, 10, 15, 30) | box(20, 10, 25, 30)
    expected[5:10, 20:25] = 2
    assert (labels(workspace, "s0") == expected).all()
    assert not labels(workspace, "s1").any()
    assert names(workspace) == ["background", "pore", "crack"]
    notes = " ".join(document["notes"])
    assert "at 25 pixel(s) a later one covers another class" in notes
    assert "1 shape(s) without an area" in notes
    assert "'background'" in notes
    assert "--outside unlabelled" in notes


@pytest.mark.parametrize("pack", [lambda counts: counts, as_text], ids=["plain", "text"])
def test_coco_run_lengths(
    prep: Prep, workspace: Path, pictures: Path, pack: Callable[[list[int]], object]
) -> None:
    mask = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.5
    mask[:, :20] = False
    mask[:, 40:] = True
    counts = pack(run_lengths(mask))
    source = coco(
        pictures / "instances.json",
        [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}, "iscrowd": 1}],
    )
    assert prep("import", source, "set").exit_code == 0
    assert (labels(workspace, "s0") == mask).all()


def test_a_coco_export_with_its_pictures_in_folders(prep: Prep, workspace: Path) -> None:
    folder = workspace / "export"
    entries = []
    for number, scan in enumerate(("scan1", "scan2"), 1):
        save(folder / "images" / scan / "0001.png", np.full((HEIGHT, WIDTH), number, np.uint8))
        entries.append({"id": number, "file_name": f"{scan}/0001.png", "width": WIDTH, "height": HEIGHT})
    coco(
        folder / "annotations" / "instances_default.json",
        [{"segmentation": [rectangle(0, 0, 5, 5)]}, {"segmentation": [rectangle(0, 0, 5, 5)], "image_id": 2}],
        images=entries,
    )
    assert prep("import", packed(folder), "set").exit_code == 0
    assert {path.stem for path in (workspace / "data/set/train/images").iterdir()} == {
        "scan1_0001",
        "scan2_0001",
    }


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        ({"segmentation": [rectangle(100, 100, 110, 110)]}, "annotation 1"),
        ({"segmentation": [rectangle(5, 5, 9, 9)], "image_id": 12}, "found 12"),
        ({"segmentation": [rectangle(5, 5, 9, 9)], "category_id": 2}, "found 2"),
        ({"segmentation": [[1, 2, 3]]}, "odd number"),
        ({"segmentation": [[]]}, "expected something drawn"),
        ({"segmentation": [["a", 2, 3, 4]]}, "annotations.0.segmentation"),
        ({"segmentation": [[float("nan"), 2, 3, 4, 5, 6]]}, "annotations.0.segmentation"),
        ({"segmentation": [[1e300, 2, 3, 4, 5, 6]]}, "annotations.0.segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 5]}}, "add up to 10"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "~~~~~~~~"}}, "add up to"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "9 x 9"),
    ],
)
def test_coco_that_contradicts_itself(
    prep: Prep, workspace: Path, pictures: Path, annotation: dict[str, Any], told: str
) -> None:
    source = coco(pictures / "instances.json", [annotation])
    refused(prep("import", source, "set"), "instances.json", told)
    assert nothing_written(workspace)


def test_a_picture_of_another_size_is_told(prep: Prep, workspace: Path, pictures: Path) -> None:
    source = coco(pictures / "instances.json", [{"segmentation": [rectangle(0, 0, 5, 5)]}])
    save(pictures / "s0.png", np.zeros((HEIGHT * 2, WIDTH * 2), np.uint8))
    refused(prep("import", source, "set"), "s0.png", f"expected {HEIGHT} x {WIDTH}", "found 80 x 120")
    assert nothing_written(workspace)


def test_missing_pictures_are_named_all(prep: Prep, workspace: Path, pictures: Path) -> None:
    source = coco(workspace / "elsewhere" / "instances.json", [{"segmentation": [rectangle(0, 0, 5, 5)]}])
    refused(prep("import", source, "set"), "s0.png, s1.tif", "--images")
    (pictures / "s1.tif").unlink()
    refused(prep("import", source, "set", "--images", pictures), "found none for s1.tif")


def test_the_second_split_has_the_classes_of_the_first(prep: Prep, workspace: Path, pictures: Path) -> None:
    first = coco(pictures / "train.json", [{"segmentation": [rectangle(0, 0, 5, 5)]}])
    assert prep("import", first, "set").exit_code == 0
    table = (workspace / "data/set/classes.toml").read_text()
    swapped = [{"id": 1, "name": "crack"}, {"id": 2, "name": "pore"}]
    second = coco(pictures / "val.json", [{"segmentation": [rectangle(0, 0, 5, 5)]}], categories=swapped)
    assert prep("import", second, "set", "--split", "validate").exit_code == 0
    assert labels(workspace, "s0", "validate")[0, 0] == 2
    assert (workspace / "data/set/classes.toml").read_text() == table
    third = coco(pictures / "test.json", [], categories=[{"id": 1, "name": "inclusion"}])
    refused(prep("import", third, "set", "--split", "test"), "classes.toml", "inclusion")
    refused(prep("import", second, "set", "--split", "validate"), "--overwrite")
    assert prep("import", second, "set", "--split", "validate", "--overwrite").exit_code == 0


def test_a_split_beside_label_images_of_other_values(prep: Prep, workspace: Path, pictures: Path) -> None:
    for stem in ("a", "b"):
        save(workspace / "data/set/train/images" / f"{stem}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
        save(workspace / "data/set/train/labels" / f"{stem}.png", box(0, 0, 9, 9, 255))
    assert prep("labels", "set", "train", "--classes", 2).exit_code == 0
    table = workspace / "data/set/classes.toml"
    table.write_text(table.read_text().replace("class 0", "background").replace("class 1", "pore"))
    drawn = [
        {"segmentation": [rectangle(0, 0, 5, 5)]},
        {"segmentation": [rectangle(9, 9, 20, 20)], "category_id": 7},
    ]
    source = coco(pictures / "a.json", drawn)
    words = ("import", source, "set", "--split", "validate", "--unlabelled", "crack")
    assert prep(*words).exit_code == 0
    expected = box(0, 0, 5, 5, 255)
    expected[9:20, 9:20] = 254
    assert (labels(workspace, "s0", "validate") == expected).all()
    assert tomllib.loads(table.read_text())["unlabelled"] == {"label_value": 254}
    assert prep("labels", "set", "validate").exit_code == 0
    assert sorted(np.unique(np.load(workspace / "data/set/validate/labels_npy/s0.npy"))) == [0, 1, 255]


def test_an_imported_set_is_shared_out_with_its_classes(prep: Prep, workspace: Path, pictures: Path) -> None:
    rows = [{"id": n + 1, "file_name": f"t{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(5)]
    for row in rows:
        save(pictures / row["file_name"], np.full((HEIGHT, WIDTH), row["id"], np.uint8))
    drawn = [{"segmentation": [rectangle(0, 0, 5, 5)], "image_id": row["id"]} for row in rows]
    assert prep("import", coco(pictures / "all.json", drawn, images=rows), "set").exit_code == 0
    shared = prep("split", workspace / "data/set/train", "parts", "--validate", 1, "--test", 1)
    assert shared.exit_code == 0, shared.output
    assert names(workspace, "parts") == names(workspace)
    assert prep("labels", "parts", "train", "validate", "test").exit_code == 0


# --- LabelMe ------------------------------------------------------------------------------------------------------


def test_labelme_shapes(prep: Prep, workspace: Path, pictures: Path) -> None:
    labelme(
        pictures / "s0.json",
        [
            {"label": "pore", "points": [[10, 5], [30, 15]], "shape_type": "rectangle"},
            {"label": "Korn ä", "points": [[50, 20], [50, 26]], "shape_type": "circle"},
            {"label": "pore", "points": [[2, 2], [3, 3]], "shape_type": "line"},
            {"label": "__ignore__", "points": [[0, 30], [60, 30], [60, 40], [0, 40]]},
        ],
    )
    document = imported(prep("import", pictures, "set", "--json"))
    assert names(workspace) == ["background", "Korn ä", "pore"]
    found = labels(workspace, "s0")
    assert (found[:17, :40] == box(5, 10, 15, 30, 2)[:17, :40]).all()
    assert np.count_nonzero(found == 1) == pytest.approx(np.pi * 36, rel=0.05)
    assert (found[30:] == 255).all()
    assert document["unlabelled"] == 10 * WIDTH
    assert any("1 shape(s) without an area" in note for note in document["notes"])


def test_pictures_of_one_name_lie_beside_their_labels(prep: Prep, workspace: Path) -> None:
    for value, scan in enumerate(("", "one/a", "two/a"), 1):
        folder = workspace / "drawn" / scan
        save(folder / "s.png", np.full((HEIGHT, WIDTH), value, np.uint8))
        labelme(folder / "s.json", [{"label": "pore", "points": [[0, 0], [value * 9, 0], [0, 9]]}])
    assert prep("import", workspace / "drawn", "set").exit_code == 0
    images = {path.stem: path for path in (workspace / "data/set/train/images").iterdir()}
    assert sorted(images) == ["drawn_s", "one_a_s", "two_a_s"]
    assert np.array(Image.open(images["two_a_s"]))[0, 0] == 3
    sizes = [np.count_nonzero(labels(workspace, stem)) for stem in sorted(images)]
    assert sizes == sorted(sizes)


def test_labelme_with_the_picture_in_the_file(prep: Prep, workspace: Path) -> None:
    stream = io.BytesIO()
    pixels = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(pixels).save(stream, "PNG")
    mask = io.BytesIO()
    Image.fromarray(np.eye(5, 6, dtype=np.uint8) * 255).save(mask, "PNG")
    shape = {"label": "pore", "shape_type": "mask", "points": [[10, 20], [15, 24]]}
    labelme(
        workspace / "drawn" / "a.json",
        [{**shape, "mask": base64.b64encode(mask.getvalue()).decode()}],
        imagePath="..\\Bilder\\a.tif",
        imageData=base64.b64encode(stream.getvalue()).decode(),
    )
    assert prep("import", workspace / "drawn", "set").exit_code == 0
    assert (np.array(Image.open(workspace / "data/set/train/images/a.png")) == pixels).all()
    expected = box(0, 0, 0, 0)
    expected[20:25, 10:16] = np.eye(5, 6)
    assert (labels(workspace, "a") == expected).all()


def test_labelme_strokes_leave_the_rest_unlabelled(prep: Prep, workspace: Path, pictures: Path) -> None:
    corners = [[0, 0], [20, 0], [20, 10], [0, 10]]
    labelme(
        pictures / "s0.json",
        [{"label": "a", "points": corners}, {"label": "b", "points": [[x + 30, y] for x, y in corners]}],
    )
    labelme(pictures / "s1.json", [], imagePath="s1.tif")
    document = imported(prep("import", pictures, "set", "--outside", "unlabelled", "--json"))
    assert document["images"] == 1
    assert document["left_out"] == ["s1.tif"]
    assert [path.name for path in (workspace / "data/set/train/images").iterdir()] == ["s0.png"]
    expected = box(0, 30, 10, 50, 1, ground=255)
    expected[:10, :20] = 0
    assert (labels(workspace, "s0") == expected).all()


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"label": " ", "points": [[0, 0], [1, 0], [1, 1]]}, "expected the name of a class"),
        ({"label": "a", "points": [[0, 0], [1, 1]], "shape_type": "line"}, "expected something drawn"),
        ({"label": "a\u001b[31m", "points": [[0, 0], [9, 0], [9, 9]]}, "control characters"),
        ({"label": "a", "points": [[0, 0], [1]]}, "shapes.0.points"),
        ({"label": "a", "points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": "!!"}, "base64"),
        ({"label": "a", "points": [[70, 0], [90, 0], [90, 9]]}, "column 70"),
    ],
)
def test_labelme_that_is_damaged(
    prep: Prep, workspace: Path, pictures: Path, shape: dict[str, Any], told: str
) -> None:
    refused(prep("import", labelme(pictures / "s0.json", [shape]), "set"), "s0.json", told)
    assert nothing_written(workspace)


# --- QuPath, ImageJ -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["FeatureCollection", "list"])
def test_qupath_with_holes(prep: Prep, workspace: Path, pictures: Path, whole: bool) -> None:
    features = [
        feature("Pore", [ring(5, 10, 25, 30), ring(10, 15, 20, 25)], color=[200, 0, 1]),
        feature("Crack", [[ring(30, 0, 35, 5)], [ring(30, 10, 35, 15)]], "MultiPolygon", colorRGB=-16776961),
        feature("Ignore*", [ring(36, 0, 40, 60)]),
        feature("Pore", [3, 4], "Point"),  # type: ignore[list-item]
    ]
    content = {"type": "FeatureCollection", "features": features} if whole else features
    (pictures / "s1.geojson").write_text(json.dumps(content), encoding="utf-8")
    document = imported(prep("import", pictures / "s1.geojson", "set", "--json"))
    assert [(item["name"], item["colour"]) for item in document["classes"]][1:] == [
        ("Crack", [0, 0, 255]),
        ("Pore", [200, 0, 1]),
    ]
    expected = box(5, 10, 25, 30, 2)
    expected[10:20, 15:25] = 0
    expected[30:35, 0:5] = expected[30:35, 10:15] = 1
    expected[36:] = 255
    assert (labels(workspace, "s1") == expected).all()
    assert any("1 shape(s) without an area" in note for note in document["notes"])


def test_qupath_classes_within_classes_and_objects_without(
    prep: Prep, workspace: Path, pictures: Path
) -> None:
    objects = [feature("", [ring(0, 0, 9, 9)], names=["Pore", "Filled"]), feature(None, [ring(9, 9, 20, 20)])]
    (pictures / "s1.geojson").write_text(json.dumps(objects), encoding="utf-8")
    assert prep("import", pictures / "s1.geojson", "set").exit_code == 0
    assert names(workspace) == ["background", "annotation", "Pore: Filled"]


def test_qupath_objects_without_a_name_or_corners(prep: Prep, pictures: Path) -> None:
    path = pictures / "s1.geojson"
    path.write_text(json.dumps([feature(" ", [ring(0, 0, 9, 9)])]), encoding="utf-8")
    refused(prep("import", path, "set"), "s1.geojson: object 1", "expected the name of a class")
    path.write_text(json.dumps([feature("a", []), feature("b", [], "MultiPolygon")]), encoding="utf-8")
    refused(prep("import", path, "set"), "expected something drawn")


def test_qupath_without_objects_is_a_picture_without_labels(
    prep: Prep, workspace: Path, pictures: Path
) -> None:
    (pictures / "s0.geojson").write_text("[]", encoding="utf-8")
    refused(prep("import", pictures / "s0.geojson", "set"), "s0.geojson", "expected something drawn")
    (pictures / "s1.geojson").write_text(json.dumps([feature("Pore", [ring(0, 0, 9, 9)])]), encoding="utf-8")
    assert imported(prep("import", pictures, "set", "--json"))["images"] == 2
    assert not labels(workspace, "s0").any()


def test_geojson_with_a_damaged_polygon_is_refused(prep: Prep, pictures: Path) -> None:
    (pictures / "s1.geojson").write_text(json.dumps([feature("a", [[[1, 2]]])]), encoding="utf-8")
    refused(prep("import", pictures / "s1.geojson", "set"), "s1.geojson", "coordinates")


def test_a_point_of_imagej_needs_no_slice(prep: Prep, workspace: Path) -> None:
    tifffile.imwrite(workspace / "stack.tif", np.zeros((6, HEIGHT, WIDTH), np.uint8))
    point = ImagejRoi(roitype=ROI_TYPE.POINT, name="note")
    roiwrite(workspace / "a.zip", [square(5, 10, 15, 30, name="pore-1", position=2), point], mode="w")
    document = imported(
        prep("import", workspace / "a.zip", "set", "--images", workspace / "stack.tif", "--json")
    )
    assert document["images"] == 1
    assert any("1 shape(s) without an area" in note for note in document["notes"])


def test_imagej_sets_beside_their_pictures(prep: Prep, workspace: Path, pictures: Path) -> None:
    composite = square(20, 30, 40, 60, name="crack-1")
    corners = [
        (0, 30, 20),
        (1, 50, 20),
        (1, 50, 40),
        (1, 30, 40),
        (0, 35, 25),
        (1, 40, 25),
        (1, 40, 30),
        (1, 35, 30),
    ]
    composite.multi_coordinates = np.array([value for corner in corners for value in corner], np.float32)
    composite.shape_roi_size = len(composite.multi_coordinates)
    polygon = ImagejRoi.frompoints([[1, 30], [9, 30], [9, 38], [1, 38]], name="pore-2")
    roiwrite(pictures / "s0.zip", [square(5, 10, 15, 30, name="pore-1"), polygon, composite], mode="w")
    line = ImagejRoi(roitype=ROI_TYPE.LINE, x1=1, y1=1, x2=5, y2=5, name="scale")
    oval = ImagejRoi(roitype=ROI_TYPE.OVAL, top=0, left=0, bottom=20, right=20, name="pore-1")
    roiwrite(pictures / "s1.zip", [oval, line], mode="w")
    document = imported(prep("import", pictures, "set", "--json"))
    assert names(workspace) == ["background", "crack", "pore"]
    expected = box(5, 10, 15, 30, 2)
    expected[30:38, 1:9] = 2
    expected[20:40, 30:50] = 1
    expected[25:30, 35:40] = 0
    assert (labels(workspace, "s0") == expected).all()
    assert np.count_nonzero(labels(workspace, "s1")) == pytest.approx(np.pi * 100, rel=0.03)
    assert any("1 shape(s) without an area" in note for note in document["notes"])


def test_an_imagej_set_for_a_stack(prep: Prep, workspace: Path) -> None:
    volume = np.arange(6 * HEIGHT * WIDTH, dtype=np.uint16).reshape(6, HEIGHT, WIDTH)
    tifffile.imwrite(workspace / "stack.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    rois = [
        square(5, 10, 15, 30, position=3, group=2, options=ROI_OPTIONS.NONE),
        square(0, 0, 5, 5, position=6, group=1),
    ]
    roiwrite(workspace / "RoiSet.zip", rois, mode="w")
    assert prep("import", workspace / "RoiSet.zip", "set", "--images", workspace / "stack.tif").exit_code == 0
    images = sorted((workspace / "data/set/train/images").iterdir())
    assert [path.name for path in images] == ["stack_0002.tif", "stack_0005.tif"]
    assert (tifffile.imread(images[0]) == volume[2]).all()
    assert names(workspace) == ["background", "group 1", "group 2"]
    assert (labels(workspace, "stack_0002") == box(5, 10, 15, 30, 2)).all()
    roiwrite(workspace / "RoiSet.zip", [square(0, 0, 5, 5, position=9)], mode="w")
    refused(
        prep("import", workspace / "RoiSet.zip", "other", "--images", workspace / "stack.tif"),
        "RoiSet.zip",
        "6 slices",
        "found 9",
    )


def test_a_damaged_roi_is_named(prep: Prep, pictures: Path) -> None:
    with zipfile.ZipFile(pictures / "s0.zip", "w") as archive:
        archive.writestr("0001.roi", b"Iout" + bytes(10))
    refused(prep("import", pictures / "s0.zip", "set"), "s0.zip", "0001.roi")


# --- VIA, Labelbox ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("project", [True, False], ids=["project", "annotations"])
def test_via(prep: Prep, workspace: Path, pictures: Path, project: bool) -> None:
    (pictures / "via.json").write_text(json.dumps(via(project=project)), encoding="utf-8")
    assert prep("import", pictures / "via.json", "set").exit_code == 0
    assert names(workspace) == ["background", "crack", "pore"]
    assert (labels(workspace, "s0") == box(5, 10, 15, 30, 2) + box(30, 0, 40, 5)).all()


def test_labelbox(prep: Prep, workspace: Path, pictures: Path) -> None:
    row = labelbox()
    path = pictures / "export.ndjson"
    path.write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "data_row": {"id": "x", "external_id": "s1.tif"}}) + "\n"
    )
    assert prep("import", path, "set").exit_code == 0
    assert (labels(workspace, "s1") == box(5, 10, 15, 30)).all()
    path.write_text(json.dumps(labelbox(mask={"url": "https://api.labelbox.com/masks/1"})))
    refused(prep("import", path, "other"), "export.ndjson", "found a mask")


def test_a_split_beside_grey_labels_of_which_one_class_is_the_rest(
    prep: Prep, workspace: Path, pictures: Path
) -> None:
    train = workspace / "data" / "set" / "train"
    save(train / "images" / "t.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    save(train / "labels" / "t.png", box(5, 10, 15, 30, 255))
    words = ("--class", "background=rest", "--class", "pore=255", "--class", "crack=7", "--class", "crack=8")
    assert prep("labels", "set", "train", *words).exit_code == 0
    path = coco(pictures / "a.json", [{"segmentation": [rectangle(5, 10, 15, 30)]}])
    assert prep("import", path, "set", "--split", "validate").exit_code == 0
    assert prep("labels", "set", "train", "validate", "--overwrite").exit_code == 0
    found = np.load(workspace / "data/set/validate/labels_npy/s0.npy")
    assert (found == box(5, 10, 15, 30)).all()


# --- names of pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_with_accents_are_found_as_any_system_spells_them(
    prep: Prep, workspace: Path, tmp_path: Path, stored: Any, named: Any
) -> None:
    name = "Prüfkörper é.png"
    save(tmp_path / "raw" / "b" / unicodedata.normalize(stored, name), np.zeros((HEIGHT, WIDTH), np.uint8))
    save(tmp_path / "raw" / "a" / unicodedata.normalize(stored, name), np.ones((HEIGHT, WIDTH), np.uint8))
    spelt = unicodedata.normalize(named, f"b\\{name}")
    picture = {"id": 1, "file_name": spelt, "width": WIDTH, "height": HEIGHT}
    path = coco(tmp_path / "raw" / "a.json", [{"segmentation": [rectangle(5, 10, 15, 30)]}], images=[picture])
    assert prep("import", path, "set").exit_code == 0
    [image] = (workspace / "data/set/train/images").iterdir()
    assert np.array(Image.open(image)).max() == 0


def test_an_archive_with_folders_as_windows_parts_them(
    prep: Prep, workspace: Path, pictures: Path, tmp_path: Path
) -> None:
    picture = {"id": 1, "file_name": "s0.png", "width": WIDTH, "height": HEIGHT}
    path = coco(tmp_path / "a.json", [{"segmentation": [rectangle(5, 10, 15, 30)]}], images=[picture])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "job\\annotations\\a.json")
        archive.write(pictures / "s0.png", "job\\images\\s0.png")
    assert prep("import", tmp_path / "a.zip", "set").exit_code == 0
    assert (labels(workspace, "s0") == box(5, 10, 15, 30)).all()


def test_the_second_suffix_of_an_ome_tiff_is_no_part_of_its_name(
    prep: Prep, workspace: Path, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "s0.ome.tif", np.zeros((HEIGHT, WIDTH), np.uint8))
    (tmp_path / "s0.geojson").write_text(json.dumps([feature("Pore", [ring(5, 10, 15, 30)])]))
    assert prep("import", tmp_path / "s0.geojson", "set").exit_code == 0
    assert (labels(workspace, "s0.ome") == box(5, 10, 15, 30)).all()


# --- whatever else is named ---------------------------------------------------------------------------------------


def test_an_archive_that_reaches_out_stays_in(prep: Prep, workspace: Path, pictures: Path) -> None:
    archive = packed(cvat(workspace / "task"))
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr("../../escaped.txt", "x")
        target.writestr("/escaped.txt", "x")
    assert prep("import", archive, "set", "--images", pictures).exit_code == 0
    assert not list(workspace.parent.glob("escaped*"))
    assert not Path("/escaped.txt").exists()


def test_a_damaged_archive_is_told_by_its_name(prep: Prep, workspace: Path, pictures: Path) -> None:
    archive = packed(cvat(workspace / "task"))
    content = bytearray(archive.read_bytes())
    content[200:260] = bytes(60)
    archive.write_bytes(content)
    refused(prep("import", archive, "set", "--images", pictures), "task.zip")
    assert nothing_written(workspace)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"{", "expected JSON"),
        ("a.json", b"[" * 100_000, "expected JSON"),
        ("a.json", b'{"name": "package"}', "found none of them"),
        (
            "a.json",
            b'{"images": [], "annotations": [], "categories": []}',
            "expected labelled pictures, found none",
        ),
        ("a.json", b'{"images": 3, "annotations": []}', "COCO"),
        ("a.json", b'{"type": "FeatureCollection"}', "GeoJSON"),
        ("a.json", b'[{"Labeled Data": "x"}]', "before 2023"),
        ("a.ndjson", b'{"data_row": 3}', "Labelbox"),
        ("a.zip", b"PK\x03\x04", "found none of them"),
        ("a.roi", b"Iout", "ImageJ"),
        ("a.txt", b"\xff\xfe", "found none of them"),
        ("annotations.xml", b"<annotations>", "Segmentation mask 1.1"),
        ("a.ilp", b"", "project of ilastik"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "found none of them"),
    ],
)
def test_what_is_no_export_is_refused(
    prep: Prep, workspace: Path, name: str, content: bytes, told: str
) -> None:
    (workspace / name).write_bytes(content)
    refused(prep("import", workspace / name, "set"), name, told)
    assert nothing_written(workspace)


def test_exports_of_two_tools_in_one_folder_are_named(prep: Prep, pictures: Path) -> None:
    labelme(pictures / "s0.json", [])
    coco(pictures / "instances.json", [])
    refused(prep("import", pictures, "set"), "COCO", "LabelMe", "instances.json")


def test_names_that_no_file_can_have(prep: Prep, pictures: Path) -> None:
    row = {"id": 1, "width": WIDTH, "height": HEIGHT}
    save(pictures / "con.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    drawn = [{"segmentation": [rectangle(0, 0, 5, 5)]}]
    refused(
        prep("import", coco(pictures / "a.json", drawn, images=[{**row, "file_name": "con.png"}]), "set"),
        "'con'",
    )
    twice = [{**row, "file_name": "s0.png"}, {**row, "id": 2, "file_name": "s0.png"}]
    refused(prep("import", coco(pictures / "a.json", drawn, images=twice), "set"), "different names", "s0")
    hostile = [{**row, "file_name": "../../../../etc/passwd"}]
    refused(prep("import", coco(pictures / "a.json", drawn, images=hostile), "set"), "found none for")


def test_options_that_do_not_apply(prep: Prep, workspace: Path, volume: np.ndarray, pictures: Path) -> None:
    tifffile.imwrite(workspace / "labels.tif", (volume > 3).astype(np.uint8))
    given = ("import", workspace / "volume.tif", "set", "--labels", workspace / "labels.tif")
    refused(prep(*given, "--outside", "x"), "--outside")
    refused(prep(*given, "--unlabelled", "x"), "--unlabelled 'x'")
    refused(prep(*given, "--images", pictures), "--images")
    source = coco(pictures / "a.json", [{"segmentation": [rectangle(0, 0, 5, 5)]}])
    refused(prep("import", source, "set", "--unlabelled", "grain"), "grain", "pore")
    refused(prep("import", source, "set", "--images", pictures / "nowhere"), "nowhere")
    refused(prep("import", source, "set", "--images", pictures / "s0.png"), "2 pictures")
    refused(prep("import", workspace / "nowhere.json", "set"), "no such export")
    assert nothing_written(workspace)
