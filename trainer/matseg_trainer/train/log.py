"""The log of a training, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matseg_shared.errors import UsageError
from matseg_trainer.config.versions import Keep, kept_index


class LoggedScore(BaseModel):
    """One split in one epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loss: float
    accuracy: float
    mean_iou: float
    iou: tuple[float | None, ...] = Field(min_length=1)


class LoggedEpoch(BaseModel):
    """One line."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int = Field(ge=1)
    lr: float
    train: LoggedScore
    validate_: LoggedScore = Field(alias="validate")
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """All epochs that could be read."""

    epochs: tuple[LoggedEpoch, ...]
    unread: tuple[int, ...]
    """Numbers of lines that are none, from 1."""
    keep: Keep = "best"
    """What the version says of the epoch to keep."""

    @property
    def kept(self) -> LoggedEpoch:
        """The epoch whose weights are kept."""
        return self._epoch(self.keep)

    @property
    def best(self) -> LoggedEpoch:
        """The epoch with the highest validation mean IoU."""
        return self._epoch("best")

    def _epoch(self, keep: Keep) -> LoggedEpoch:
        return self.epochs[kept_index([epoch.validate_.mean_iou for epoch in self.epochs], keep)]


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
    epochs: list[LoggedEpoch] = []
    unread: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            epochs.append(LoggedEpoch.model_validate_json(line))
        except ValidationError:
            unread.append(number)
    count = max((len(epoch.validate_.iou) for epoch in epochs), default=0)
    if not epochs or any({len(epoch.validate_.iou), len(epoch.train.iou)} != {count} for epoch in epochs):
        raise UsageError(
            f"{path}: expected the log of one training, a JSON document with loss and IoU per line, found something "
            "else; name a file that matseg-train wrote into log/"
        )
    return TrainingLog(epochs=tuple(epochs), unread=tuple(unread))
