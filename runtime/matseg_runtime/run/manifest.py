"""What a page about a run needs beside the ledger and is nowhere else once the model is out of reach."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from matseg_runtime.source.open import NODE_SEPARATOR, split_location
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import OutputError
from matseg_shared.system.files import write_text

ORIGIN_NAME = "origin.json"


class Origin(BaseModel):
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


def write_origin(folder: Path, origin: Origin) -> None:
    """Write it into a ledger's folder.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(folder / ORIGIN_NAME, origin.model_dump_json(indent=1) + "\n")


def read_origin(folder: Path) -> Origin | None:
    """Of a ledger; None where an earlier version of matseg wrote it.

    Raises:
        OutputError: it is damaged, or of a later version.
    """
    path = folder / ORIGIN_NAME
    try:
        return Origin.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise OutputError(
            f"{path}: expected what matseg-run noted there about its model, found {_found(error)}"
        ) from error


def _found(error: Exception) -> str:
    return "something else" if isinstance(error, ValidationError) else f"that it cannot be read: {error}"
