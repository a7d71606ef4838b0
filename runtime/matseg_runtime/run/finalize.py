"""Completing an output: by the run that finds nothing left to do, whichever of several that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from matseg_runtime.ledger import Ledger
from matseg_runtime.measure.phase_fractions import phase_fractions
from matseg_runtime.records import SliceRecord
from matseg_runtime.run.summary import REPORT_NAME, Summary, write_report
from matseg_runtime.sink.base import Sink
from matseg_runtime.source.base import Source
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import OutputError

TakeStock = Callable[[Summary, Sequence[SliceRecord]], Summary]


def settled(source: Source, ledger: Ledger) -> bool:
    """Whether every slice is labelled, or was found to be unreadable."""
    return all(item.name in ledger.done or item.name in ledger.excluded for item in source.slices)


def labelled_slices(source: Source, ledger: Ledger) -> list[SliceRecord]:
    """Records of all labelled slices, in order, with the place that each has now.

    Images that came to a folder since, or a folder that was moved, give other places than the ledger noted.
    """
    return [
        ledger.done[item.name].model_copy(update={"index": item.index, "where": item.where})
        for item in source.slices
        if item.name in ledger.done
    ]


def complete(
    summary: Summary,
    sink: Sink,
    ledger: Ledger,
    metadata: ModelMetadata,
    source: Source,
    take_stock: TakeStock,
) -> Summary:
    """Give the output its final form if nothing is left to do and nobody works on it.

    Two parts that end at the same time both come here; the lock lets one after the other look, and the later finds
    either the work or the finished output.

    Args:
        summary: of this run so far.
        sink: of the output.
        ledger: of the output, not open.
        metadata: of the model.
        source: the input.
        take_stock: called once the output has its final form, with the summary and the records of all labelled slices.

    Returns:
        The summary, which says whether the output is final now.

    Raises:
        OutputError: the output cannot be completed.
    """
    with ledger.job_lock():
        ledger.reload()
        records = labelled_slices(source, ledger)
        _require_outputs(sink, records)
        done = settled(source, ledger) and not ledger.busy_parts()
        excluded = tuple(ledger.excluded[item.name] for item in source.slices if item.name in ledger.excluded)
        summary = dataclasses.replace(
            summary, is_final=done, fractions=phase_fractions(records, metadata), excluded=excluded
        )
        if done:
            sink.finish()
            summary = take_stock(summary, records)
            write_report(sink.report_folder / REPORT_NAME, summary)
        else:
            write_report(ledger.folder / f"report-{ledger.part}.json", summary)
    return summary


def _require_outputs(sink: Sink, records: Sequence[SliceRecord]) -> None:
    """Never call a result whole from which somebody has taken something meanwhile."""
    if lost := sink.lost(records):
        raise OutputError(
            f"{sink.path}: {len(lost)} of {len(records)} labelled slices are no longer there, {lost[0]} first; "
            "something else deletes or changes files there: stop it, then run the same command again"
        )
