"""The option of all commands that can end with a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

VARIABLE = "MATSEG_REPORT"


def page_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--report/--no-report`; the command's argument is `page`."""
    return click.option(
        "--report/--no-report",
        "page",
        default=True,
        envvar=VARIABLE,
        help=f"End with an HTML page to look at. Default: do ({VARIABLE}=0: do not).",
    )(command)
