"""End a command with its page, or with one line that says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matseg_shared.errors import MatsegError
from matseg_shared.installation import install_command
from matseg_shared.pages.page import is_installed


def leave_page(write: Callable[[Path], Path], source: Path, *, width: int = 10) -> str:
    """Make a page; the command's own results are safe by now, so that one which cannot be made is no failure.

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
