"""CZI, of Zeiss ZEN."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.deflate import require_first_axis
from matseg_runtime.source.formats.pixels import array_source, reading
from matseg_shared.errors import UsageError
from matseg_shared.images.limits import require_memory

_JPEG_XR, _ZSTD, _ZSTD_WITH_HEADER = 4, 5, 6
"""Compressions of ZEN; 0 is none."""
_RED_FIRST = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}
"""Order of the numbers of a pixel, of so many, which ZEN stores as blue, green, red."""
_LONGEST_XML = 16 << 20


class _Slices:
    """(Z, Y, X, channels or colours), each picture put together of its tiles; indexed along the first and last axis."""

    def __init__(self, path: Path, file: Any) -> None:
        """List the tiles of an open file."""
        self._size = path.stat().st_size
        tiles = [entry for entry in file.filtered_subblock_directory if entry.shape == entry.stored_shape]
        if not tiles:
            raise ValueError("no picture in full resolution")
        self._axes = tiles[0].axes
        if any(entry.axes != self._axes for entry in tiles) or not {"X", "Y"} <= set(self._axes):
            raise ValueError(f"tiles with the axes {self._axes} and others")
        lowest = [min(starts) for starts in zip(*(entry.start for entry in tiles), strict=True)]
        ends = [np.add(entry.start, entry.shape).tolist() for entry in tiles]
        highest = [max(axis) for axis in zip(*ends, strict=True)]
        lengths = dict(zip(self._axes, np.subtract(highest, lowest).tolist(), strict=True))
        known = "ZYX0" if lengths["0"] > 1 else "ZYX0C"
        extra = {axis: length for axis, length in lengths.items() if axis not in known and length != 1}
        if extra:
            listed = ", ".join(f"{axis} {length}" for axis, length in extra.items())
            raise UsageError(
                f"{path}: expected one image or volume, of grey channels or of one in colour, found the axes {listed}; "
                "save the one to be labelled"
            )
        self._starts = dict(zip(self._axes, lowest, strict=True))
        self._tiles: dict[tuple[int, int], list[Any]] = defaultdict(list)
        for entry in tiles:
            self._tiles[self._place(entry, "Z"), self._place(entry, "C")].append(entry)
        depth, self._pictures, self._samples = lengths.get("Z", 1), lengths.get("C", 1), lengths["0"]
        self.dtype = np.dtype(np.dtype(tiles[0].dtype).base)
        self.shape: tuple[int, ...] = (depth, lengths["Y"], lengths["X"], self._pictures * self._samples)
        kinds = {entry.dtype for entry in tiles}
        if depth * self._pictures > len(tiles) or len(kinds) != 1:
            raise ValueError(
                f"{len(tiles)} tiles of {len(kinds)} data types for {depth} slices of {self._pictures} channels"
            )
        self._lock = Lock()

    def _place(self, entry: Any, axis: str) -> int:
        """Start of a tile along an axis of the image."""
        where = dict(zip(entry.axes, entry.start, strict=True))
        return int(where.get(axis, 0)) - int(self._starts.get(axis, 0))

    def __getitem__(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        first, rows, columns, last = index
        assert isinstance(first, slice), "slices of a .czi are cut along the first axis only"
        slices, pictures = range(self.shape[0])[first], range(1)
        if self._pictures > 1 and isinstance(last, slice):
            pictures, last = range(self._pictures)[last], slice(None)
        images = np.zeros((len(slices), *self.shape[1:3], len(pictures) * self._samples), self.dtype)
        for place, number in enumerate(slices):
            for at, channel in enumerate(pictures):
                self._put(number, channel, images[place, :, :, at * self._samples :][..., : self._samples])
        return images[:, rows, columns, last]

    def _put(self, number: int, channel: int, image: NDArray[Any]) -> None:
        """Put the tiles of one slice into (H, W, samples) pixels; those that come later lie above those before."""
        tiles = self._tiles.get((number, channel))
        if not tiles:
            which = f", channel {channel}" if self._pictures > 1 else ""
            raise ValueError(f"the file has no picture of slice {number}{which}")
        for entry in tiles:
            pixels = self._decoded(entry)
            y, x = self._place(entry, "Y"), self._place(entry, "X")
            image[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels

    def warnings(self, path: Path, *, pending: bool) -> tuple[str, ...]:
        """Doubts about the slices."""
        found = []
        if pending:
            found.append("says that it was not finished when it was written last; are all slices in it?")
        if between := self._between_tiles(next(iter(self._tiles.values()))):
            found.append(
                f"its tiles leave {between:.1%} of a slice free, where pixels are 0 (--no-data 0 leaves them out)"
            )
        return tuple(f"{path}: {text}" for text in found)

    def _between_tiles(self, tiles: Sequence[Any]) -> float:
        """Share of a slice that no tile covers: on a grid of all tiles' edges, whatever the tiles measure."""
        boxes = []
        for entry in tiles:
            lengths = dict(zip(entry.axes, entry.shape, strict=True))
            y, x = self._place(entry, "Y"), self._place(entry, "X")
            boxes.append((y, y + lengths["Y"], x, x + lengths["X"]))
        ys = np.unique([[0, self.shape[1]], *(box[:2] for box in boxes)])
        xs = np.unique([[0, self.shape[2]], *(box[2:] for box in boxes)])
        free = np.ones((len(ys) - 1, len(xs) - 1), bool)
        for box in boxes:
            (top, bottom), (left, right) = np.searchsorted(ys, box[:2]), np.searchsorted(xs, box[2:])
            free[top:bottom, left:right] = False
        return float(np.diff(ys) @ free @ np.diff(xs)) / (self.shape[1] * self.shape[2])

    def _decoded(self, entry: Any) -> NDArray[Any]:
        """(h, w, samples) of one tile."""
        with self._lock:
            tile = entry.data_segment()
            fits = tile.directory_entry.stored_shape == entry.stored_shape
            if not fits or not 0 < tile.data_size <= self._size:
                raise ValueError("a tile and the directory of the file contradict each other")
            content = tile.data(raw=True)
        lengths = dict(zip(entry.axes, entry.shape, strict=True))
        order = [axis for axis in entry.axes if axis in "YX0"]
        pixels = np.empty([lengths[axis] for axis in order], self.dtype)
        if entry.compression == _JPEG_XR:
            from imagecodecs import jpegxr_decode

            jpegxr_decode(content, out=pixels.squeeze())
        else:
            content = _plain(content, entry.compression, pixels.nbytes)
            pixels = np.frombuffer(content, self.dtype).reshape(pixels.shape)
            pixels = pixels[..., _RED_FIRST[self._samples]]
        return pixels.transpose([order.index(axis) for axis in "YX0"])


