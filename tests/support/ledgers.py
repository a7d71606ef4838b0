"""A process at work on one part of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matseg_runtime.ledger import Ledger, Part
from matseg_runtime.records import JobKey


@contextmanager
def at_work(folder: Path, key: JobKey, part: Part | None = None) -> Iterator[Ledger]:
    """The ledger of a job that was started, or is gone on with; for this process alone until the block ends."""
    ledger = Ledger(folder, part or Part())
    with ledger.exclusive():
        with ledger.job_lock():
            ledger.take_part()
            ledger.start(key)
        yield ledger
