"""Start of a training, kept beside its log: hyperparameters, data and machine; readable without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matseg_shared.contract.metadata import ClassInfo, InputInfo
from matseg_shared.errors import UsageError, problems_of
from matseg_shared.system.files import write_text
from matseg_trainer.data.statistics import SplitStatistics

SUFFIX = ".training.json"


class SplitFacts(BaseModel):
    """One split of the data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    pixels: int = Field(ge=1)
    """Labelled ones."""
    labelled_share: float = Field(default=1.0, gt=0, le=1)
    """Those, of all pixels but no data."""
    class_shares: tuple[float, ...]
    """Share of each class among its labelled pixels."""

    @classmethod
    def of(cls, statistics: SplitStatistics) -> SplitFacts:
        """The figures of a split that was gone through."""
        return cls(
            images=len(statistics.shapes),
            pixels=int(statistics.class_counts.sum()),
            labelled_share=statistics.labelled_share,
            class_shares=tuple(statistics.class_shares.tolist()),
        )


class TrainingRecord(BaseModel):
    """The document."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    record_version: Literal[1] = 1
    name: str
    """`<dataset>_<version>`."""
    started: str
    """UTC, ISO 8601."""
    config: dict[str, Any]
    """All hyperparameters."""
    facts: dict[str, str]
    """Sentences that the terminal showed before the first epoch."""
    classes: tuple[ClassInfo, ...]
    input: InputInfo
    train: SplitFacts
    validate_: SplitFacts | None = Field(alias="validate")
    """None: no image validates."""
    fingerprint: str
    """SHA-256 over the training and validation images and label arrays."""
    seed: int
    packages: dict[str, str]


def write_record(log: Path, record: TrainingRecord) -> None:
    """Write it beside the log.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(log.with_name(f"{log.stem}{SUFFIX}"), record.model_dump_json(indent=1, by_alias=True) + "\n")


def read_record(log: Path) -> TrainingRecord | None:
    """Read the start of the training with this log; None where an earlier version of matseg trained.

    Raises:
        UsageError: it is damaged, or of a later version.
    """
    path = log.with_name(f"{log.stem}{SUFFIX}")
    try:
        return TrainingRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        listed = "; ".join(str(problem) for problem in problems_of(error)[:3])
        raise UsageError(
            f"{path}: expected what matseg-train noted there, found something else ({listed}); move it away"
        ) from error
