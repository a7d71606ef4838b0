"""Zarr arrays of versions 2 and 3, OME-Zarr images of versions 0.4 and 0.5; local, or remote through fsspec."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions, Spacing
from matseg_runtime.source.zarr_chunks import ChunkCheck, chunk_boxes, refuse_object_codecs, stored_chunks
from matseg_shared.errors import MissingExtraError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """One array of a hierarchy, with what OME metadata say of it."""

    array: Any
    axis_names: tuple[str, ...] | None = None
    spacing: Spacing | None = None


def open_zarr(location: str, node: str | None, options: SourceOptions) -> ArraySource:
    """Open one array.

    Args:
        location: a folder, or a URL that fsspec understands.
        node: path of an array or group within it; None: the OME image, or the only array.
        options: how to read it.

    Raises:
        MissingExtraError: a URL, and fsspec is not installed.
        UsageError: no zarr, or no array that can be chosen.
    """
    import zarr

    remote = "://" in location
    if remote:
        _require_fsspec(location)
    where = location if node is None else f"{location}::{node}"
    try:
        with without_remarks():
            root = zarr.open(location, path=(node or "").strip("/"), mode="r")
            chosen = _choose(where, root, options.level)
    except UsageError:
        raise
    except (
        Exception
    ) as error:  # stores raise their own kinds for what is not there, zarr for what is not valid
        raise UsageError(
            f"{where}: expected a zarr array or group, found {type(error).__name__}: {error}"
        ) from error
    refuse_object_codecs(where, chosen.array)
    if chosen.array.dtype.kind not in "uifb":
        raise UsageError(f"{where}: expected an array of numbers, found {chosen.array.dtype}")
    path = Path(location.rstrip("/").rpartition("/")[2]) if remote else Path(location)
    return ArraySource(_stored(where, path, chosen, options), options)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Quiet zarr about entries that are no zarr, and codecs that others may not know: neither is ours to say."""
    from zarr.errors import ZarrUserWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        yield


def _stored(where: str, path: Path, chosen: _Chosen, options: SourceOptions) -> StoredArray:
    array = chosen.array
    document = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)

    def explain(index: tuple[slice | int, ...], error: Exception) -> str:
        for key, box in chunk_boxes(array, index):
            try:
                array[box]
            except Exception as cause:  # the codecs' own kinds, again
                return f"its chunk {key} is damaged ({type(cause).__name__}: {cause})"
        return f"{type(error).__name__}: {error}"

    return StoredArray(
        kind="zarr",
        location=where,
        path=path,
        array=array,
        content=f"{array.path} {hashlib.sha256(document.encode()).hexdigest()}",
        chunk_shape=stored_chunks(array),
        piece_shape=tuple(array.chunks),
        axis_names=chosen.axis_names,
        spacing=chosen.spacing,
        check=ChunkCheck(where=where, array=array, fill_missing=options.fill_missing_chunks),
        explain=explain,
    )


def _choose(where: str, root: Any, level: int | None) -> _Chosen:
    import zarr

    if isinstance(root, zarr.Array):
        if level:
            raise UsageError(f"{where}: is a single array, which has no --level {level}")
        return _Chosen(array=root, axis_names=_dimension_names(root))
    attributes = root.attrs.asdict()
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if multiscales:
        try:
            return _ome_image(where, root, multiscales[0], level or 0)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{where}: its OME-Zarr metadata are not valid ({type(error).__name__}: {error}); name an array in "
                f"it, as {where}::/0"
            ) from error
    arrays = [name for name, array in root.arrays() if array.ndim >= 2]
    if len(arrays) != 1:
        listed = ", ".join(sorted(arrays)) or "none"
        raise UsageError(f"{where}: name the array to segment, as {where}::/name; its arrays: {listed}")
    return _Chosen(array=root[arrays[0]], axis_names=_dimension_names(root[arrays[0]]))


def _dimension_names(array: Any) -> tuple[str, ...] | None:
    """Of zarr v3, or as xarray notes them in v2; None where they are missing or other than t, c, z, y, x."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.asdict().get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or len(names) != array.ndim:
        return None
    lowered = tuple(str(name).lower() for name in names)
    if "z" not in lowered:
        lowered = tuple("z" if name == "t" else name for name in lowered)  # images one after the other
    return lowered if {"y", "x"} <= set(lowered) <= set("tczyx") and len(set(lowered)) == array.ndim else None


def _ome_image(where: str, root: Any, image: Mapping[str, Any], level: int) -> _Chosen:
    datasets = image["datasets"]
    if level >= len(datasets):
        raise UsageError(f"{where}: has the resolution levels 0 to {len(datasets) - 1}, not {level}")
    array = root[datasets[level]["path"]]
    names = tuple(str(axis["name"]) for axis in image["axes"])
    if len(names) != array.ndim:
        raise ValueError(f"{len(names)} axes for an array of {array.ndim}")
    units = tuple(axis.get("unit") for axis in image["axes"] if axis["name"] in "zyx")
    placed = placement(image, datasets[level], array.ndim)
    spatial = [number for number, name in enumerate(names) if name in "zyx"]
    spacing = Spacing(
        scale=tuple(placed.scale[number] for number in spatial),
        translation=tuple(placed.translation[number] for number in spatial),
        units=units,
    )
    return _Chosen(array=array, axis_names=names, spacing=spacing)


def placement(image: Mapping[str, Any], dataset: Mapping[str, Any], ndim: int) -> Spacing:
    """Where one level of an OME-Zarr image lies, by its own transformations and those of all levels.

    Args:
        image: an item of `multiscales`.
        dataset: an item of its `datasets`.
        ndim: of the level's array.

    Returns:
        Scale and translation along every axis of the array.

    Raises:
        KeyError, TypeError, ValueError: they are not as the specification has them.
    """
    scale, translation = [1.0] * ndim, [0.0] * ndim
    for step in (
        *dataset.get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            translation = [a * float(b) for a, b in zip(translation, step["scale"], strict=True)]
        elif step["type"] == "translation":
            translation = [a + float(b) for a, b in zip(translation, step["translation"], strict=True)]
    return Spacing(scale=tuple(scale), translation=tuple(translation))


def _require_fsspec(location: str) -> None:
    try:
        import fsspec  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("remote", f"{location}: reading a remote zarr") from error
