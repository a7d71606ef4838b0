"""Zarr arrays of versions 2 and 3, OME-Zarr images of versions 0.4 and 0.5; local, or remote through fsspec."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from zarr.errors import ZarrUserWarning

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions, Spacing
from matseg_runtime.source.layout import known_axes
from matseg_runtime.source.zarr_chunks import ChunkCheck, chunk_boxes, refuse_object_codecs, stored_chunks
from matseg_shared.errors import UsageError


def open_zarr(location: str, options: SourceOptions) -> ArraySource:
    """Open one array of a folder, or of a URL that fsspec understands.

    `options.node` is the path of an array or group within it; None: the OME image, or the only array.
    """
    node = options.node
    where = location if node is None else f"{location}::{node}"
    try:
        with without_remarks():
            root = zarr.open(location, path=(node or "").strip("/"), mode="r")
            array, axis_names, spacing = _choose(where, root, options.level)
    except UsageError:
        raise
    except Exception as error:  # stores and zarr have many kinds
        raise UsageError(
            f"{where}: expected a zarr array or group, found {type(error).__name__}: {error}"
        ) from error
    refuse_object_codecs(where, array)
    document = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)

    def explain(index: tuple[slice | int, ...], error: Exception) -> str:
        for key, box in chunk_boxes(array, index):
            try:
                array[box]
            except Exception as cause:  # the codecs' own kinds, again
                return f"its chunk {key} is damaged ({type(cause).__name__}: {cause})"
        return f"{type(error).__name__}: {error}"

    stored = StoredArray(
        kind="zarr",
        location=where,
        path=Path(location.rstrip("/").rpartition("/")[2] if "://" in location else location),
        array=array,
        is_file=False,
        content=f"{array.path} {hashlib.sha256(document.encode()).hexdigest()}",
        chunk_shape=stored_chunks(array),
        piece_shape=tuple(array.chunks),
        decoders=zarr.config.get("async.concurrency"),
        axis_names=axis_names,
        spacing=spacing,
        check=ChunkCheck(where=where, array=array, fill_missing=options.fill_missing_chunks),
        explain=explain,
    )
    return ArraySource(stored, options)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Quiet zarr about entries that are no zarr, and codecs that others may not know: neither is ours to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        yield


def _choose(where: str, root: Any, level: int | None) -> tuple[Any, tuple[str, ...] | None, Spacing | None]:
    """An array of a hierarchy, the names of its axes, and its place in space, as far as they are known."""
    if isinstance(root, zarr.Array):
        if level:
            raise UsageError(f"{where}: is a single array, which has no --level {level}")
        return root, _dimension_names(root), None
    if images := ome_document(root).get("multiscales"):
        try:
            if (level or 0) >= (count := len(images[0]["datasets"])):
                raise UsageError(f"{where}: has the resolution levels 0 to {count - 1}, not {level}")
            return ome_level(root, level or 0)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{where}: its OME-Zarr metadata are not valid ({type(error).__name__}: {error}); name an array in "
                f"it, as {where}::/0"
            ) from error
    arrays = {name: array for name, array in root.arrays() if array.ndim >= 2}
    if len(arrays) != 1:
        listed = ", ".join(sorted(arrays)) or "none"
        raise UsageError(f"{where}: name the array to segment, as {where}::/name; its arrays: {listed}")
    (array,) = arrays.values()
    return array, _dimension_names(array), None


def _dimension_names(array: Any) -> tuple[str, ...] | None:
    """As zarr v3 has them, or xarray in v2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.asdict().get("_ARRAY_DIMENSIONS")
    return known_axes(names if isinstance(names, list | tuple) else (), array.ndim)


def ome_document(group: Any) -> dict[str, Any]:
    """The OME-Zarr document in a group's attributes, of version 0.5 or of an earlier one."""
    attributes: dict[str, Any] = group.attrs.asdict()
    return dict(attributes.get("ome", attributes))


def ome_level(group: Any, level: int) -> tuple[Any, tuple[str, ...], Spacing]:
    """One level of an OME-Zarr image: its array, the names of all axes, and the place of its spatial axes.

    Raises:
        KeyError, TypeError, ValueError: the metadata are not as the specification has them.
    """
    image = ome_document(group)["multiscales"][0]
    dataset = image["datasets"][level]
    array = group[dataset["path"]]
    names = tuple(str(axis["name"]) for axis in image["axes"])
    if len(names) != array.ndim:
        raise ValueError(f"{len(names)} axes for an array of {array.ndim}")
    scale, translation = [1.0] * array.ndim, [0.0] * array.ndim
    # the level's own transformations, then those of all levels
    for step in (*dataset.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            translation = [a * float(b) for a, b in zip(translation, step["scale"], strict=True)]
        elif step["type"] == "translation":
            translation = [a + float(b) for a, b in zip(translation, step["translation"], strict=True)]
    spatial = [number for number, name in enumerate(names) if name in ("z", "y", "x")]
    spacing = Spacing(
        scale=tuple(scale[number] for number in spatial),
        translation=tuple(translation[number] for number in spatial),
        units=tuple(image["axes"][number].get("unit") for number in spatial),
    )
    return array, names, spacing
