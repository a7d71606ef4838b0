"""`origin.json`: the facts about a run that are nowhere else once its model is out of reach, for its page."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from matseg_runtime.run.setup import Run
from matseg_runtime.source.open import NODE_SEPARATOR, split_location
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import OutputError
from matseg_shared.system.files import write_text
from matseg_shared.system.machine import available_cpus

MANIFEST_NAME = "origin.json"


class Manifest(BaseModel):
    """Written into the ledger's folder when a run is complete."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    origin_version: Literal[1] = 1
    input: str
    """Absolute path, or URL, of the input; `::/path` after it as the user gave it."""
    fill_missing_chunks: bool
    cores: int
    """That the last run could use."""
    machine: str
    """Host name of the last run."""
    model: ModelMetadata


def absolute_location(location: str) -> str:
    """An input's location, whatever folder is current."""
    file, node = split_location(location)
    if "://" in file:
        return location
    return str(Path(file).absolute()) + ("" if node is None else f"{NODE_SEPARATOR}{node}")


def write_manifest(run: Run) -> None:
    """Write it into the ledger's folder.

    Raises:
        OutputError: it cannot be written.
    """
    manifest = Manifest(
        input=absolute_location(run.options.input),
        fill_missing_chunks=run.options.source.fill_missing_chunks,
        cores=available_cpus(),
        machine=platform.node(),
        model=run.metadata,
    )
    write_text(run.target.ledger_folder / MANIFEST_NAME, manifest.model_dump_json(indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """Read a ledger's manifest; None where an earlier version of matseg wrote it.

    Raises:
        OutputError: it is damaged, or of a later version.
    """
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        found = "something else" if isinstance(error, ValidationError) else f"that it cannot be read: {error}"
        raise OutputError(
            f"{path}: expected what matseg-run noted there about its model, found {found}"
        ) from error
