"""Small jobs, their inputs, and what undisturbed runs leave."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_jobs
from small_jobs import SmallJob

Clean = Callable[[SmallJob], dict[str, bytes]]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and inputs of all small jobs."""
    return small_jobs.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def clean(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """The files of an undisturbed run of a job."""
    known: dict[str, dict[str, bytes]] = {}

    def undisturbed(job: SmallJob) -> dict[str, bytes]:
        if job.name not in known:
            folder = small_jobs.fresh_folder(inputs, tmp_path_factory.mktemp("clean") / "work")
            result = small_jobs.run(job, inputs, folder)
            assert result.exit_code == 0, result.output
            known[job.name] = small_jobs.results(folder)
        return known[job.name]

    return undisturbed


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for one job, in memory where that can be had: the disks here are simulated or mounted."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as found:
        yield Path(found) / "work"
        shutil.rmtree(Path(found) / "work", ignore_errors=True)
