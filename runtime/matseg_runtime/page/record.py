"""The record that a finished run left on disk, read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from pydantic import ValidationError

from matseg_runtime.ledger import Ledger, Part
from matseg_runtime.measure.phase_fractions import CSV_NAME, counted_files
from matseg_runtime.measure.report import (
    MANIFEST_NAME,
    REPORT_NAME,
    Manifest,
    Report,
    read_manifest,
    read_report,
)
from matseg_runtime.records import ExcludedSlice, SliceRecord
from matseg_runtime.sink.images import LEDGER_NAME
from matseg_runtime.sink.volume import SIDE_SUFFIX, side_folder
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import UsageError, problems_of
from matseg_shared.images.palette import default_colours
from matseg_shared.images.read import natural_key

_OPEN = ("png", "tiff")
"""Formats of outputs to which slices may be added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlaces:
    """Paths of a run's results."""

    report: Path
    """`report.json`; the page goes beside it."""
    ledger: Path
    labels: Path
    """A folder of label images, or a volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a page tells in words and numbers."""

    places: RunPlaces
    report: Report
    manifest: Manifest | None
    """None where an earlier version of matseg labelled."""
    slices: tuple[SliceRecord, ...]
    """Labelled slices by position; empty when the ledger is gone."""
    excluded: tuple[ExcludedSlice, ...]
    parts: tuple[Report, ...] = ()
    """Reports of the processes that shared the work and were not the last."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Classes of the model; without its colours when those are not known any more."""
        if self.manifest is not None:
            return self.manifest.model.classes
        names = [item.name for item in self.report.phase_fractions]
        return tuple(
            ClassInfo(index=index, name=name, colour=colour, label_value=index)
            for index, (name, colour) in enumerate(zip(names, default_colours(len(names)), strict=True))
        )


def find_run(path: Path) -> RunPlaces | None:
    """The run whose output, side folder or report a path names; None where it names none.

    A folder of label images holds its report; a volume `labels.zarr` has it in `labels.zarr.matseg`.
    """
    path = path.absolute()
    if path.name == REPORT_NAME and path.is_file():
        path = path.parent
    if not path.name:
        return None
    beside = side_folder(path)
    if (beside / REPORT_NAME).is_file() or (beside / "job.json").is_file():
        return RunPlaces(report=beside / REPORT_NAME, ledger=beside, labels=path)
    if path.name.endswith(SIDE_SUFFIX) and path.is_dir() and path.name != LEDGER_NAME:
        return RunPlaces(report=path / REPORT_NAME, ledger=path, labels=_volume_of(path))
    folder = path.parent if path.name == LEDGER_NAME else path
    if (folder / REPORT_NAME).is_file() or (folder / LEDGER_NAME).is_dir():
        return RunPlaces(report=folder / REPORT_NAME, ledger=folder / LEDGER_NAME, labels=folder)
    return None


def _volume_of(side: Path) -> Path:
    """The inverse of `side_folder`."""
    volume = side.with_name(side.name.removesuffix(SIDE_SUFFIX))
    root, separator, within = volume.name.partition(".zarr.")
    if not separator or volume.exists():
        return volume
    *groups, name = within.split(".")
    return side.with_name(f"{root}.zarr").joinpath(*groups, "labels", name)


def read_run(places: RunPlaces) -> RunRecord:
    """Read a finished run's report and ledger.

    Raises:
        UsageError: there is no report, or none of this version.
        OutputError: the ledger is damaged.
    """
    report = _last_report(places.report)
    ledger = Ledger(places.ledger, Part())
    ledger.reload()
    count = len(report.phase_fractions)
    manifest = read_manifest(places.ledger)
    if manifest is not None and len(manifest.model.classes) != count:
        raise UsageError(
            f"{places.report}: tells of {count} classes, {places.ledger / MANIFEST_NAME} of "
            f"{len(manifest.model.classes)}; they do not belong together; run matseg-run again"
        )
    records = [record for record in ledger.done.values() if len(record.counts) == count]
    slices, excluded = _in_order(report, *_still_there(places, report, records, ledger.excluded.values()))
    return RunRecord(
        places=places,
        report=report,
        manifest=manifest,
        slices=slices,
        excluded=excluded,
        parts=_parts(places.ledger, report),
    )


def _still_there(
    places: RunPlaces, report: Report, slices: Sequence[SliceRecord], excluded: Iterable[ExcludedSlice]
) -> tuple[list[SliceRecord], list[ExcludedSlice]]:
    """Those that the run's figures are of: the ledger also knows images that have been taken out of their folder."""
    unread = {item.name for item in report.excluded}
    kept = list(slices)
    if len(kept) + len(unread) > report.slices:
        counted = counted_files(places.report.with_name(CSV_NAME))
        kept = [item for item in kept if counted is None or Path(item.where).name in counted]
    return kept, [item for item in excluded if item.name in unread]


def _in_order(
    report: Report, slices: Sequence[SliceRecord], excluded: Sequence[ExcludedSlice]
) -> tuple[tuple[SliceRecord, ...], tuple[ExcludedSlice, ...]]:
    """By position; where images may have come between runs, that is the one by the files' names."""
    if report.provenance.input_kind == "folder" and report.provenance.output_format in _OPEN:
        files = {item.name: Path(item.where).name for item in slices}
        files |= {item.name: Path(item.where).name for item in excluded}
        names = sorted(files, key=lambda name: (natural_key(files[name]), files[name]))
        place = {name: {"index": number} for number, name in enumerate(names)}
        slices = [item.model_copy(update=place[item.name]) for item in slices]
        excluded = [item.model_copy(update=place[item.name]) for item in excluded]
    by_place = attrgetter("index")
    return tuple(sorted(slices, key=by_place)), tuple(sorted(excluded, key=by_place))


def _last_report(path: Path) -> Report:
    try:
        return read_report(path)
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: the run there is not finished; run the same matseg-run command again, or complete its parts "
            "with --finish"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        listed = "; ".join(str(problem) for problem in problems_of(error)[:3])
        raise UsageError(
            f"{path}: expected a report that matseg-run wrote, found something else ({listed}); run matseg-run again"
        ) from error


def _parts(ledger: Path, last: Report) -> tuple[Report, ...]:
    """Reports of the other processes; those that cannot be read are history and not missed."""
    found = []
    for path in sorted(ledger.glob("report-*.json")):
        with suppress(OSError, ValidationError):
            found.append(read_report(path))
    return tuple(item for item in found if (item.part, item.started) != (last.part, last.started))
