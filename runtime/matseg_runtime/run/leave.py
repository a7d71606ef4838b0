"""The last thing a run does: leave a page about itself, and what makes that page again anywhere."""

from __future__ import annotations

import dataclasses
import platform

from matseg_runtime.run.manifest import Origin, absolute_location, write_origin
from matseg_runtime.run.setup import Job
from matseg_runtime.run.summary import Summary
from matseg_shared.errors import MatsegError
from matseg_shared.installation import install_command
from matseg_shared.pages.page import is_installed
from matseg_shared.system.machine import available_cpus


def leave_page(job: Job, summary: Summary) -> Summary:
    """Note where a complete run came from, and make its page when that is wanted and possible.

    The labels are whole by now: a page that cannot be made is told of, and is no failure of the run.

    Returns:
        The summary, with the page or why there is none.

    Raises:
        OutputError: the note cannot be written.
    """
    origin = Origin(
        input=absolute_location(job.options.input),
        fill_missing_chunks=job.options.source.fill_missing_chunks,
        cores=available_cpus(),
        machine=platform.node(),
        model=job.session.model.metadata,
    )
    write_origin(job.place.ledger_folder, origin)
    if not job.options.page:
        return summary
    if not is_installed():
        how = f"{install_command('report')}, then matseg-report {summary.output}"
        return dataclasses.replace(summary, no_page=f"it needs the extra `report` ({how})")
    from matseg_runtime.page import find_run, write_run_page

    places = find_run(job.sink.path)
    assert places is not None, "a complete run has its report"
    try:
        return dataclasses.replace(summary, page=write_run_page(places, source=job.source))
    except MatsegError as error:
        return dataclasses.replace(summary, no_page=str(error))
