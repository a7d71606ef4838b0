"""Where slices come from: an image folder, or a volume in one of several formats."""

from __future__ import annotations

import stat
from pathlib import Path

from matseg_runtime.source.base import Source, SourceOptions
from matseg_shared.errors import UsageError
from matseg_shared.system.names import printable

NODE_SEPARATOR = "::"
_KINDS = "a folder of images, a TIFF stack (.tif, .tiff), a zarr volume (.zarr), an HDF5 file (.h5) or an array (.npy)"


def split_location(location: str) -> tuple[str, str | None]:
    """`file.h5::/exchange/data` to the file and the path within it; None without one."""
    file, separator, node = location.partition(NODE_SEPARATOR)
    return file, node if separator else None


def absolute_location(location: str) -> str:
    """An input's location, whatever folder is current."""
    file, node = split_location(location)
    if "://" in file:
        return location
    return str(Path(file).absolute()) + ("" if node is None else f"{NODE_SEPARATOR}{node}")


def open_source(location: str, options: SourceOptions | None = None) -> Source:
    """Open an input by what its path looks like.

    Args:
        location: a folder of images, a TIFF, HDF5 or npy file, or a zarr folder or URL; `::/path` after it names an
            array within an HDF5 file or zarr group.
        options: how to read a volume.

    Raises:
        UsageError: there is nothing there that can be segmented, or an option does not apply.
        MissingExtraError: an optional package is needed for it.
    """
    options = options or SourceOptions()
    require_text(location)
    file, node = split_location(location)
    path = Path(file)
    if "://" in file:
        from matseg_runtime.source.zarr import open_zarr

        return open_zarr(file, node, options)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such input; name {_KINDS}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UsageError(
            f"{file}: the input cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if stat.S_ISDIR(mode):
        return _open_folder(path, node, options)
    if not stat.S_ISREG(mode):  # a pipe, which would be waited for and cannot be read twice
        raise UsageError(
            f"{file}: is no file but a pipe or device; save what comes from it, and name {_KINDS}"
        )
    return _open_file(path, node, options)


def require_text(location: str) -> None:
    """Paths stand in the ledger, the report and the labels themselves, as text.

    Raises:
        UsageError: this one cannot; it comes from an old disk with another encoding, or holds what no path can.
    """
    if "\0" in location or any("\ud800" <= mark <= "\udfff" for mark in location):
        raise UsageError(
            f"{printable(location)}: expected a path in UTF-8, found one that is none; rename the file or folder, or "
            "reach it by a link"
        )


def _open_folder(path: Path, node: str | None, options: SourceOptions) -> Source:
    from matseg_runtime.source.folder import FolderSource

    # the names of zarr's own metadata files, so that an image folder costs no import of zarr
    if path.suffix == ".zarr" or any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")):
        from matseg_runtime.source.zarr import open_zarr

        return open_zarr(str(path), node, options)
    _refuse_node(path, node)
    if (option := options.named()) is not None:
        raise UsageError(f"{path}: is a folder of images, to which {option} does not apply")
    return FolderSource(path, as_labels=options.as_labels)


def _open_file(path: Path, node: str | None, options: SourceOptions) -> Source:
    from matseg_runtime.source.hdf5 import HDF5_SUFFIXES, open_hdf5
    from matseg_shared.images.read import TIFF_SUFFIXES

    suffix = path.suffix.lower()
    if options.level is not None:
        raise UsageError(f"{path}: --level applies to OME-Zarr images only")
    if suffix in HDF5_SUFFIXES:
        return open_hdf5(path, node, options)
    _refuse_node(path, node)
    if suffix in TIFF_SUFFIXES:
        from matseg_runtime.source.tiff import open_tiff

        return open_tiff(path, options)
    if suffix == ".npy":
        from matseg_runtime.source.npy import open_npy

        return open_npy(path, options)
    raise UsageError(f"{path}: expected {_KINDS}, found a file with the suffix {suffix or 'of none'!r}")


def _refuse_node(path: Path, node: str | None) -> None:
    if node is not None:
        raise UsageError(f"{path}: is neither HDF5 nor zarr, so {NODE_SEPARATOR}{node} names nothing in it")
