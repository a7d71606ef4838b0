"""Labels in the group of the OME-Zarr image they belong to, where viewers show them over it.

```
<image>/                      the image's own arrays, which are never opened for writing
<image>/labels/               lists the label images by name
<image>/labels/<name>/        appears, whole, when every slice is labelled; listed after that
```
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from matseg_runtime.sink.multiscale import Level, Multiscale
from matseg_runtime.sink.volume import LABELS_GROUP, is_zarr_group
from matseg_runtime.sink.zarr import ZarrSink
from matseg_runtime.source.zarr import ome_document, ome_level, without_remarks
from matseg_shared.errors import OutputError, UsageError
from matseg_shared.system.files import atomic_write, output_errors, sweep, sync_folder
from matseg_shared.system.locks import FileLock
from matseg_shared.system.names import portable_name_problem

_EXPECTED = "--label expected the group of an OME-Zarr image of version 0.4 or 0.5 on this disk"
_REMEDY = "write a label image of its own with -o labels.zarr"
_SPACE = ("z", "y", "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGroup:
    """An OME-Zarr image on this disk that labels can be added to."""

    store: Path
    """The zarr folder."""
    node: str
    """Path of the image's group within it; "" for the whole."""
    multiscale: Multiscale
    """Axes and levels of its labels: the image's own."""

    @property
    def path(self) -> Path:
        """Folder of the group."""
        return self.store / self.node

    def label_path(self, name: str) -> Path:
        """Folder of one of its label images."""
        return self.path / LABELS_GROUP / name

    @classmethod
    def open(cls, location: str, node: str | None) -> ImageGroup:
        """Look at an image.

        Raises:
            UsageError: it is none, or not on this disk.
        """
        where = location if node is None else f"{location}::{node}"
        store, node = Path(location), (node or "").strip("/")
        if "://" in location or not is_zarr_group(store / node):
            raise UsageError(f"{where}: {_EXPECTED}, found none; {_REMEDY}")
        try:
            with without_remarks():
                multiscale = _multiscale_of(zarr.open_group(str(store), path=node, mode="r"))
        except Exception as error:  # zarr and torn documents have many kinds
            raise UsageError(
                f"{where}: {_EXPECTED}, found {type(error).__name__}: {error}; {_REMEDY}"
            ) from error
        return cls(store=store, node=node, multiscale=multiscale)


class _DurableStore(LocalStore):
    """Write documents that survive a power cut: zarr's own store gives them their names before it has synced them."""

    async def set(self, key: str, value: Any) -> None:
        await asyncio.to_thread(self._write, key, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    def _write(self, key: str, content: bytes) -> None:
        with atomic_write(self.root / key) as stream:
            stream.write(content)


@dataclass(eq=False, kw_only=True)
class LabelGroupSink(ZarrSink):
    """`<image>/labels/<name>`, with as many levels as the image has."""

    image: ImageGroup

    def check_place(self, *, overwrite: bool) -> None:
        store = self.image.store.resolve()
        if not self.path.parent.resolve().is_relative_to(store):
            raise UsageError(
                f"{self.path}: lies outside of {self.image.store}, for there is a link on the way; {_REMEDY}"
            )
        super().check_place(overwrite=overwrite)
        if not os.access(self.image.path, os.W_OK):  # found out before hours of work, not after
            raise OutputError(
                f"{self.path}: cannot be written: no permission to add to {self.image.path}; {_REMEDY}"
            )

    def remove_earlier(self, names: Sequence[str]) -> None:
        self._list(listed=False)
        super().remove_earlier(names)

    def start(self) -> None:
        if self.path.exists() and not self.partial.exists():
            self._list(listed=False)  # it is about to become the growing output again
        super().start()

    def finish(self) -> None:
        with output_errors(self.path):
            _require_labels_group(self.image)
            sync_folder(self.image.path)
        super().finish()
        self._list(listed=True)

    def _list(self, *, listed: bool) -> None:
        """Enter the name among the image's label images, or take it out; others do so at the same time."""
        image, name, version = self.image, self.path.name, self.image.multiscale.version
        lock = FileLock(image.store.with_name(f"{image.store.name}.labels.lock"))
        lock.acquire(wait=True)
        try:
            with output_errors(self.path):
                if not listed and not self.path.parent.exists():
                    return
                group = _require_labels_group(image)
                attributes = group.attrs.asdict()
                holder = (
                    attributes if version == "0.4" else attributes.setdefault("ome", {"version": version})
                )
                for folder in {self.path.parent, image.path, image.store}:
                    sweep(folder)
                names = [other for other in holder.get(LABELS_GROUP, []) if other != name]
                holder[LABELS_GROUP] = [*names, name] if listed else names
                group.attrs.put(attributes)
                _consolidate_again(image)
        finally:
            lock.release()


def check_label_name(name: str) -> str:
    """A name that zarr and every file system take.

    Raises:
        UsageError: it is none.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) is None or portable_name_problem(name) is not None:
        raise UsageError(
            f"--label {name}: expected a name of letters, digits, '_', '-' and '.' that every system takes, such as "
            "--label phases"
        )
    return name


def _multiscale_of(group: Any) -> Multiscale:
    levels: list[Level] = []
    for number, dataset in enumerate(ome_document(group)["multiscales"][0]["datasets"]):
        array, names, spacing = ome_level(group, number)
        spatial = [axis for axis, name in enumerate(names) if name in _SPACE]
        shape = tuple(array.shape[axis] for axis in spatial)
        if len(spatial) not in (2, 3):
            raise ValueError(f"{len(spatial)} spatial axes")
        if levels and any(length > finer for length, finer in zip(shape, levels[-1].shape, strict=True)):
            raise ValueError(
                f"level {dataset['path']} of shape {shape} is larger than the one before, {levels[-1].shape}"
            )
        levels.append(Level(shape=shape, spacing=spacing))
    if not levels:
        raise ValueError("no level")
    return Multiscale(
        version="0.4" if group.metadata.zarr_format == 2 else "0.5",
        axes=tuple(names[axis] for axis in spatial),
        levels=tuple(levels),
    )


def _require_labels_group(image: ImageGroup) -> Any:
    store, version = _DurableStore(str(image.path)), image.multiscale.zarr_format
    try:
        group = zarr.open_group(store, mode="r+", zarr_format=version, use_consolidated=False)
        return group.require_group(LABELS_GROUP)
    except (ValueError, KeyError, TypeError) as error:  # what parsers say of torn documents
        raise OutputError(
            f"{image.path / LABELS_GROUP}: expected the group that lists the image's labels, found a damaged document "
            f"({error}); mend or delete that file, then run the same command again"
        ) from error


def _consolidate_again(image: ImageGroup) -> None:
    """Readers believe a copy of all metadata at the top, where there is one; it must know of the labels, too."""
    version = image.multiscale.zarr_format
    folders = [image.path, *(image.store / part for part in Path(image.node).parents)]
    for folder in dict.fromkeys(folders):
        group = zarr.open_group(str(folder), mode="r", zarr_format=version)
        if group.metadata.consolidated_metadata is not None:
            with without_remarks():
                zarr.consolidate_metadata(_DurableStore(str(folder)), zarr_format=version)
