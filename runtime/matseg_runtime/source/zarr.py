"""Zarr arrays of versions 2 and 3, OME-Zarr images of versions 0.4 and 0.5; local, or remote through fsspec."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions, Spacing
from matseg_shared.errors import ImageError, MissingExtraError, UsageError


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
        root = zarr.open(location, path=(node or "").strip("/"), mode="r")
    except Exception as error:  # stores raise their own kinds for what is not there
        raise UsageError(
            f"{where}: expected a zarr array or group, found {type(error).__name__}: {error}"
        ) from error
    chosen = _choose(where, root, options.level)
    _refuse_pickles(where, chosen.array.metadata)
    if chosen.array.dtype.kind not in "uifb":
        raise UsageError(f"{where}: expected an array of numbers, found {chosen.array.dtype}")
    path = Path(location.rstrip("/").rpartition("/")[2]) if remote else Path(location)
    return ArraySource(_stored(where, path, chosen, options), options)


def _refuse_pickles(where: str, metadata: Any) -> None:
    """numcodecs brings a codec that runs what a chunk says; releases of zarr differ in whether they take it."""
    codecs = (*(getattr(metadata, "filters", None) or ()), getattr(metadata, "compressor", None))
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in codecs):
        raise UsageError(
            f"{where}: is stored as Python pickles, which could run any program and are never read"
        )


def _stored(where: str, path: Path, chosen: _Chosen, options: SourceOptions) -> StoredArray:
    array = chosen.array
    document = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)
    chunk_shape = tuple(array.shards or array.chunks)

    def check(index: tuple[slice | int, ...]) -> None:
        missing = [key for key in _chunk_keys(array, index, chunk_shape) if not _exists(array, key)]
        if missing:
            listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise ImageError(
                where,
                f"its chunk {listed} is missing; zarr leaves out chunks that hold only the fill value "
                f"{array.fill_value}: if that is so here, use --fill-missing-chunks",
            )

    def explain(index: tuple[slice | int, ...], error: Exception) -> str:
        for key, box in _chunk_boxes(array, index, chunk_shape):
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
        chunk_shape=chunk_shape,
        axis_names=chosen.axis_names,
        spacing=chosen.spacing,
        check=None if options.fill_missing_chunks else check,
        explain=explain,
    )


def _choose(where: str, root: Any, level: int | None) -> _Chosen:
    import zarr

    if isinstance(root, zarr.Array):
        if level:
            raise UsageError(f"{where}: is a single array, which has no --level {level}")
        return _Chosen(array=root)
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
    return _Chosen(array=root[arrays[0]])


def _ome_image(where: str, root: Any, image: Mapping[str, Any], level: int) -> _Chosen:
    datasets = image["datasets"]
    if level >= len(datasets):
        raise UsageError(f"{where}: has the resolution levels 0 to {len(datasets) - 1}, not {level}")
    array = root[datasets[level]["path"]]
    names = tuple(str(axis["name"]) for axis in image["axes"])
    if len(names) != array.ndim:
        raise ValueError(f"{len(names)} axes for an array of {array.ndim}")
    units = [axis.get("unit") for axis in image["axes"] if axis["name"] in "zyx"]
    placed = placement(image, datasets[level], array.ndim)
    spatial = [number for number, name in enumerate(names) if name in "zyx"]
    spacing = Spacing(
        scale=tuple(placed.scale[number] for number in spatial),
        translation=tuple(placed.translation[number] for number in spatial),
        unit=units[0] if units and len(set(units)) == 1 else None,
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


def _chunk_boxes(
    array: Any, index: tuple[slice | int, ...], chunk_shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Key, within the array, and region of every stored chunk (or shard) that an index touches."""
    ranges = []
    for part, length, chunk in zip(index, array.shape, chunk_shape, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    for position in itertools.product(*ranges):
        box = tuple(
            slice(number * chunk, (number + 1) * chunk)
            for number, chunk in zip(position, chunk_shape, strict=True)
        )
        yield array.metadata.encode_chunk_key(position), box


def _chunk_keys(array: Any, index: tuple[slice | int, ...], chunk_shape: tuple[int, ...]) -> Iterator[str]:
    return (key for key, _ in _chunk_boxes(array, index, chunk_shape))


def _exists(array: Any, key: str) -> bool:
    from zarr.core.sync import sync
    from zarr.storage import LocalStore

    store = array.store
    name = f"{array.path}/{key}".lstrip("/")
    if isinstance(store, LocalStore):
        return (store.root / name).is_file()
    return bool(sync(store.exists(name)))


def _require_fsspec(location: str) -> None:
    try:
        import fsspec  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("remote", f"{location}: reading a remote zarr") from error
