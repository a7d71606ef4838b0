"""Files that are either whole under their final name, or not there."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from matseg_shared.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on

TEMPORARY_PREFIX = ".matseg-"
"""Names that start so are unfinished files; a killed process may leave one behind."""
_FOLDERS_NOT_SYNCED = {
    errno.EACCES,  # Windows opens no folder; a folder that may be written but not listed
    errno.EPERM,
    errno.EINVAL,  # file systems without it
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EBADF,
}


def temporary_beside(path: Path) -> Path:
    """A name in the same folder (so that a rename stays on one disk) that no reader takes for a result."""
    end = path.name[-40:]  # a name of the longest length that disks take leaves no room for a prefix
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{end}")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into an `OutputError` that says what to do.

    A file that is missing elsewhere is an input's fault and passes through as it is.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not _concerns(error, path):
            raise
        raise OutputError(f"{path}: cannot be written: {_cause(error)}") from error


def _concerns(error: OSError, path: Path) -> bool:
    """True when the error is of `path`, its folder, what lies in either, or of a folder above."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename)).absolute()
    path = path.absolute()
    return named.is_relative_to(path.parent) or path.is_relative_to(named)


def _cause(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left on that disk; free some, then run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; choose another output folder or change its permissions"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file stands where a folder is needed (or the other way round); choose another name"
    return error.strerror or str(error)


class _Output(io.BufferedWriter):
    """A file that knows why it could not be written, whatever its writer makes of that.

    It hides its descriptor, on which numpy and others write by themselves, and then cannot say that a disk is full.
    """

    failure: OSError | None = None

    def write(self, content: Buffer, /) -> int:
        """See the base class."""
        try:
            return super().write(content)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def fileno(self) -> int:
        """Writers fall back to `write`."""
        raise io.UnsupportedOperation("fileno")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing; at the end it is flushed to disk and takes the name `path`.

    When the block raises, the temporary file is removed and whatever stood under `path` stays as it was.

    Raises:
        OutputError: the file cannot be written (no space, no permission, ...).
    """
    temporary = temporary_beside(path)
    with output_errors(path):
        make_folder(path.parent)
        raw = temporary.open("xb", buffering=0)
        stream = _Output(raw)
        try:
            with stream:
                yield stream
                stream.flush()
                os.fsync(raw.fileno())
            temporary.replace(path)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if stream.failure is not None and isinstance(error, Exception):
                raise stream.failure from error
            raise
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, such that a power cut does not take them away again.

    Raises:
        OSError: it cannot be made.
    """
    missing = list(itertools.takewhile(lambda above: not above.is_dir(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make what was made or renamed in `folder` durable, where the platform knows how.

    Raises:
        OSError: the disk reports that it is not.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _FOLDERS_NOT_SYNCED:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FOLDERS_NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; harmless when there is none.

    Raises:
        OSError: it cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what killed processes left unfinished in a folder; nobody may be writing there.

    Raises:
        OSError: it cannot be deleted.
    """
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(TEMPORARY_PREFIX):
                remove(path)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table, its header among the rows, as UTF-8, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
