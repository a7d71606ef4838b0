"""The header of a checkpoint, read without torch: a JSON member of the archive that torch writes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from matseg_shared.contract.metadata import TrainingInfo
from matseg_shared.errors import ModelError

_MEMBER = "archive/matseg_training.json"
"""In the folder that torch gives the members of what it writes to a stream; torch refuses others."""


def append_training(stream: IO[bytes], training: TrainingInfo) -> None:
    """Add the member to an archive that torch has written to a readable stream; torch.load passes it over."""
    with zipfile.ZipFile(stream, "a") as archive:
        # dated 1980: the same bytes each time
        archive.writestr(zipfile.ZipInfo(_MEMBER), training.model_dump_json())


def read_training(path: Path) -> TrainingInfo:
    """Origin of a checkpoint's weights; those of earlier versions have no such member and are read by torch.

    Raises:
        ModelError: the file cannot be read, or is no checkpoint of matseg-train.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if _MEMBER in archive.namelist():
                return TrainingInfo.model_validate_json(archive.read(_MEMBER))
        from matseg_trainer.predict.checkpoint import load_document

        return TrainingInfo.model_validate(load_document(path).get("training"))
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(
            f"{path}: was written by an earlier version of matseg, and reading it takes torch, which is not installed"
        ) from error
    except ValidationError as error:
        raise ModelError(f"{path}: its description is not valid; train this version again") from error
    except OSError as error:
        raise ModelError(f"{path}: the checkpoint cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises many kinds for damaged files
        raise ModelError(
            f"{path}: expected a checkpoint written by matseg-train, found a damaged or foreign file"
        ) from error
