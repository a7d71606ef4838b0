"""Print the images that ome-zarr finds, and the layers that napari makes of them by its plugin napari-ome-zarr."""

import contextlib
import io
import json
import sys
import warnings

warnings.simplefilter("ignore")  # their own deprecations

from napari_ome_zarr._reader import napari_get_reader  # noqa: E402
from ome_zarr.io import parse_url  # noqa: E402
from ome_zarr.reader import Reader  # noqa: E402


def total(array):
    return int(array.astype("int64").sum().compute())


def nodes(path):
    location = parse_url(path, mode="r")
    assert location is not None, "ome-zarr sees nothing there"
    return [
        {
            "shapes": [list(level.shape) for level in node.data],
            "total": total(node.data[0]),
            "colours": {str(label): list(rgba) for label, rgba in (node.metadata.get("color") or {}).items()},
        }
        for node in Reader(location)()
        if node.data
    ]


def layers(path):
    with contextlib.redirect_stdout(io.StringIO()):  # the plugin prints
        read = napari_get_reader(path)
        assert read is not None, "the plugin does not want it"
        found = read()
    return [
        {
            "kind": kind,
            "shapes": [list(level.shape) for level in levels],
            "total": total(levels[0]),
            "scale": metadata["scale"],
            "translate": [float(value) for value in metadata["affine"].translate],
            "units": metadata.get("units"),
            "colours": {str(label): rgba for label, rgba in metadata["colormap"].items()}
            if kind == "labels"
            else {},
            "classes": (metadata.get("properties") or {}).get("name"),
        }
        for levels, metadata, kind in found
    ]


print(json.dumps([{"ome_zarr": nodes(path), "napari": layers(path)} for path in sys.argv[1:]]))
