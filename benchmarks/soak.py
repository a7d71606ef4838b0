"""Watch a folder for an hour while everything goes wrong, and see whether memory stays flat and every label is right.

A writer (_soak_writer.py) fills a folder in all good and bad ways: slowly, in halves, space reserved first, broken,
renamed, deleted, replaced. Three runs label at the same time:

- steady: `matseg-run --watch`, left alone; its memory, open files and threads are sampled;
- disturbed: the same into another output, killed, stopped and started again at random, its outputs deleted at random;
- volume: a zarr volume into a zarr with a pyramid, killed and started again at random, over and over.

At the end each result is compared, file by file, with that of a run that nothing disturbed.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from _common import Report, reporting, scratch_folder
from _flat import Sample, Slope, fit, take_sample
from _soak_runs import Disturbed, Pace, Runs, SteadyVolume, finish, label, read_text
from _workload import model_file, model_options, synthetic_slices, write_zarr

from matseg_shared.console.command import debug_option
from matseg_shared.errors import ImageError, UnsupportedError
from matseg_shared.images.read import list_images, read_stored

BYTES_PER_SLICE = 6000
"""Memory that a run may take for each slice: its record in the ledger, where it is, what it was last."""
POOLS = 8e6
"""Bytes by which allocators may still grow after the warm-up, however long it goes on."""
FILES = 1.0
"""Open files or threads more at the end than at the beginning that still count as flat."""
_WARM_UP = 0.15
"""Share of the time after the first label image that is left out: allocators fill their pools."""

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One output beside that of an undisturbed run over what lies in the folder in the end."""

    name: str
    equal: int
    """Label images that are equal byte for byte."""
    problems: tuple[str, ...]


@click.command(help=__doc__)
@model_options
@click.option("--seconds", type=click.FloatRange(min=5), default=3600, show_default=True)
@click.option("--rate", type=float, default=2, show_default=True, help="Images a second.")
@click.option("--life", type=float, default=60, show_default=True, help="Longest time between two kills, s.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--scratch", type=click.Path(path_type=Path, file_okay=False), help="Folder for all files.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the report to this file too.")
@debug_option
def main(
    model: Path | None,
    width: int,
    seconds: float,
    rate: float,
    life: float,
    seed: int,
    scratch: Path | None,
    save: Path | None,
) -> None:
    """Run all of it."""
    if not Path("/proc/self/status").exists():
        raise UnsupportedError(
            "this system has no /proc, in which processes are looked at; run this on Linux"
        )
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a shell starts so what runs in the background, and
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the runs would ignore it, too
    with reporting("Soak", save) as report, scratch_folder(scratch) as folder:
        runs = Runs(
            model=model_file(model, folder, width), folder=folder, pace=Pace(seconds=seconds, life=life)
        )
        report.say(
            f"{seconds:.0f} s, about {rate:g} images a second of 40 to 160 pixels, model {runs.model.name}, "
            f"seed {seed}\n"
        )
        soak(report, runs, rate, seed)


def soak(report: Report, runs: Runs, rate: float, seed: int) -> None:
    """Run writer and runs, then compare and report; ends with 1 when anything is wrong."""
    live = runs.live
    live.mkdir()
    volume = write_zarr(runs.folder / "scan.zarr", synthetic_slices(40, 160, seed))
    writer = _start_writer(runs, rate, seed)
    while not list_images(live)[0]:
        time.sleep(0.05)
    started = time.monotonic()
    steady = runs.start(live, runs.folder / "steady", "--watch", "--idle", runs.pace.idle)
    disturbed = Disturbed(runs, random.Random(seed + 1))
    volumes = SteadyVolume(runs, volume, random.Random(seed + 2))
    threads = [
        threading.Thread(target=work, name=name) for name, work in (("d", disturbed.go), ("v", volumes.go))
    ]
    for thread in threads:
        thread.start()
    samples = _watch_process(steady, started, runs.folder / "steady", runs.pace.seconds / 1200)
    told = json.loads(writer.communicate()[0])
    for thread in threads:
        thread.join()
    problems = [*disturbed.problems, *volumes.problems, *finish("steady", steady, {0, 4}, runs.log)]
    problems += _report_flatness(report, [sample for sample in samples if sample.seconds < runs.pace.seconds])
    problems += _report_results(report, runs, told)
    stories = [f"{count} {name.replace('_', ' ')}" for name, count in told["stories"].items()]
    report.say(f"Writer: {', '.join(stories)}.\n")
    report.say(f"Disturbed: {disturbed.summary()}.\n")
    report.say(f"Volume: {volumes.summary()}.\n")
    for problem in problems[:_MOST_NAMED]:
        report.say(f"- WRONG: {problem}")
    if len(problems) > _MOST_NAMED:
        report.say(f"- and {len(problems) - _MOST_NAMED} problems more")
    if problems:
        report.save()
        sys.exit(1)


