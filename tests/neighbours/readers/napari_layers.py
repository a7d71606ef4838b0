"""The layers that napari makes of a zarr by its plugin napari-ome-zarr, without a window."""

import contextlib
import io
import json
import sys
import warnings

warnings.simplefilter("ignore")  # their own deprecations

from napari_ome_zarr._reader import napari_get_reader  # noqa: E402

with contextlib.redirect_stdout(io.StringIO()):  # the plugin prints
    read = napari_get_reader(sys.argv[1])
    assert read is not None, "the plugin does not want it"
    layers = read()
print(
    json.dumps(
        [
            {
                "kind": kind,
                "name": metadata.get("name"),
                "shapes": [list(level.shape) for level in levels],
                "total": int(levels[0].astype("int64").sum().compute()),
                "scale": metadata["scale"],
                "translate": [float(value) for value in metadata["affine"].translate],
                "units": metadata.get("units"),
                "colours": {str(label): rgba for label, rgba in (metadata.get("colormap") or {}).items()}
                if kind == "labels"
                else None,
                "classes": (metadata.get("properties") or {}).get("name"),
            }
            for levels, metadata, kind in layers
        ]
    )
)
