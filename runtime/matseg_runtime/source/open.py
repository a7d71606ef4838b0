"""Opening of inputs: an image folder, or a volume in one of several formats, each a row of a table."""

from __future__ import annotations

import importlib
import pkgutil
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from matseg_runtime.source.base import Source, SourceOptions
from matseg_shared.errors import MissingExtraError, UsageError
from matseg_shared.images.read import TIFF_SUFFIXES
from matseg_shared.system.names import printable

NODE_SEPARATOR = "::"
_ROOM = "matseg_runtime.source"
_HEAD = 4096
"""Bytes of a file that signatures are looked for in."""

Opener = Callable[[str, SourceOptions], Source]
"""Opens a file, folder or URL, or raises a UsageError; `Format.open` has seen to it that the options fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format that slices are read from."""

    listed: str
    """As messages name it."""
    opener: str
    """`module:function` of this room, an `Opener`; imported when an input of the format is opened."""
    suffixes: tuple[str, ...] = ()
    """Lower case."""
    signature: bytes = rb"(?!)"
    """Regular expression for a file's first bytes, by which one with another suffix is recognised; default: none is."""
    folder_files: tuple[str, ...] = ()
    """Names of which a folder in this format has one; empty for formats that are files."""
    requires: tuple[str, str] | None = None
    """A package that the reader imports, and the extra that brings it."""
    is_volume: bool = True
    """False: no options of volumes apply."""
    has_nodes: bool = False
    """Holds several arrays, each with a path of its own."""
    has_levels: bool = False

    def open(self, location: str, options: SourceOptions) -> Source:
        """Open an input in this format; raises what `open_source` does."""
        if options.node is not None and not self.has_nodes:
            raise UsageError(
                f"{location}: is neither HDF5 nor zarr, so {NODE_SEPARATOR}{options.node} names nothing in it"
            )
        if not self.is_volume and (option := options.named()) is not None:
            raise UsageError(f"{location}: is {self.listed}, to which {option} does not apply")
        if self.is_volume and options.channel_files is not None:
            raise UsageError(f"{location}: is {self.listed}, to which --channel-files does not apply")
        if options.level is not None and not self.has_levels:
            raise UsageError(f"{location}: --level applies to OME-Zarr images only")
        if self.requires is not None:
            package, extra = self.requires
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise MissingExtraError(extra, f"{location}: reading {self.listed}") from error
        opener: Opener = pkgutil.resolve_name(f"{_ROOM}.{self.opener}")
        return opener(location, options)


