"""Exported files and the outputs of runs in a workspace."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

from pydantic import ValidationError

from matseg_runtime.ledger import Ledger, Part, read_key
from matseg_runtime.measure.report import Provenance, Report, read_report
from matseg_runtime.model.guard import check_model
from matseg_runtime.page.record import RunPlaces, find_run
from matseg_runtime.records import JobKey
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.contract.onnx_properties import decode
from matseg_shared.errors import MatsegError, ModelError, OutputError
from matseg_trainer.overview.state import RunState
from matseg_trainer.workspace import Workspace

_HASHED_BYTES = 64 << 20
"""Larger model files are not compared with what made a run."""
_RUN_PLACES = ("*", "*_predictions/*", "data/*_predictions/*", "data/*/*/*_predictions/*")


def exported_models(place: Workspace) -> tuple[dict[Path, ModelMetadata], list[str]]:
    """Model files in `saved/` and beside `config.toml`; a sentence for each that cannot be read."""
    found, problems = {}, []
    for path in sorted([*place.saved.glob("*.onnx"), *place.root.glob("*.onnx")]):
        try:
            found[path] = _read_metadata(path)
        except ModelError as error:
            problems.append(str(error))
    return found, problems


def _read_metadata(path: Path) -> ModelMetadata:
    """The document of a model file, of whose weights nothing is read."""
    try:
        with path.open("rb") as stream:
            content = mmap(stream.fileno(), 0, access=ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise ModelError(f"{path}: the model file cannot be read: {error}") from error
    return decode(check_model(path, content), str(path))


def runs(place: Workspace) -> list[RunState]:
    """Outputs of `matseg-run` where it puts them by default, and beside `config.toml`."""
    found: dict[Path, RunPlaces] = {}
    for pattern in _RUN_PLACES:
        for path in sorted(place.root.glob(pattern)):
            run = find_run(path) if path.is_dir() or path.suffix.lower() in (".tif", ".tiff") else None
            if run is not None:
                found.setdefault(run.labels, run)
    sha256 = functools.cache(_sha256)  # several runs of one model
    states = (_state(run, place.root, sha256) for run in found.values())
    return [state for state in states if state is not None]


def _sha256(path: Path) -> str | None:
    """None where the file is gone or large."""
    small = path.is_file() and path.stat().st_size <= _HASHED_BYTES
    return hashlib.sha256(path.read_bytes()).hexdigest() if small else None


def _state(run: RunPlaces, root: Path, sha256: Callable[[Path], str | None]) -> RunState | None:
    report: Report | None = None
    job: JobKey | Provenance | None = None
    with suppress(OSError, ValidationError):  # missing, or of an earlier version: the ledger knows the rest
        report = read_report(run.report)
        job = report.provenance
    with suppress(OutputError):
        job = read_key(run.ledger) or job
    if job is None:
        return None
    now = None if report is None else sha256(root / report.model)
    folder = root.absolute()
    ledger = Ledger(run.ledger, Part())
    if report is None:
        with suppress(MatsegError, OSError):
            ledger.reload()
    return RunState(
        output=run.labels.relative_to(folder) if run.labels.is_relative_to(folder) else run.labels,
        model_name=job.model_name,
        slices=len(ledger.done) if report is None else report.labelled + report.labelled_before,
        is_complete=report is not None and report.complete,
        excluded=0 if report is None else len(report.excluded),
        is_stale=now is not None and now != job.model_sha256,
    )
