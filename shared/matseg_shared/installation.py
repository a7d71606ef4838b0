"""Origin of this installation, for messages that say how to install more of it."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_NAME = "matseg"


def install_command(extras: str) -> str:
    """Command that installs extras, such as `train,cpu`, from the source of this installation.

    A package index is never named: nothing of our name is published there by us. What was installed without
    a direct URL (PEP 610) came from a folder of wheels, whose name pip does not record.
    """
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # slow, and needed by messages only

    try:
        record = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:  # run from a clone that was never installed
        return _pip(f"{Path(__file__).parents[2]}[{extras}]")
    if record is None:
        return f"pip install --no-index --find-links WHEELHOUSE {shlex.quote(f'{_NAME}[{extras}]')}"
    origin = json.loads(record)
    url = urlsplit(origin["url"])
    if "vcs_info" in origin:
        version = origin["vcs_info"]
        return _pip(f"{_NAME}[{extras}] @ {version['vcs']}+{url.geturl()}@{version['commit_id']}")
    if url.scheme != "file":
        return _pip(f"{_NAME}[{extras}] @ {url.geturl()}")
    target = f"{url2pathname(url.path)}[{extras}]"
    editable = origin.get("dir_info", {}).get("editable", False)
    return _pip(target, *(["--editable"] if editable else []))


def _pip(target: str, *options: str) -> str:
    return shlex.join(["pip", "install", *options, target])
