"""Where slices come from: an image folder, or a volume in one of several formats."""

from __future__ import annotations

from pathlib import Path

from matseg_runtime.source.base import Source
from matseg_shared.errors import UsageError


def open_source(location: str) -> Source:
    """Open an input by what its path looks like.

    Args:
        location: a folder of images.

    Raises:
        UsageError: there is nothing there that can be segmented.
    """
    path = Path(location)
    if not path.exists():
        raise UsageError(f"{path}: there is no such input; name a folder of images")
    if path.is_dir():
        from matseg_runtime.source.folder import FolderSource

        return FolderSource(path)
    raise UsageError(f"{path}: expected a folder of images, found a file; name the folder it lies in")
