"""A model that was exported earlier, taken as it is."""

from __future__ import annotations

from pathlib import Path

from matseg_runtime.inference.session import Session
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.contract.metadata import Precision, Views
from matseg_shared.errors import UsageError
from matseg_trainer.export.export import ExportResult
from matseg_trainer.predict.checkpoint import Checkpoint


def exported_before(path: Path, checkpoint: Checkpoint, precision: Precision, tta: Views) -> ExportResult:
    """Read the file that an export of the checkpoint in this precision, with so many views, left at `path`.

    Raises:
        ModelError: it is no model.
        UsageError: it is of another training, in another precision, or with other views.
    """
    found = Session.open(path, provider="cpu", trust=MADE_HERE).model.metadata
    same = found.training.model_dump(mode="json") == checkpoint.training.model_dump(mode="json")
    same = same and checkpoint.pixel_size in (None, found.pixel_size)
    if not same or found.export.precision != precision or found.export.tta != tta:
        raise UsageError(
            f"{path}: expected {checkpoint.training.dataset}_{checkpoint.training.version} as it is trained now, in "
            f"{precision} with {tta} view(s), found {found.name} of epoch {found.training.epoch} in "
            f"{found.export.precision} with {found.export.tta}; export it again with --overwrite, or to another name "
            "with -o"
        )
    return ExportResult(path=path, bytes=path.stat().st_size, metadata=found)
