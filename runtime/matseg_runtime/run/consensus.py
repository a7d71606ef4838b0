"""Several passes over one volume, each along another axis, and the run that decides on their mean probability.

```
<ledger>/job.json              the deciding run's, written before the first pass: another job is refused from then on
<ledger>/axis-1.zarr           votes of a finished pass; each is an ordinary run with a ledger of its own,
<ledger>/axis-1.zarr.matseg/   so it goes on where it stopped; both are deleted when the output is whole
```

The deciding run labels along the first axis, adds the votes of the others as it goes, and is resumed like any other.
With `--part` the first axis has a pass of its own, and the part that ends last decides alone.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from matseg_runtime.ledger import Ledger, Part
from matseg_runtime.measure.measurer import MeasureOptions
from matseg_runtime.run.finalize import Summary
from matseg_runtime.run.options import Consensus, RunOptions
from matseg_runtime.run.plan import times_decoded
from matseg_runtime.run.run import done_before, label, remove_results
from matseg_runtime.run.setup import Run, open_input, open_run, refuse_combinations
from matseg_runtime.sink.target import OutputOptions, pass_path
from matseg_runtime.sink.volume import side_folder
from matseg_runtime.source.base import Volume
from matseg_runtime.units import format_size, uneven_warning
from matseg_shared.console.progress import Progress
from matseg_shared.errors import ImageError, OutputError, UsageError
from matseg_shared.system.files import output_errors, remove, temporary_beside
from matseg_shared.system.locks import FileLock
from matseg_shared.system.machine import release_memory

_MANY_TIMES = 4
"""Decodings of an input from which on it is worth a copy."""


@contextmanager
def open_consensus(
    options: RunOptions, progress: Progress, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Run | Summary]:
    """Make the passes that are missing, and open the run that decides on them.

    Args:
        options: of the whole job.
        progress: of all passes.
        tell: called with each doubt about the input before the first pass, in time to stop it.

    Yields:
        The run, to be labelled; when it is whole, the passes are deleted at the end of the block. Instead of it the
        summary of this process's part where others have still to do theirs, or decide.

    Raises:
        MatsegError: as `open_run` and `label` do.
    """
    deciding = deciding_run(options)
    with ExitStack() as held:
        passes = [] if options.finish else _prepare(options, deciding, progress, tell)
        last, silent = None, []
        for each in passes:
            last = _make_pass(each, progress)
            if unread := last.report.excluded:
                silent.append(
                    f"{len(unread)} slices along axis {each.source.axis} have no vote: {unread[0].reason}"
                )
        if last is not None and options.part.total > 1 and not _may_decide(passes, held):
            what = "the part that ends last decides, and completes the output"
            yield replace(last, is_final=False, waits=what)
            return
        if passes:
            stored = tuple(each.source.axis or 0 for each in passes)
            deciding = replace(
                deciding,
                consensus=replace(_consensus(options), stored=stored),
                output=replace(options.output, overwrite=False),
            )
        with open_run(deciding, progress) as run:
            yield replace(run, warnings=(*run.warnings, *_doubts(run), *silent))
            ledger = Ledger(run.target.ledger_folder, Part())
            ledger.reload()
            if all(item.name in ledger.done or item.name in ledger.excluded for item in run.source.slices):
                _remove_passes(ledger.folder)


def deciding_run(options: RunOptions) -> RunOptions:
    """Options of the run that decides: along the first axis, and never one of several parts.

    Raises:
        UsageError: an option does not go together with several axes.
    """
    refuse_combinations(options)
    excluded = {
        "--watch": options.watch is not None,
        "--axis": options.source.axis is not None,
        "--range": options.source.slices is not None,
        "--uncertain": options.measure.uncertain is not None,
    }
    for name, is_chosen in excluded.items():
        if is_chosen:
            raise UsageError(f"--consensus and {name} cannot be combined; leave one of them out")
    return replace(
        options, source=replace(options.source, axis=_consensus(options).axes[0] or None), part=Part()
    )


def consensus_lines(run: Run, part: Part) -> list[str]:
    """The plan of the passes, for a person; `run` is the deciding one, and `part` this process's of the passes.

    Raises:
        UsageError: the input cannot be cut along all axes.
        OutputError: the disk has not enough space.
    """
    passes = _passes(run, part)
    axes = " and ".join(str(each.source.axis) for each in passes)
    needed, free = _require_disk(run, passes)
    return [
        f"consensus: a pass along axis {axes} first, of about as much inference as this run, which then decides",
        f"disk: at most {format_size(needed)} more, most of it until the output is whole; {format_size(free)} are free",
        *(f"warning: {text}" for text in _doubts(run)),
    ]


def _doubts(run: Run) -> list[str]:
    """Warnings of what makes slices along several axes of a volume doubtful."""
    volume, halo = _volume(run), run.metadata.tiling.halo
    uneven = (
        None if run.voxel is None else uneven_warning(run.voxel, volume.axis, _consensus(run.options).axes)
    )
    return [
        *([] if uneven is None else [uneven]),
        *(
            f"the volume is {length} voxels long along axis {axis}, less than the {halo} that the model may look at "
            "to each side: slices along other axes are padded there, and their labels rest on less"
            for axis, length in enumerate(volume.shape)
            if length < halo
        ),
        *(
            f"slices along axis {axis} decode the input {times} times, because its chunks are long there; copy it to "
            "a zarr in chunks of about 64 x 64 x 64 to have each decoded once"
            for axis in _consensus(run.options).axes
            if (times := _times_decoded(run, axis)) >= _MANY_TIMES
        ),
    ]


def _times_decoded(run: Run, axis: int) -> int:
    along = replace(run.options, source=replace(run.options.source, axis=axis))
    with closing(open_input(along, run.metadata.input)) as source:
        return 1 if source.volume is None else times_decoded(source.volume.slices_per_chunk)


def _passes(run: Run, part: Part) -> list[RunOptions]:
    """Passes that a decision needs; finds out whether the input can be cut along all axes."""
    source, main = run.source, _volume(run).axis
    no_data = run.transform.no_data
    if no_data is not None and (rows := no_data.rows_cut(source.slices[0])):
        raise UsageError(
            f"{source.location}: the lowest {rows} rows of its slices are cut off as a bar of data, which slices along "
            "other axes do not have; write the volume without them first, or keep them with --crop-bottom 0"
        )
    axes = [axis for axis in _consensus(run.options).axes if axis != main]
    if part.total > 1 or side_folder(pass_path(run.target.ledger_folder, main)).exists():
        axes.insert(0, main)
    return [_pass_along(axis, run, part) for axis in axes]


def _consensus(options: RunOptions) -> Consensus:
    assert options.consensus is not None, "it was asked for"
    return options.consensus


def _volume(run: Run) -> Volume:
    """The volume behind the input, or a UsageError where it is none."""
    source, found = run.source, run.source.volume
    if found is None or len(found.shape) != 3 or min(found.shape) == 1:
        kind = "a folder of images" if found is None else "a single image"
        raise UsageError(
            f"{source.location}: --consensus cuts a volume along several axes, found {kind}; write its slices into one "
            "volume first, such as a zarr or an uncompressed TIFF stack"
        )
    return found


def _pass_along(axis: int, run: Run, part: Part) -> RunOptions:
    """Options of one pass, along an axis that the input can be cut along."""
    options, main = run.options, _volume(run).axis
    along = replace(options.source, axis=axis)
    with closing(open_input(replace(options, source=along), run.metadata.input)):
        pass
    return replace(
        options,
        source=along,
        output=OutputOptions(path=pass_path(run.target.ledger_folder, axis), votes=main),
        consensus=Consensus(axes=_consensus(options).axes),
        accept_intensities=True,  # they are those of the deciding run, where they were looked at
        voxel=None if options.voxel is None else options.voxel.cut_along(axis, main),
        measure=MeasureOptions(),
        part=part,
    )


def _prepare(
    options: RunOptions, deciding: RunOptions, progress: Progress, tell: Callable[[str], None]
) -> list[RunOptions]:
    """Check everything, and register the job, so that another one is refused; none of it is open when this returns.

    Returns:
        The passes that the decision needs; none where every slice is decided on already.
    """
    with open_run(deciding, progress) as run:
        passes = _passes(run, options.part)
        if not options.output.overwrite and not _is_anything_left(run):
            return []
        _require_disk(run, passes)
        for text in (*run.source.warnings(), *_doubts(run)):
            tell(text)
        ledger = Ledger(run.target.ledger_folder, Part())
        with ledger.job_lock(), ledger.exclusive():
            if options.output.overwrite:
                for each in passes:
                    _ledger_of(each).require_alone()
                remove_results(run, ledger)
            ledger.start(run.key)
        return passes


def _make_pass(each: RunOptions, progress: Progress) -> Summary:
    """Label along one axis; nothing of it is in memory when the next pass begins."""
    with open_run(each, progress) as run:
        summary = label(run, progress)
    del run
    release_memory()
    return summary


def _ledger_of(each: RunOptions) -> Ledger:
    assert each.output.path is not None
    return Ledger(side_folder(each.output.path), each.part)


def _is_anything_left(run: Run) -> bool:
    """True where slices are to be decided on that can be read, or are excluded for the first time."""
    done = done_before(run)
    ledger = Ledger(run.target.ledger_folder, Part())
    ledger.reload()
    for item in run.source.slices:
        if item.name in done:
            continue
        if item.name not in ledger.excluded:
            return True
        try:
            run.source.read(item.index, item.index + 1)
        except ImageError:
            continue
        return True
    return False


def _require_disk(run: Run, passes: Sequence[RunOptions]) -> tuple[int, int]:
    """Bytes that are needed at most, beside what is there, and those that are free.

    Raises:
        OutputError: they are too few.
    """
    volume, classes = _volume(run), len(run.metadata.classes)
    voxels = math.prod(volume.shape)
    output = run.options.output
    per_voxel = 1 + classes * output.probabilities + (output.disagreement is not None)
    needed = int(voxels * per_voxel * _open_share(Ledger(run.target.ledger_folder, Part()), run, volume.axis))
    for each in passes:
        share = _open_share(_ledger_of(each), run, each.source.axis or 0)
        needed += int(voxels * (classes - 1) * share)
    folder = run.target.ledger_folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{run.target.path}: --consensus needs up to {format_size(needed)} on that disk until the output is whole, "
            f"of which {format_size(free)} are free; free some, choose another disk with -o, or take two axes, as in "
            "--consensus 0,2"
        )
    return needed, free


def _open_share(ledger: Ledger, run: Run, axis: int) -> float:
    """Share of the slices along an axis that are not done."""
    if not ledger.folder.exists() or run.options.output.overwrite:
        return 1.0
    ledger.reload()
    return max(0.0, 1 - len(ledger.done) / _volume(run).shape[axis])


def _may_decide(passes: Sequence[RunOptions], held: ExitStack) -> bool:
    """True where all parts of all passes are done, and no other process decides; it then may not until the end."""
    paths = [each.output.path for each in passes if each.output.path is not None]
    if not all(path.exists() for path in paths):
        return False
    lock = FileLock(paths[0].with_name("decision.lock"))
    if not lock.acquire():
        return False
    held.callback(lock.release)
    return True


def _remove_passes(folder: Path) -> None:
    """Delete the passes of an output that is whole."""
    for axis in range(3):
        path = pass_path(folder, axis)
        for each in (path, side_folder(path)):
            with output_errors(each):
                if each.exists():  # at once, because half a pass must not be taken for one
                    away = temporary_beside(each)
                    each.rename(away)
                    remove(away)