def _plain(content: bytes, compression: int, size: int) -> bytes:
    """The bytes of pixels, so many of them."""
    if compression == 0:
        return content
    if compression not in (_ZSTD, _ZSTD_WITH_HEADER):
        raise ValueError(f"its compression {compression} is none of plain, JPEG XR and zstd")
    from imagecodecs import zstd_decode

    header = content[: content[0]] if compression == _ZSTD_WITH_HEADER else b""
    plain = bytes(zstd_decode(content[len(header) :], out=size))
    if header[1:2] == b"\1" and header[2] & 1:  # all low bytes before all high ones
        halves = np.frombuffer(plain, np.uint8).reshape(2, -1)
        return halves.T.tobytes()
    return plain


def open_czi(location: str, options: SourceOptions) -> ArraySource:
    """Open the one image or volume of a file.

    Raises:
        UsageError: the file is damaged, or holds several times or scenes.
    """
    import czifile

    path = Path(location)
    require_first_axis(path, options)
    with reading(path, "a CZI file of Zeiss ZEN"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of czifile; what matters is told in a sentence
        file = czifile.CziFile(str(path), multifile=False)
        try:
            array = _Slices(path, file)
            require_memory(path, array.shape[1:], array.dtype.itemsize, "slice")
            edges = _edges(file)
            return array_source(
                "czi",
                path,
                array,
                options,
                edges=edges,
                units=["um"] * len(edges),
                axis_names=("z", "y", "x", "c"),
                warnings=array.warnings(path, pending=file.header.update_pending),
                closing=file.close,
            )
        except BaseException:
            file.close()
            raise


def _edges(file: Any) -> list[float]:
    """Edges of a voxel in micrometres along z, y, x; without a distance between slices along y, x; empty: not known."""
    from czifile import czifile as segments

    try:
        segment = segments.Segment(file._fh, file.header.metadata_position).data()
        if not 0 < segment.xml_size <= _LONGEST_XML:
            return []
        root = ElementTree.fromstring(segment.data(raw=True))
        found = {node.get("Id", ""): float(node.findtext("Value", "nan")) for node in root.iter("Distance")}
    except Exception:  # labels need no voxel size
        return []
    edges = [found.get(axis, 0.0) * 1e6 for axis in "ZYX"]  # from metres
    return edges if edges[0] > 0 else edges[1:]
