"""Contents of a workspace: the JSON document of `matseg`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matseg_shared.contract.metadata import Precision, Views, graph_kind

Progress = Literal["untrained", "interrupted", "trained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitState:
    """One split of a data set; numbers of files."""

    split: str
    images: int
    labels: int
    arrays: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationState:
    """One evaluation whose figures are in `log/`."""

    split: str
    dataset: str | None
    """The data set, where it is not the version's own."""
    model: Literal["checkpoint", "onnx"]
    mean_iou: float | None
    path: Path
    is_stale: bool
    """The checkpoint is newer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One exported file."""

    path: Path
    precision: Precision
    tta: Views
    bytes: int
    is_stale: bool
    """It was made of another checkpoint than the one in `saved/`."""

    @property
    def kind(self) -> str:
        """Precision and views, for a table."""
        return graph_kind(self.precision, self.tta)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One output of `matseg-run` in the workspace."""

    output: Path
    model_name: str
    slices: int
    """Labelled."""
    is_complete: bool
    excluded: int
    is_stale: bool
    """The model's file has changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    """One version of `config.toml`."""

    version: str
    network: str
    progress: Progress
    epochs: int
    """Trained."""
    epochs_wanted: int
    kept_epoch: int | None
    mean_iou: float | None
    """Mean IoU of that epoch on the validation images."""
    evaluations: tuple[EvaluationState, ...]
    models: tuple[ModelState, ...]
    notes: tuple[str, ...]
    """Sentences on what is out of date or cannot be read."""
    is_stale: bool
    """Hyperparameters or data have changed since the training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetState:
    """One data set: a folder of `data/`, a table of `config.toml`, or both."""

    name: str
    n_class: int | None
    splits: tuple[SplitState, ...]
    versions: tuple[VersionState, ...]
    runs: tuple[RunState, ...]
    next: str | None
    """The command to type next; None: the walk is done."""
    hint: str
    """Purpose of the command, or what to do where none can."""

    @property
    def step(self) -> str:
        """Both in words."""
        return self.hint if self.next is None else f"{self.next}  ({self.hint})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceState:
    """A whole workspace."""

    workspace: Path
    is_workspace: bool
    """There is a `config.toml` or a data set."""
    datasets: tuple[DatasetState, ...]
    other_runs: tuple[RunState, ...]
    """Runs of models of no data set here."""
    problems: tuple[str, ...]
    """Reasons for which something could not be read."""
    next: str | None
    """The command to type next."""
