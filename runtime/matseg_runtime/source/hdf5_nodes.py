"""The dataset of an HDF5 file that is meant: one that is named, that NeXus attributes lead to, or the only volume."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from matseg_runtime.source.hdf5_links import linked_file, refuse_elsewhere
from matseg_runtime.source.layout import known_axes
from matseg_runtime.units import VoxelSize, voxel_of_scale
from matseg_shared.errors import UsageError
from matseg_shared.system.names import printable

_DEEPEST = 16
"""Links that lead to links, and groups that lead to groups."""
_LISTED = 8
_ANGLES = ("theta", "rotation_angle", "image_key")
"""As data exchange and NXtomo call what is known of each projection."""
_OF_ENTRY = ("sample/rotation_angle", "instrument/detector/image_key")
"""Places of them in an entry of NXtomo."""
_FIELDS = re.compile(r"(.*_)?(white|dark|flat|bright)(s|_?fields?)?", re.IGNORECASE)
"""Names of pictures without a sample."""


class _MissingError(Exception):
    """A name or link leads to nothing; the message says to what."""


class Nodes:
    """The groups and datasets of one open file, and those that its links lead to."""

    def __init__(self, file: h5py.File, path: Path, *, follow_links: bool) -> None:
        """Read nothing yet.

        Args:
            file: an open one.
            path: of it, named in errors.
            follow_links: open linked files wherever they are.
        """
        self._file = file
        self._path = path
        self._follow_links = follow_links

    def find(self, name: str | None) -> tuple[str, h5py.Dataset]:
        """The name and the dataset that are asked for: a dataset or group; None: the default or only volume.

        Raises:
            UsageError: there is none, or several; lists them.
        """
        try:
            name, node = "/" if name is None else posixpath.join("/", name), self._file["/"]
            node = self._get(node, name)
        except _MissingError as error:
            raise UsageError(f"{self._path}: has no dataset {name}{error}; {self._listed()}") from error
        if isinstance(node, h5py.Group) and (default := self._default(name, node)) is not None:
            return default
        if isinstance(node, h5py.Dataset):
            return name, node
        if name != "/":
            raise UsageError(f"{self._path}: has no dataset {name}; {self._listed()}")
        found = list(self._all())
        volumes = [item for item in found if item[1] is None or item[1].ndim >= 3] or found
        if len(volumes) == 1 and volumes[0][1] is not None:
            return volumes[0][0], volumes[0][1]
        raise UsageError(
            f"{self._path}: name the dataset to segment, as {self._path}::/path/to/data; {self._listed()}"
        )

    def _get(self, group: h5py.Group, name: str, depth: int = 0) -> Any:
        """Node at a path, links on the way followed one by one; else a _MissingError."""
        node: Any = group.file["/"] if name.startswith("/") else group
        for part in filter(None, name.split("/")):
            link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise _MissingError("" if not depth else ", which is not there")
            if isinstance(link, h5py.SoftLink):
                if depth == _DEEPEST:
                    raise _MissingError(", which are links in a circle")
                try:
                    node = self._get(node, link.path, depth + 1)
                except _MissingError as error:
                    raise _MissingError(f": {part} is {_called(link)}{error}") from error
                continue
            if isinstance(link, h5py.ExternalLink):
                self._require_file(node, part, link)
            try:
                node = node[part]
            except (KeyError, OSError, RuntimeError) as error:
                raise _MissingError(
                    f": {part} is {_called(link)}, which cannot be opened ({error})"
                ) from error
        return node

    def _require_file(self, group: h5py.Group, part: str, link: h5py.ExternalLink) -> None:
        other = linked_file(link.filename, Path(group.file.filename))
        if other is None:
            raise _MissingError(f": {part} is {_called(link)}, which is not there")
        if not self._follow_links:
            refuse_elsewhere(str(self._path), self._path, other)

    def _default(self, name: str, group: h5py.Group) -> tuple[str, h5py.Dataset] | None:
        """The image or volume that NeXus shows first, as the attributes `default` and `signal` say."""
        node: Any = group
        for _ in range(_DEEPEST):
            wanted = _text(node, "signal") or _text(node, "default") or _only_child(node)
            if wanted is None:
                return None
            try:
                node = self._get(node, wanted)
            except _MissingError as error:
                raise UsageError(
                    f"{self._path}: {name} says that {printable(wanted)} in it is to be shown, which is not "
                    f"there{error}; {self._listed()}"
                ) from error
            name = posixpath.join(name, wanted)
            if isinstance(node, h5py.Dataset):
                return (name, node) if node.ndim >= 2 else None
        return None

    def _listed(self) -> str:
        found = [text for *_, text in self._all()]
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        return f"its images and volumes: {', '.join(found[:_LISTED]) or 'none'}{more}"

    def _all(self) -> Iterator[tuple[str, h5py.Dataset | None, str]]:
        """(name, dataset, description) of all images and volumes; of links that lead to nothing without a dataset."""
        yield from self._within(self._file["/"], "/", set(), 0)

    def _within(
        self, group: h5py.Group, prefix: str, seen: set[tuple[str, int]], depth: int
    ) -> Iterator[tuple[str, h5py.Dataset | None, str]]:
        datasets: list[tuple[str, Any]] = []
        links: list[tuple[str, Any]] = []
        group.visititems(lambda name, node: datasets.append((posixpath.join(prefix, name), node)))
        group.visititems_links(lambda name, link: links.append((name, link)))
        for name, node in datasets:
            if _is_new(node, seen) and isinstance(node, h5py.Dataset) and node.ndim >= 2:
                yield name, node, self._described(name, node)
        for below, link in links:
            if isinstance(link, h5py.HardLink):
                continue
            node, problem = self._linked(group, below)
            name = posixpath.join(prefix, below)
            if node is None:
                yield name, None, f"{printable(name)}, {_called(link)}{problem}"
            elif not _is_new(node, seen):
                continue
            elif isinstance(node, h5py.Group) and depth < _DEEPEST:
                yield from self._within(node, name, seen, depth + 1)
            elif isinstance(node, h5py.Dataset) and node.ndim >= 2:
                yield name, node, f"{self._described(name, node)}, {_called(link)}"

    def _linked(self, group: h5py.Group, name: str) -> tuple[Any, str]:
        """Target of a link, or None and why it leads nowhere."""
        try:
            return self._get(group, name), ""
        except UsageError:
            return None, " in another folder (--follow-links)"
        except _MissingError as error:
            return (
                None,
                f", which {'cannot be opened' if 'cannot be opened' in str(error) else 'is not there'}",
            )

    def _described(self, name: str, dataset: h5py.Dataset) -> str:
        is_field = _FIELDS.fullmatch(posixpath.basename(name))
        looks = " that look like projections" if not is_field and self.projection_signs(name, dataset) else ""
        return f"{printable(name)} {dataset.shape}{looks}"

    def _beside(self, name: str, dataset: h5py.Dataset) -> Iterator[h5py.Group]:
        """The groups that a dataset lies in: that of the path to it, and in its own file, if that is another."""
        with suppress(_MissingError, UsageError):
            yield self._get(self._file["/"], posixpath.dirname(name))
        yield dataset.parent

    def projection_signs(self, name: str, dataset: h5py.Dataset) -> list[str]:
        """Names of what lies beside a dataset of raw projections, and not beside one of reconstructed slices."""
        found = set()
        for group in self._beside(name, dataset):
            above = [group]
            while above[-1].name != "/":
                above.append(above[-1].parent)
            others = [(group, other) for other in group if other in _ANGLES or _FIELDS.fullmatch(other)]
            others += [(entry, other) for entry in above for other in _OF_ENTRY]
            for parent, other in others:
                node, shape = self._node(parent, other), dataset.shape
                if node is None or node == dataset:
                    continue
                # a picture without a sample has the size of projections, and there is one angle for each of them
                if (node.shape[-2:] == shape[-2:]) if _FIELDS.fullmatch(other) else (node.shape == shape[:1]):
                    found.add(posixpath.basename(other))
        return sorted(found)

    def axis_names(self, name: str, dataset: h5py.Dataset) -> tuple[str, ...] | None:
        """As `layout.known_axes` has them, by the dataset's dimension labels or the axes of its NeXus group."""
        told = [np.atleast_1d(np.asarray(dataset.attrs.get("DIMENSION_LABELS", ()), object)).tolist()]
        told += [_axes(group) for group in self._beside(name, dataset)]
        found = (known_axes([_plain(word) for word in words], dataset.ndim) for words in told)
        return next((axes for axes in found if axes is not None), None)

    def voxel(self, name: str, dataset: h5py.Dataset, names: Sequence[str] | None) -> VoxelSize | None:
        """That of slices along the first axis of space, as Fiji's HDF5 plugin and ilastik note it, or NeXus axes do."""
        spatial = [place for place, axis in enumerate(names or "zyx") if axis in "zyx"]
        if len(spatial) != 3 or (names is None and dataset.ndim != 3):
            return None
        try:
            scale = [float(value) for value in dataset.attrs.get("element_size_um", ())]
            if len(scale) == 3:  # (z, y, x)
                return voxel_of_scale(scale, ("um",) * 3, 0, "the input")
        except (TypeError, ValueError):
            return None
        for group in self._beside(name, dataset):
            told = _axes(group)
            if len(told) != dataset.ndim:
                continue
            axes = [self._axis(group, told[place], dataset, place) for place in spatial]
            if None not in axes:
                edges, units = zip(*(axis for axis in axes if axis is not None), strict=True)
                return voxel_of_scale(edges, units, 0, "the input")
        return None

    def _axis(
        self, group: h5py.Group, name: str, dataset: h5py.Dataset, place: int
    ) -> tuple[float, str] | None:
        """Step and unit of a NeXus axis; None where it has none, or is not that of the dataset's axis."""
        node = self._node(group, name)
        if node is None or node.shape != dataset.shape[place : place + 1] or node.shape[0] < 2:
            return None
        unit, steps = _text(node, "units"), np.diff(np.asarray(node, np.float64))
        return None if unit is None or not np.allclose(steps, steps[0], rtol=1e-3) else (abs(steps[0]), unit)

    def _node(self, group: h5py.Group, name: str) -> h5py.Dataset | None:
        """The dataset of numbers at a path; None where there is none."""
        try:
            node = self._get(group, name)
        except (_MissingError, UsageError):
            return None
        return node if isinstance(node, h5py.Dataset) and node.shape and node.dtype.kind in "uif" else None


