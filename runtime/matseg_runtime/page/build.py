"""The page of a run, from what is on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matseg_runtime.ledger import Ledger
from matseg_runtime.measure.phase_fractions import DRIFT_WARNING, disagreement_share
from matseg_runtime.measure.report import read_report, write_report
from matseg_runtime.measure.tables import RegionSummary
from matseg_runtime.measure.tables_3d import VolumeSummary
from matseg_runtime.page.choose import choose_slices, doubtful_share, fraction
from matseg_runtime.page.content import RunContent
from matseg_runtime.page.measures import read_measures, read_proposals, size_charts
from matseg_runtime.page.record import RunPlaces, RunRecord, find_run, read_run
from matseg_runtime.page.slices import Pictures, take_pictures
from matseg_runtime.run.finalize import PAGE_NAME, Summary
from matseg_runtime.run.options import parse_range
from matseg_runtime.run.setup import Run
from matseg_runtime.run.thumbnails import Thumbnails
from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.open import open_source, split_location
from matseg_shared.errors import MatsegError, OutputError
from matseg_shared.images.channel_files import ChannelFiles
from matseg_shared.images.channels import parse_channels
from matseg_shared.images.palette import default_colours
from matseg_shared.installation import install_command
from matseg_shared.pages.charts import BLUE, VERMILION, Chart, Series, thinned, training_set
from matseg_shared.pages.page import (
    Template,
    count,
    css_colour,
    is_installed,
    prepare_page,
    require_report_extra,
    write_page,
)
from matseg_shared.pages.pictures import distinct, visible_colours

_TEMPLATE = Template(package="matseg_runtime.page", name="run.html.j2", scripts=("slices.js",))
_SEPARATE_CLASSES = 4
"""Up to so many classes have a chart each, because rare and common ones do not fit on one scale."""


def write_run_page(
    places: RunPlaces,
    *,
    source: Source | None = None,
    location: str | None = None,
    show: Sequence[int] | None = None,
    thumbnails: Thumbnails | None = None,
) -> Path:
    """Make `report.html` beside `report.json`, and return its path; only the slices it shows are read again.

    Args:
        places: see `find_run`.
        source: the input, where it is open already.
        location: of the input, where it has been moved; None: where it was.
        show: channels, one or three; None: colours, else the first.
        thumbnails: that the run has taken of slices; None: all are read.

    Raises:
        MissingExtraError: the extra `report` is not installed.
        UsageError: the run is not finished, or its report is none.
        OutputError: the page cannot be written, or the ledger is damaged.
    """
    path = places.report.with_name(PAGE_NAME)
    require_report_extra(PAGE_NAME)
    record = read_run(places)
    missing: list[str] = []
    if not record.slices:
        missing.append(
            f"{places.ledger}: there is no record of the slices any more, so only the totals are known."
        )
    colours = [item.colour for item in record.classes]
    shown_colours = visible_colours(colours)
    measures = read_measures(record, RegionSummary, missing)
    volume = read_measures(record, VolumeSummary, missing)
    proposals = read_proposals(record)
    maps = {} if proposals is None else dict(proposals.maps)
    choices = choose_slices(record.slices, [item.name for item in record.classes], maps)
    with _input(record, source, location, missing) as found:
        pictures = take_pictures(record, choices, found, colours, maps, show or (), thumbnails)
    if bad := sum(bool(item.problems) for item in pictures.slices):
        missing.append(
            f"{bad} of the {len(choices)} slices shown here are missing or have changed; each says how."
        )
    fractions, others = _fraction_charts(record), _along_stack(record)
    intensities = [*_histogram(record, pictures), *others]
    sizes = [
        chart
        for summary in (measures, volume)
        if summary is not None
        for chart in size_charts(summary, shown_colours)
    ]
    write_page(
        path,
        _TEMPLATE,
        title=f"{record.report.provenance.model_name}: run",
        content=RunContent(
            record=record,
            pictures=pictures,
            missing=tuple(missing),
            measures=measures,
            volume=volume,
            proposals=proposals,
            fraction_charts=tuple(chart.id for chart in fractions),
            intensity_charts=tuple(chart.id for chart in intensities),
        ),
        charts=[*fractions, *sizes, *intensities],
        data={  # for slices.js
            "classes": [
                {"name": item.name, "colour": css_colour(item.colour), "first": css_colour(first)}
                for item, first in zip(record.classes, shown_colours, strict=True)
            ],
            "palette": [css_colour(colour) for colour in distinct(colours)],
            "safe_palette": [css_colour(colour) for colour in default_colours(len(colours))],
            "slices": pictures.slices,
            "stack_charts": [chart.id for chart in [*fractions, *others]],
        },
    )
    return path


def prepare() -> None:
    """Do beforehand what takes long and depends on no run."""
    if is_installed():
        prepare_page(_TEMPLATE)


def leave_page(run: Run, summary: Summary, show: Sequence[int] | None = None) -> Summary:
    """Make the page of a run whose output is complete, and say so in its report.

    The labels are whole by now: a page that cannot be made is told of, and is no failure of the run.
    """
    if not is_installed():
        how = f"{install_command('report')}, then matseg-report {summary.report.output}"
        return replace(summary, no_page=f"it needs the extra `report` ({how})")
    try:
        # who starts now would take half a page for what a killed process left
        with Ledger(run.target.ledger_folder, run.options.part).job_lock():
            places = find_run(run.sink.path)
            if places is None or not places.report.is_file():
                raise OutputError(
                    f"{run.sink.path}: its report is no longer there; something else deletes or replaces this output"
                )
            page = str(write_run_page(places, source=run.source, show=show, thumbnails=run.thumbnails))
            write_report(places.report, read_report(places.report).model_copy(update={"page": page}))
    except MatsegError as error:
        return replace(summary, no_page=str(error))
    return replace(summary, report=summary.report.model_copy(update={"page": page}))


@contextlib.contextmanager
def _input(
    record: RunRecord, source: Source | None, location: str | None, missing: list[str]
) -> Iterator[Source | None]:
    """The input, wherever it is now; without it the page shows labels only, and says so."""
    if source is not None:
        yield source
        return
    wanted = location or _location(record)
    if location is None and "://" in wanted:  # what a folder from elsewhere says must open no connection
        missing.append(f"The input was {wanted}; to see its slices, name it to matseg-report with --input.")
        yield None
        return
    try:
        found = open_source(wanted, _source_options(record))
    except MatsegError as error:
        missing.append(f"The input cannot be read any more, so there are labels without slices. {error}")
        yield None
        return
    with contextlib.closing(found):
        yield found


def _location(record: RunRecord) -> str:
    """Folder of the input; or, for a default output, beside which it still is."""
    wanted = record.report.input if record.manifest is None else record.manifest.input
    beside = record.places.labels.absolute().parent
    if Path(split_location(wanted)[0]).exists() or not beside.name.endswith("_predictions"):
        return wanted
    default = beside.with_name(beside.name.removesuffix("_predictions"))
    return str(default) if default.is_dir() else wanted


def _source_options(record: RunRecord) -> SourceOptions:
    key = record.report.provenance
    given = None if record.manifest is None else record.manifest.model.input.of_slice
    return SourceOptions(
        axis=key.axis,
        slices=None if key.slices is None else parse_range(key.slices),
        level=key.level,
        axes=key.axes,
        channels=parse_channels(key.channels) if key.channels else () if given is None else given.picked,
        channel_files=None if key.channel_files is None else ChannelFiles.parse(key.channel_files),
        taken=None if given is None else given.channels,
        fill_missing_chunks=record.manifest is not None and record.manifest.fill_missing_chunks,
        raw=None if record.manifest is None else record.manifest.raw,
    )


def _fraction_charts(record: RunRecord) -> list[Chart]:
    """The phase fractions along the stack."""
    if not record.slices:
        return []
    series = []
    for item, colour in zip(
        record.classes, visible_colours([item.colour for item in record.classes]), strict=True
    ):
        shares = thinned([fraction(entry, item.index) for entry in record.slices])
        series.append(_line(record, item.name, shares, css_colour(colour), item.index))
    if len(series) > _SEPARATE_CLASSES:
        return [_stack_chart("fractions", "Phase fractions along the stack", series, "share of the slice")]
    return [
        _stack_chart(f"fraction-{line.group}", f"{line.name} along the stack", [line], "share of the slice")
        for line in series
    ]


def _along_stack(record: RunRecord) -> list[Chart]:
    """Drift and doubt, which tell where along the stack to look."""
    if not record.slices:
        return []
    drift = _line(record, "drift", [entry.drift for entry in record.slices], BLUE)
    ends, limits = [drift.x[0], drift.x[-1]], [DRIFT_WARNING, DRIFT_WARNING]
    limit = Series(name="warning", x=ends, y=limits, colour=VERMILION, dash="dash", width=1.5)
    charts = [_stack_chart("drift", "Drift along the stack", [drift, limit], "drift, 0 to 1", percent=False)]
    if record.report.disagreeing_pixels is not None:
        line = _line(
            record, "disagreement", thinned([disagreement_share(e) for e in record.slices]), VERMILION
        )
        charts.append(
            _stack_chart(
                "disagreement", "Where the axes disagree, along the stack", [line], "share of the slice"
            )
        )
    doubt = [doubtful_share(entry) for entry in record.slices]
    if any(doubt):
        line = _line(record, "doubtful", thinned(doubt), VERMILION)
        charts.append(_stack_chart("doubt", "Doubtful pixels along the stack", [line], "share of the slice"))
    return charts


def _line(
    record: RunRecord, name: str, values: Sequence[float | None], colour: str, group: int | None = None
) -> Series:
    """One value per slice."""
    names = [f"{entry.index}: {entry.name}" for entry in record.slices]
    positions = [entry.index for entry in record.slices]
    return Series(name=name, x=positions, y=values, colour=colour, names=names, group=group)


def _stack_chart(
    name: str, title: str, series: Sequence[Series], y_title: str, *, percent: bool = True
) -> Chart:
    values = [value for line in series for value in line.y if value is not None]
    shown = "{:.2%}" if percent else "{:.2f}"
    spread = f"{shown.format(min(values))} to {shown.format(max(values))} in {count(len(series[0].x))} slices"
    return Chart(
        id=name,
        title=title,
        summary=f"{spread}. Choose a point to see the nearest slice shown above.",
        x_title="slice",
        y_title=y_title,
        series=series,
        y_percent=percent,
        height=250 if len(series) == 1 else 340,
    )


def _histogram(record: RunRecord, pictures: Pictures) -> list[Chart]:
    """Intensities of the training set and of the slices shown."""
    if record.manifest is None or pictures.histogram is None:
        return []
    expected = record.manifest.model.input.histogram
    trained, found = training_set(expected), thinned(pictures.histogram, 4)
    outside = (
        f" {pictures.outside:.2%} of the run's pixels lie beyond it." if pictures.outside >= 5e-5 else ""
    )
    return [
        Chart(
            id="histogram",
            title="Intensity histograms",
            summary=f"The training set's {expected.low:g} to {expected.high:g}, and the slices shown above.{outside}",
            x_title="intensity",
            y_title="share of the pixels",
            y_percent=True,
            series=[
                trained,
                Series(name="this run", x=trained.x, y=found, kind="steps", colour=VERMILION),
            ],
        )
    ]
