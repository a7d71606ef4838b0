"""Files of an export: JSON whose content is checked, unpacked archives, and the pictures that it names."""

from __future__ import annotations

import json
import shutil
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from matseg_shared.errors import DatasetError, UsageError, problems_of
from matseg_shared.images.read import IMAGE_SUFFIXES, natural_key

Coordinate = Annotated[float, Field(ge=-1e7, le=1e7, allow_inf_nan=False)]
Point = tuple[Coordinate, Coordinate]
Edge = Annotated[int, Field(ge=1, le=10_000_000)]
_SHOWN = 5
_DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, ValueError)
"""Errors of zipfile; RuntimeError: encrypted."""
MASK_FOLDERS = ("SegmentationClass", "SegmentationObject")
"""Folders of PASCAL VOC's layout: label images that have their pictures' names."""
Checked = TypeVar("Checked")


class Document(BaseModel):
    """A part of an export: the keys that are used are checked, others may be there."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def load_json(path: Path) -> Any:
    """The content of a JSON file, or a list of that of each line.

    Raises:
        DatasetError: it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
            return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: expected JSON in UTF-8, found something else or a damaged file ({error})"
        ) from error


def checked(path: Path, kind: type[Checked], content: Any, format_name: str) -> Checked:
    """The content of a file as its format has it.

    Raises:
        DatasetError: it is not; names the first places.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        problems = problems_of(error)
        rest = f"\n  - and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listing = "\n".join(f"  - {problem}" for problem in problems[:_SHOWN])
        raise DatasetError(
            f"{path}: expected {format_name}, found {len(problems)} place(s) that are not; export it again\n"
            f"{listing}{rest}"
        ) from error


def files_in(folder: Path) -> list[Path]:
    """All files in a folder and those below in natural order, without hidden ones and what macOS adds to archives."""
    found = [
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    return sorted(found, key=lambda path: natural_key(str(path.relative_to(folder))))


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """The content of a zip archive in a temporary folder.

    Raises:
        DatasetError: it is damaged or encrypted, or does not fit on the disk for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="matseg-") as name:
        try:
            with zipfile.ZipFile(archive) as packed:
                wanted = sum(item.file_size for item in packed.infolist())
                free = shutil.disk_usage(name).free
                if wanted > free:
                    raise DatasetError(
                        f"{archive}: expected at most {free / 1e9:.1f} GB to unpack to {name}, found "
                        f"{wanted / 1e9:.1f} GB; unpack it elsewhere and name the folder"
                    )
                for item in packed.infolist():
                    # as some programs on Windows part folders
                    item.filename = item.filename.replace("\\", "/")
                    packed.extract(item, name)
        except _DAMAGED as error:
            raise DatasetError(
                f"{archive}: cannot be unpacked: {error}; unpack it yourself and name the folder"
            ) from error
        try:
            yield Path(name)
        except UsageError as error:  # the user knows the archive, not where it was unpacked to
            raise DatasetError(str(error).replace(name, str(archive))) from error


class ImageFinder:
    """The pictures that an export names, wherever below some folders they are."""

    def __init__(self, folder: Path, *, is_given: bool) -> None:
        """Nothing is looked for yet.

        Args:
            folder: holds the pictures, or folders with them; or is the one picture there is.
            is_given: the user named it, so that what lies beside the export does not count.
        """
        self.only = None if folder.is_dir() else folder
        self._folder = folder
        self._is_given = is_given

    def find(self, name: str, export: Path) -> Path | None:
        """The picture of that name: at its path, else by its name, else by its name but for the suffix.

        Args:
            name: a path as the export has it, of whatever system.
            export: the file that names it.

        Raises:
            DatasetError: there are several.
        """
        parts = PurePosixPath(name.replace("\\", "/"))
        if self.only is not None or "\0" in name or not parts.name:
            return self.only
        for folder in (self._folder,) if self._is_given else (export.parent, self._folder):
            path = folder / parts
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                return path
        for key in (parts.name, parts.stem):
            found = self._by_name.get(_plain(key), [])
            found = [path for path in found if _plain(path.as_posix()).endswith(_plain(f"/{parts}"))] or found
            if len(found) > 1:
                raise DatasetError(
                    f"{export}: expected one picture called {name}, found {', '.join(map(str, found[:_SHOWN]))}; name "
                    "the folder of the right one with --images"
                )
            if found:
                return found[0]
        return None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Pictures by their plain names with and without suffix."""
        named: dict[str, list[Path]] = {}
        for path in files_in(self._folder):
            if path.suffix.lower() in IMAGE_SUFFIXES and not set(MASK_FOLDERS) & set(path.parts):
                for key in {path.name, path.stem, path.stem.removesuffix(".ome")}:
                    named.setdefault(_plain(key), []).append(path)
        return named


def _plain(name: str) -> str:
    """In lower case, and with letters put together, which macOS takes apart in the names of files."""
    return unicodedata.normalize("NFC", name).casefold()
