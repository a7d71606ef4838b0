"""A training that many tests export."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from discs import write_workspace

from matseg_trainer.commands.train import train_main


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_workspace(tmp_path_factory.mktemp("trained"))
    assert CliRunner().invoke(train_main, ["discs", "v1", "--workspace", str(root)]).exit_code == 0
    return root


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Path:
    """A workspace of the test's own in which discs v1 is trained."""
    return shutil.copytree(_trained, tmp_path, dirs_exist_ok=True)