def _start_writer(runs: Runs, rate: float, seed: int) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("_soak_writer.py")
    options = [
        "--seconds",
        runs.pace.seconds,
        "--rate",
        rate,
        "--patience",
        runs.pace.patience,
        "--seed",
        seed,
    ]
    command = [sys.executable, str(script), str(runs.live), *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _watch_process(process: subprocess.Popen[str], started: float, out: Path, every: float) -> list[Sample]:
    """Samples until it ends by itself."""
    samples = []
    while process.poll() is None:
        sample = take_sample(process.pid, started, time.monotonic(), out)
        if sample is not None:
            samples.append(sample)
        time.sleep(max(0.02, every))
    return samples


def _report_flatness(report: Report, samples: Sequence[Sample]) -> list[str]:
    """A row per quantity; what is not flat."""
    first = next((sample.seconds for sample in samples if sample.labelled), 0.0)
    kept = [s for s in samples if s.seconds > first + _WARM_UP * (samples[-1].seconds - first)]
    if len(kept) < 80:
        return [f"only {len(kept)} samples of the steady run were taken"]
    seconds = [sample.seconds for sample in kept]
    hours = (seconds[-1] - seconds[0]) / 3600
    slices = fit(seconds, [sample.labelled for sample in kept]).per_hour
    memory = fit(seconds, [sample.memory for sample in kept])
    files = fit(seconds, [sample.files for sample in kept])
    threads = fit(seconds, [sample.threads for sample in kept])
    report.say(
        f"The steady run over {kept[-1].seconds:.0f} s, the first {seconds[0]:.0f} s left out, {len(kept)} samples; "
        "slopes are least squares over 40 means, with their 95 % interval:\n"
    )
    report.table(
        ["", "first", "last", "largest", "slope an hour", "from the first to the last"],
        [
            _row("memory, MB", memory, [sample.memory / 1e6 for sample in kept], 1e6),
            _row("open files", files, [sample.files for sample in kept]),
            _row("threads", threads, [sample.threads for sample in kept]),
        ],
    )
    report.say(
        f"{kept[-1].labelled} label images, {memory.per_hour / slices:.0f} (+- {memory.bound / slices:.0f}) bytes more "
        f"for each new one (allowed: {BYTES_PER_SLICE}, its record); unfinished files in the output: at most "
        f"{max(sample.temporary for sample in kept)}, {samples[-1].temporary} at the end; "
        f"{kept[-1].processor / kept[-1].seconds:.2f} cores kept busy.\n"
    )
    problems = []
    if (memory.per_hour - memory.bound - BYTES_PER_SLICE * slices) * hours > POOLS:
        problems.append(f"memory grows by {memory.per_hour / slices:.0f} bytes for each slice")
    for name, slope in (("open files", files), ("threads", threads)):
        if (slope.per_hour - slope.bound) * hours > FILES:
            problems.append(f"{name} grow by {slope.per_hour:.1f} an hour")
    if samples[-1].temporary:
        problems.append(f"{samples[-1].temporary} unfinished files are left in the output")
    return problems


def _row(name: str, slope: Slope, values: Sequence[float], unit: float = 1.0) -> list[str]:
    return [
        name,
        f"{slope.blocks[0] / unit:.1f}",
        f"{slope.blocks[-1] / unit:.1f}",
        f"{max(values):.1f}",
        f"{slope.per_hour / unit:+.2f} +- {slope.bound / unit:.2f}",
        slope.picture,
    ]


def _report_results(report: Report, runs: Runs, told: dict[str, list[str]]) -> list[str]:
    """Compare both watching runs with an undisturbed one."""
    clean = runs.folder / "clean"
    code = label(runs, runs.live, clean)
    if code not in (0, 4):
        return [f"the undisturbed run ended with {code}: {read_text(runs.log)[-500:]}"]
    whole, broken = _sorted_out(runs.live)
    found = [_compare(runs, clean, name, whole, set(told["given_up"])) for name in ("steady", "disturbed")]
    report.table(
        [
            "run",
            "whole images",
            "equal label images",
            "broken images",
            "labels of images since gone",
            "problems",
        ],
        [
            [
                item.name,
                str(len(whole)),
                str(item.equal),
                str(len(broken)),
                str(len(_labelled(runs.folder / item.name) - whole)),
                str(len(item.problems)),
            ]
            for item in found
        ],
    )
    return [f"{item.name}: {problem}" for item in found for problem in item.problems]


def _sorted_out(folder: Path) -> tuple[set[str], set[str]]:
    """Stems of the images that can be read, and of those that cannot."""
    whole, broken = set(), set()
    for path in list_images(folder)[0]:
        try:
            read_stored(path)
            whole.add(path.stem)
        except ImageError:
            broken.add(path.stem)
    return whole, broken


def _labelled(out: Path) -> set[str]:
    return {path.stem for path in out.glob("*.png") if not path.name.startswith(".")}


def _compare(runs: Runs, clean: Path, name: str, whole: set[str], given_up: set[str]) -> Comparison:
    """Label images as the watching run left them; then the tables, after a run that finds nothing left to do."""
    out = runs.folder / name
    problems, equal = [], 0
    for stem in sorted(whole):
        path = out / f"{stem}.png"
        if not path.exists():
            problems.append(f"{path.name} is missing")
        elif path.read_bytes() != (clean / path.name).read_bytes():
            problems.append(f"{path.name} differs")
        else:
            equal += 1
    unknown = _labelled(out) - whole - given_up
    problems += [f"{stem}.png is of no image that there ever was" for stem in sorted(unknown)]
    code = label(runs, runs.live, out)
    if code not in (0, 4):
        problems.append(f"run once more, it ended with {code}: {read_text(runs.log)[-500:]}")
    elif (out / "phase_fractions.csv").read_bytes() != (clean / "phase_fractions.csv").read_bytes():
        problems.append("phase_fractions.csv differs")
    return Comparison(name=name, equal=equal, problems=tuple(problems))


if __name__ == "__main__":
    main()
