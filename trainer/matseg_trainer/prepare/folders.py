"""A folder of results that is there wholly or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matseg_shared.errors import UsageError
from matseg_shared.system.files import output_errors, temporary_beside


@contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that takes the name `target` at the end; when the block raises, it is removed.

    Raises:
        UsageError: `target` exists and `overwrite` is false.
        OutputError: it cannot be written.
    """
    refuse_existing_folder(target, overwrite=overwrite)
    temporary = temporary_beside(target)
    try:
        with output_errors(target):
            temporary.mkdir(parents=True)
            yield temporary
            _take_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing_folder(target: Path, *, overwrite: bool) -> None:
    """Raises UsageError when `target` exists and may not be replaced."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(
            f"{target}: expected a folder or nothing there, found something else; choose another name"
        )
    if target.exists() and not overwrite:
        raise UsageError(f"{target}: exists already; choose another name, or replace it with --overwrite")


def _take_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    old = temporary_beside(target)  # renamed, not deleted, until the new one stands: no moment without either
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
