"""Install commands are given in terms of where this installation came from."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from matseg_shared import installation
from matseg_shared.installation import install_command


class Distribution:
    """An installed distribution with that `direct_url.json`, as PEP 610 describes it."""

    def __init__(self, record: object) -> None:
        self._record = record

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._record is None else json.dumps(self._record)


CASES = {
    "editable": (
        {"url": "file:///home/jane/MatSeg", "dir_info": {"editable": True}},
        "pip install --editable '/home/jane/MatSeg[cpu]'",
    ),
    "folder": ({"url": "file:///home/jane/MatSeg", "dir_info": {}}, "pip install '/home/jane/MatSeg[cpu]'"),
    "blank in the path": (
        {"url": "file:///home/jane/Mat%20Seg", "dir_info": {}},
        "pip install '/home/jane/Mat Seg[cpu]'",
    ),
    "wheel": (
        {"url": "file:///opt/matseg-0.1.0-py3-none-any.whl", "archive_info": {}},
        "pip install '/opt/matseg-0.1.0-py3-none-any.whl[cpu]'",
    ),
    "download": (
        {"url": "https://example.org/matseg-0.1.0-py3-none-any.whl", "archive_info": {}},
        "pip install 'matseg[cpu] @ https://example.org/matseg-0.1.0-py3-none-any.whl'",
    ),
    "git": (
        {"url": "https://example.org/MatSeg.git", "vcs_info": {"vcs": "git", "commit_id": "4c5a1a7"}},
        "pip install 'matseg[cpu] @ git+https://example.org/MatSeg.git@4c5a1a7'",
    ),
    "wheelhouse": (None, "pip install --no-index --find-links WHEELHOUSE 'matseg[cpu]'"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_command_names_the_source_of_this_installation(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, expected = CASES[case]
    monkeypatch.setattr(installation, "distribution", lambda _: Distribution(record))
    assert install_command("cpu") == expected


def test_code_that_was_never_installed_names_its_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "distribution", absent)
    clone = Path(__file__).parents[2]
    assert install_command("train,cpu") == f"pip install '{clone}[train,cpu]'"
