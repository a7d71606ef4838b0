"""Real disks that are too small, or that turn read-only; and a user who may not write."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of so many kilobytes in memory; skips where this user may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("mounting a small disk takes privileges that are not here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Change a mounted disk: `ro`, `rw`, `size=20m`."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True, capture_output=True)


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user who owns nothing; skips where one cannot become another user."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("becoming another user takes privileges that are not here")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
