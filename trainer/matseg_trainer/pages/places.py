"""Paths of pages, and the line with which a command ends that made one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matseg_shared.errors import MatsegError
from matseg_shared.installation import install_command
from matseg_shared.pages.page import is_installed


def page_path(source: Path) -> Path:
    """`plots/<name>.html` for what lies in `log/`, else beside it.

    Args:
        source: the log of a training, or the document of an evaluation.
    """
    name = f"{source.stem}.html"
    if source.absolute().parent.name != "log":
        return source.with_name(name)
    folder = source.parent.parent if source.parent.name == "log" else source.absolute().parent.parent
    return folder / "plots" / name


def page_line(write: Callable[[Path], Path], source: Path, *, width: int = 10) -> str:
    """Make a page and name it; the command's own results are safe by now, so that a page may fail.

    Args:
        write: `write_training_page` or `write_evaluation_page`.
        source: what it reads.
        width: of the names of the files listed above the line.

    Returns:
        A line for the user.
    """
    if not is_installed():
        how = f"{install_command('report')}, then matseg-report {source}"
        return f"  no report: it needs the extra `report` ({how})"
    try:
        return f"  {'report':<{width}} {write(source)}"
    except MatsegError as error:
        return f"  no report: {error}"