def _called(link: Any) -> str:
    if isinstance(link, h5py.HardLink):
        return "a damaged object"
    external = f"{link.filename}::" if isinstance(link, h5py.ExternalLink) else ""
    return f"a link to {printable(external + link.path)}"


def _is_new(node: Any, seen: set[tuple[str, int]]) -> bool:
    """True the first time that an object is seen; it may have several names."""
    key = (node.file.filename, h5py.h5o.get_info(node.id).addr)
    is_new = key not in seen
    seen.add(key)
    return is_new


def _only_child(node: Any) -> str | None:
    """The only entry, data group or signal of a group that does not say which is shown first."""
    wanted = {"NXentry", "NXsubentry"} if node.name == "/" else {"NXdata"}
    kind = _text(node, "NX_class")
    names = []
    for name in node:
        link = node.get(name, getlink=True)
        child = node[name] if isinstance(link, h5py.HardLink) else None
        if child is None:
            continue
        is_signal = (
            kind == "NXdata" and isinstance(child, h5py.Dataset) and str(_value(child, "signal")) == "1"
        )
        if is_signal or (isinstance(child, h5py.Group) and _text(child, "NX_class") in wanted):
            names.append(name)
    return names[0] if len(names) == 1 else None


def _axes(group: h5py.Group) -> list[str]:
    """Names of a data group's axes, in the order of its signal's."""
    found = np.atleast_1d(np.asarray(group.attrs.get("axes", ()), object)).tolist()
    return [str(_plain(name)) for name in found]


def _plain(value: Any) -> Any:
    """Text where h5py gives bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _value(node: Any, name: str) -> Any:
    value = node.attrs.get(name)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return _plain(value)


def _text(node: Any, name: str) -> str | None:
    """An attribute that is a text; None where it is not there, or no text."""
    value = _value(node, name)
    return str(value) if isinstance(value, str) and value else None
