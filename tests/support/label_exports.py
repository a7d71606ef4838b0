"""Exports of labels as the tools write them, for pictures of 40 x 60 pixels."""

from __future__ import annotations

import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import Result
from PIL import Image
from roifile import ROI_TYPE, ImagejRoi, roiwrite

HEIGHT, WIDTH = 40, 60


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:250,50,83::\npore:51,221,255::\n"


def cvat(folder: Path, stems: tuple[str, ...] = ("s0", "s1"), labelmap: str = LABELMAP) -> Path:
    """The layout of CVAT's format Segmentation mask 1.1."""
    for stem in stems:
        mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        mask[5:10, 20:30] = 250, 50, 83
        save(folder / "SegmentationClass" / f"{stem}.png", mask)
        save(folder / "SegmentationObject" / f"{stem}.png", mask)
    (folder / "labelmap.txt").write_text(labelmap, encoding="utf-8")
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "default.txt").write_text("\n".join(stems), encoding="utf-8")
    return folder


def packed(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(folder.rglob("*")):
            target.write(path, path.relative_to(folder))
    return archive


def coco(path: Path, annotations: list[dict[str, Any]], **more: Any) -> Path:
    """The layout of an `instances_*.json`."""
    picture = {"width": WIDTH, "height": HEIGHT, "license": 0, "flickr_url": "", "coco_url": ""}
    document = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "year": ""},
        "categories": [
            {"id": 1, "name": "pore", "supercategory": ""},
            {"id": 7, "name": "crack", "supercategory": ""},
        ],
        "images": [
            {"id": number + 1, "file_name": f"s{number}{suffix}", **picture}
            for number, suffix in enumerate((".png", ".tif"))
        ],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "area": 1.0,
                "bbox": [0, 0, 1, 1],
                "iscrowd": 0,
                **item,
            }
            for number, item in enumerate(annotations, 1)
        ],
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def rectangle(top: float, left: float, bottom: float, right: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def run_lengths(mask: np.ndarray) -> list[int]:
    """Down the columns, beginning with what is outside."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], ends])).tolist()


def as_text(counts: list[int]) -> str:
    """`rleToString` of the COCO API, in Python."""
    text = ""
    for number, count in enumerate(counts):
        value = count - counts[number - 2] if number > 2 else count
        while True:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def labelme(path: Path, shapes: list[dict[str, Any]], **more: Any) -> Path:
    """The layout of LabelMe 5."""
    document = {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {"group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None, **shape}
            for shape in shapes
        ],
        "imagePath": f"{path.stem}.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


def feature(
    name: str | None, rings: list[list[list[float]]], kind: str = "Polygon", **more: Any
) -> dict[str, Any]:
    """One object as QuPath 0.5 writes it."""
    found = None if name is None else {"name": name, **more}
    return {
        "type": "Feature",
        "id": "3a1c",
        "geometry": {"type": kind, "coordinates": rings},
        "properties": {"objectType": "annotation", **({"classification": found} if found else {})},
    }


def ring(top: float, left: float, bottom: float, right: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def square(top: int, left: int, bottom: int, right: int, **more: Any) -> ImagejRoi:
    return ImagejRoi(roitype=ROI_TYPE.RECT, top=top, left=left, bottom=bottom, right=right, **more)


def via(*, project: bool = True) -> dict[str, Any]:
    """A rectangle, a polygon and a point in `s0.png`, of VIA 2."""
    shapes = [
        ("pore", {"name": "rect", "x": 10, "y": 5, "width": 20, "height": 10}),
        ("crack", {"name": "polygon", "all_points_x": [0, 5, 5, 0], "all_points_y": [30, 30, 40, 40]}),
        ("pore", {"name": "point", "cx": 3, "cy": 3}),
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"phase": phase}} for phase, shape in shapes]
    found = {"s0.png2462": {"filename": "s0.png", "size": 2462, "regions": regions, "file_attributes": {}}}
    return {"_via_settings": {}, "_via_img_metadata": found, "_via_attributes": {}} if project else found


def labelbox(**more: Any) -> dict[str, Any]:
    """The row of `s0.png`."""
    corners = [{"x": x, "y": y} for x, y in ((10, 5), (30, 5), (30, 15), (10, 15))]
    found = {"name": "pore", "feature_id": "c", "annotation_kind": "ImagePolygon", "polygon": corners, **more}
    return {
        "data_row": {"id": "clx1", "external_id": "s0.png", "row_data": "https://storage.labelbox.com/x"},
        "media_attributes": {"height": HEIGHT, "width": WIDTH, "mime_type": "image/png"},
        "projects": {"p1": {"name": "steel", "labels": [{"id": "l1", "annotations": {"objects": [found]}}]}},
    }


def ilastik(path: Path, values: np.ndarray, axes: str) -> Path:
    """As ilastik's HDF5 export writes it: one data set, with vigra's axis tags."""
    with h5py.File(path, "w") as file:
        found = file.create_dataset("exported_data", data=values)
        tags = [
            {"key": axis, "typeFlags": 1 if axis == "c" else 2, "resolution": 0, "description": ""}
            for axis in axes
        ]
        found.attrs["axistags"] = json.dumps({"axes": tags})
        found.attrs["drange"] = [0, 255]
    return path


def make_exports(root: Path) -> None:
    """A small export of each tool in a folder of its own, with its pictures."""
    rng = np.random.default_rng(0)
    for tool in (
        "coco",
        "runs",
        "labelme",
        "qupath",
        "via",
        "labelbox",
        "cvat",
        "imagej",
        "ilastik",
        "numbers",
    ):
        for number in (0, 1):
            save(root / tool / f"s{number}.png", rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8))
    two = [
        {"id": number + 1, "file_name": f"s{number}.png", "width": WIDTH, "height": HEIGHT}
        for number in (0, 1)
    ]
    coco(root / "coco" / "a.json", [{"segmentation": [rectangle(5, 10, 15, 30)]}], images=two)
    mask = rng.random((HEIGHT, WIDTH)) < 0.5
    runs = {"size": [HEIGHT, WIDTH], "counts": as_text(run_lengths(mask))}
    coco(root / "runs" / "a.json", [{"segmentation": runs}], images=two)
    labelme(
        root / "labelme" / "s0.json",
        [
            {"label": "pore", "points": [[10, 5], [30, 15]], "shape_type": "rectangle"},
            {"label": "grain", "points": [[50, 20], [50, 26]], "shape_type": "circle"},
            {"label": "grain", "points": [[0, 30], [60, 30], [60, 40]]},
        ],
    )
    objects = [feature("Pore", [ring(5, 10, 25, 30), ring(10, 15, 20, 25)], color=[200, 0, 1])]
    for name, content in (
        ("qupath/s1.geojson", {"type": "FeatureCollection", "features": objects}),
        ("via/a.json", via()),
        ("labelbox/a.json", labelbox()),
    ):
        (root / name).write_text(json.dumps(content), encoding="utf-8")
    cvat(root / "cvat")
    roiwrite(root / "imagej" / "s0.zip", [square(5, 10, 15, 30, name="pore-1")], mode="w")
    labels = np.ones((HEIGHT, WIDTH, 1), np.uint8)
    labels[5:9] = 2
    ilastik(root / "ilastik" / "s0_Labels.h5", labels, "yxc")
    np.savetxt(root / "numbers" / "s0.txt", labels[..., 0])
    np.save(root / "numbers" / "s1_labels.npy", labels[..., 0].astype(float))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of 40 x 60 pixels, each in another format."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, suffix in enumerate((".png", ".tif", ".bmp")):
        save(folder / f"s{number}{suffix}", rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8))
    return folder


@pytest.fixture
def volume(workspace: Path) -> np.ndarray:
    """(8, 40, 60) grey values, in `volume.zarr` and `volume.tif`."""
    values = np.random.default_rng(1).integers(0, 60000, (8, HEIGHT, WIDTH)).astype(np.uint16)
    zarr.save(str(workspace / "volume.zarr"), values)
    tifffile.imwrite(
        workspace / "volume.tif",
        values,
        imagej=True,
        resolution=(2.0, 2.0),
        metadata={"unit": "um", "spacing": 0.5},
    )
    return values


def labels(workspace: Path, stem: str, split: str = "train", name: str = "set") -> np.ndarray:
    """Class indices of a label image."""
    return np.array(Image.open(workspace / "data" / name / split / "labels" / f"{stem}.png"))


def names(workspace: Path, name: str = "set") -> list[str]:
    table = tomllib.loads((workspace / "data" / name / "classes.toml").read_text(encoding="utf-8"))
    return [item["name"] for item in table["class"]]


def box(top: int, left: int, bottom: int, right: int, value: int = 1, ground: int = 0) -> np.ndarray:
    """(40, 60) labels of one rectangle."""
    expected = np.full((HEIGHT, WIDTH), ground, np.uint8)
    expected[top:bottom, left:right] = value
    return expected


def imported(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def refused(result: Result, *told: str, code: int = 2) -> None:
    """Ended by one sentence that says all of this."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    message = " ".join(result.output.split())
    for words in told:
        assert words in message


def nothing_written(workspace: Path) -> bool:
    return not list((workspace / "data").iterdir())
