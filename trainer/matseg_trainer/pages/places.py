"""Paths of pages, and the line with which a command ends that made one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matseg_shared.errors import MatsegError
from matseg_shared.installation import install_command
from matseg_shared.pages.page import is_installed


def page_path(source: Path) -> Path:
    """`plots/<name>.html` for the log or the document that lies in `log/`, else beside it."""
    name = f"{source.stem}.html"
    if source.absolute().parent.name != "log":
        return source.with_name(name)
    folder = source.parent.parent if source.parent.name == "log" else source.absolute().parent.parent
    return folder / "plots" / name


def page_line(write: Callable[[Path], Path], source: Path, *, width: int = 10) -> str:
    """Make a page of `source`; the command's own results are safe by now, so that it may fail.

    Returns:
        A line for the user; the names of the files listed above it are `width` wide.
    """
    if not is_installed():
        how = f"{install_command('report')}, then matseg-report {source}"
        return f"  no report: it needs the extra `report` ({how})"
    try:
        return f"  {'report':<{width}} {write(source)}"
    except MatsegError as error:
        return f"  no report: {error}"