_IMAGES = Format(listed="a folder of images", opener="folder:FolderSource", is_volume=False)
_ZARR = Format(
    listed="a zarr volume (.zarr)",
    opener="zarr:open_zarr",
    suffixes=(".zarr",),
    folder_files=("zarr.json", ".zarray", ".zgroup"),
    has_nodes=True,
    has_levels=True,
)
_RAW = Format(listed="plain pixels (.raw, with --raw)", opener="formats.raw:open_raw", suffixes=(".raw",))
_REMOTE = replace(_ZARR, listed="a remote zarr", requires=("fsspec", "remote"))
FORMATS = (
    Format(
        listed="a TIFF stack (.tif, .tiff)",
        opener="tiff:open_tiff",
        suffixes=tuple(sorted(TIFF_SUFFIXES)),
        signature=rb"II[*+]\0|MM\0[*+]",
    ),
    _ZARR,
    Format(
        listed="an HDF5 or NeXus file (.h5, .nxs)",
        opener="hdf5:open_hdf5",
        suffixes=(".h5", ".hdf5", ".hdf", ".nxs", ".nx", ".nx5", ".he5"),
        signature=rb"(.{512}|.{1024}|.{2048})?\x89HDF\r\n\x1a\n",  # behind the user's own bytes, as MATLAB has them
        requires=("h5py", "hdf5"),
        has_nodes=True,
    ),
    Format(
        listed="an array (.npy)",
        opener="npy:open_npy",
        suffixes=(".npy",),
        signature=rb"\x93NUMPY",
    ),
    Format(
        listed="a MetaImage (.mhd, .mha)",
        opener="formats.metaimage:open_metaimage",
        suffixes=(".mhd", ".mha"),
        signature=rb"(ObjectType|NDims)[ \t]*=",
    ),
    Format(
        listed="a NRRD (.nrrd, .nhdr)",
        opener="formats.nrrd:open_nrrd",
        suffixes=(".nrrd", ".nhdr"),
        signature=rb"NRRD000\d",
        requires=("nrrd", "formats"),
    ),
    Format(
        listed="a volume of VGStudio (.vgi, .vol)",
        opener="formats.vgi:open_vgi",
        suffixes=(".vgi", ".vol"),
    ),
    Format(
        listed="an MRC (.mrc, .rec, .map, .st)",
        opener="formats.mrc:open_mrc",
        suffixes=(".mrc", ".mrcs", ".rec", ".map", ".st", ".ali"),
        signature=rb".{208}MAP",
        requires=("mrcfile", "formats"),
    ),
    Format(
        listed="a Zeiss .txm",
        opener="formats.txm:open_txm",
        suffixes=(".txm", ".xrm", ".txrm"),
        signature=rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        requires=("olefile", "formats"),
    ),
    Format(
        listed="an AmiraMesh (.am)",
        opener="formats.amira:open_amira",
        suffixes=(".am",),
        signature=rb"# (AmiraMesh|Avizo)",
    ),
    Format(
        listed="a .czi",
        opener="formats.czi:open_czi",
        suffixes=(".czi",),
        signature=rb"ZISRAWFILE",
        requires=("czifile", "formats"),
    ),
    Format(
        listed="a NIfTI (.nii, .nii.gz)",
        opener="formats.nifti:open_nifti",
        suffixes=(".nii", ".nii.gz"),
        signature=rb".{344}n\+1\0|.{4}n\+2\0",
        requires=("nibabel", "formats"),
    ),
    _RAW,
    Format(
        listed="a Gatan file (.dm3, .dm4)",
        opener="formats.rosetta:open_rosetta",
        suffixes=(".dm3", ".dm4", ".ser", ".emi", ".bcf", ".blo", ".mib", ".tvips", ".mrcz", ".elid"),
    ),
)
"""Every format of one file or folder; a folder in none of them is one of images."""


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
    """Open an input by what its path looks like, or by its first bytes where the suffix is no known one.

    Args:
        location: a folder of images, or the file, folder or URL of a volume; `::/path` after it names an array within
            an HDF5 file or zarr group.
        options: how to read a volume.

    Raises:
        UsageError: there is nothing there that can be segmented, or an option does not apply.
        MissingExtraError: an optional package is needed for it.
    """
    require_text(location)
    file, node = split_location(location)
    options = replace(options or SourceOptions(), node=node)
    if "://" in file:
        return _REMOTE.open(file, options)
    path = Path(file)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):  # a pipe, which cannot be read twice
            raise UsageError(
                f"{file}: is no file but a pipe or device; save what comes from it, and name {_inputs()}"
            )
        found = _format_of_folder(path) if stat.S_ISDIR(mode) else _format_of_file(path, options)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such input; name {_inputs()}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        cause = getattr(error, "strerror", None) or error
        raise UsageError(f"{file}: the input cannot be read: {cause}") from error
    return found.open(str(path), options)


def require_text(location: str) -> None:
    """Refuse with a UsageError a path that is no text, as it stands in the ledger, the report and the labels."""
    if "\0" in location or any("\ud800" <= mark <= "\udfff" for mark in location):
        raise UsageError(
            f"{printable(location)}: expected a path in UTF-8, found one that is none; rename the file or folder, or "
            "reach it by a link"
        )


def _inputs() -> str:
    *others, last = (item.listed for item in (_IMAGES, *FORMATS))
    return f"{', '.join(others)} or {last}"


def _format_of_folder(path: Path) -> Format:
    """By names alone, so that an image folder costs the import of no reader."""
    for item in FORMATS:
        names = item.folder_files
        if names and (path.suffix in item.suffixes or any((path / name).is_file() for name in names)):
            return item
    return _IMAGES


def _format_of_file(path: Path, options: SourceOptions) -> Format:
    if options.raw is not None:
        return _RAW
    name = path.name.lower()
    files = [item for item in FORMATS if not item.folder_files]
    for item in files:
        if name.endswith(item.suffixes):
            return item
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    for item in files:
        if re.match(item.signature, head, re.DOTALL):
            return item
    suffix = path.suffix.lower()
    raise UsageError(f"{path}: expected {_inputs()}, found a file with the suffix {suffix or 'of none'!r}")
