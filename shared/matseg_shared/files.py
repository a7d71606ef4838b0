"""Files that are either whole under their final name, or not there."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from matseg_shared.errors import OutputError

TEMPORARY_PREFIX = ".matseg-"
"""Names that start so are unfinished files; a killed process may leave one behind."""


def temporary_beside(path: Path) -> Path:
    """A name in the same folder (so that a rename stays on one disk) that no reader takes for a result."""
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into an `OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_cause(error)}") from error


def _cause(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left on that disk; free some, then run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; choose another output folder or change its permissions"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file stands where a folder is needed (or the other way round); choose another name"
    return error.strerror or str(error)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing; at the end it is flushed to disk and takes the name `path`.

    When the block raises, the temporary file is removed and whatever stood under `path` stays as it was.

    Raises:
        OutputError: the file cannot be written (no space, no permission, ...).
    """
    temporary = temporary_beside(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the platform lets a folder be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(text.encode())
