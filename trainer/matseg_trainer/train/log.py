"""The log of a training, a JSON document per epoch; written and read without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matseg_shared.errors import UsageError
from matseg_shared.system.files import write_text
from matseg_trainer.config.versions import KeptEpoch, VersionConfig


class SplitScore(BaseModel):
    """Scores of one split in one epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loss: float
    """Cross-entropy in nats."""
    accuracy: float
    mean_iou: float
    iou: tuple[float | None, ...] = Field(min_length=1)
    """Per class; None where a class occurs neither in the labels nor in the predictions."""


class EpochRecord(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int = Field(ge=1)
    """Counted from 1."""
    lr: float
    """Learning rate of its last step."""
    train: SplitScore
    """Scores of the augmented crops, while the weights were changing."""
    validate_: SplitScore | None = Field(alias="validate")
    """Scores of whole validation images, in fp32, after the epoch; None: there are no such images."""
    seconds: float = 0.0

    @property
    def measured(self) -> SplitScore:
        """Scores on the validation images; on the training images where nothing validates."""
        return self.validate_ or self.train

    def document(self) -> dict[str, Any]:
        """The record as plain lists, numbers and texts."""
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """All epochs of a training that could be read."""

    epochs: Sequence[EpochRecord]
    unread: tuple[int, ...] = ()
    """Numbers of damaged lines, from 1."""
    checkpoint: KeptEpoch = "best"
    """The epoch that the version keeps."""

    @property
    def best(self) -> EpochRecord:
        """The first epoch with the highest validation mean IoU; without validation the last."""
        if not self.is_validated:
            return self.epochs[-1]
        return max(self.epochs, key=lambda record: record.measured.mean_iou)

    @property
    def is_validated(self) -> bool:
        """False where no image validates."""
        return self.epochs[-1].validate_ is not None

    @property
    def kept(self) -> EpochRecord:
        """The epoch whose weights are kept."""
        return self.epochs[-1] if self.checkpoint == "last" else self.best

    def is_done(self, config: VersionConfig) -> bool:
        """True behind the last epoch, and after `stop_after` epochs that were no better than an earlier one."""
        done = len(self.epochs)
        is_stopped = config.stop_after and done and done - self.best.epoch >= config.stop_after
        return bool(is_stopped) or done >= config.epoch


def write_log(path: Path, epochs: Sequence[EpochRecord]) -> None:
    """Write `log/<name>.jsonl` anew.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, "".join(f"{json.dumps(record.document())}\n" for record in epochs))


def read_log(path: Path) -> TrainingLog:
    """Read `log/<name>.jsonl`; lines that are damaged are left out, and counted.

    Raises:
        UsageError: it is missing, or holds no epoch.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(
            f"{path}: expected the log of a training, found no file that can be read ({error.strerror or error}); "
            "run matseg-train"
        ) from error
    epochs: list[EpochRecord] = []
    unread: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            epochs.append(EpochRecord.model_validate_json(line))
        except ValidationError:
            unread.append(number)
    classes = {len(score.iou) for epoch in epochs for score in (epoch.train, epoch.validate_) if score}
    if len(classes) != 1:
        raise UsageError(
            f"{path}: expected the log of one training, a JSON document with loss and IoU per line, found something "
            "else; name a file that matseg-train wrote into log/"
        )
    return TrainingLog(epochs=tuple(epochs), unread=tuple(unread))
