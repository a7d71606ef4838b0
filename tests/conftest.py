"""One thread per process: the suite runs in parallel, and small inputs gain nothing from more.

Few pages: they take time. Ctrl-C works in the programs that tests start, even where the suite was told to ignore it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import onnxruntime without our own care for that
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of commands would compile all that they import
os.environ.setdefault("MATSEG_REPORT", "0")  # of pages only their own tests want to see any

TOGETHER = (
    "tests/contract/",
    "tests/fuzz/test_corpus.py",
    "tests/install/",
    "tests/neighbours/",
    "tests/quality/",
    "tests/runtime/run/test_crash.py",
    "tests/runtime/run/test_dask.py",
    "tests/trainer/export/test_ensemble.py",
    "tests/trainer/export/test_quantise.py",
    "tests/trainer/train/test_folds.py",
)
"""Tests that share what takes long to make: networks as files, environments, a cluster, undisturbed runs."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting() -> Iterator[None]:
    """Commands in this process do not wait for the disk, nor between two looks at inputs written a moment ago."""
    from matseg_runtime.source import base

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses what is no open file, too
        patch.setattr(base, "_SETTLE_SECONDS", 0.001)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests under a path of `TOGETHER` to one process, and the others one by one to any.

    The mark `xdist_group` comes to nothing with pytest 9.2: https://github.com/pytest-dev/pytest-xdist/issues/1386
    """
    from xdist.scheduler import LoadScopeScheduling

    assert all((config.rootpath / path).exists() for path in TOGETHER)

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((path for path in TOGETHER if nodeid.startswith(path)), nodeid)

    return Scheduling(config, log)
