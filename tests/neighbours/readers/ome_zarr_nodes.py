"""What ome-zarr finds in a zarr: name, shapes of the levels, and the label's colours, of every image."""

import json
import sys
import warnings

warnings.simplefilter("ignore")  # their own deprecations

from ome_zarr.io import parse_url  # noqa: E402
from ome_zarr.reader import Reader  # noqa: E402

location = parse_url(sys.argv[1], mode="r")
assert location is not None, "ome-zarr sees nothing there"
found = [
    {
        "name": node.metadata.get("name"),
        "shapes": [list(level.shape) for level in node.data],
        "total": int(node.data[0].astype("int64").sum().compute()),
        "colours": {str(label): list(rgba) for label, rgba in (node.metadata.get("color") or {}).items()},
        "properties": {str(label): names for label, names in (node.metadata.get("properties") or {}).items()},
    }
    for node in Reader(location)()
    if node.data
]
print(json.dumps(found))
