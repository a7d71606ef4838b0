"""Find a browser that Playwright can drive."""

from __future__ import annotations

import os
import shutil

VARIABLE = "MATSEG_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Browser that MATSEG_CHROMIUM names, else the first browser of Chromium's family on the path."""
    named = os.environ.get(VARIABLE)
    return named or next((found for name in _NAMES if (found := shutil.which(name))), None)
