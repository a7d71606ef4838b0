"""All networks side by side: torch as the guide runs it, torch with bf16 and compile, ours, and the machine's limit.

`make bench`, or `python benchmarks/networks.py`. Each part (`--only unet`) replaces its own measurements in the JSON
file and leaves the others; the Markdown table beside it is made of all. See README.md for what exactly is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click
from _common import ROOT, Report, busy_warning, interleaved, machine_lines, run_program, scratch_folder
from _fast import fast_models
from _full_width import Facts, Files
from _measured import Measured, Row, Section, load, print_rates, print_section, rows_of, save
from _network_worker import STRIDE, Job
from _profile import count_operations, grey_image
from _turns import Contestant, take_turns
from _workload import Slices, real_slices, synthetic_slices, write_folder, write_zarr
from end_to_end import PNG, ZARR, runner

from matseg_shared.console.command import debug_option
from matseg_shared.contract.tiling import padded_length
from matseg_shared.errors import MatsegError, UnsupportedError
from matseg_shared.system.machine import available_cpus

PARTS = ("limits", "unet", "segnet", "pixelnet", "fast")
GOALS = {"unet": 8.0, "segnet": 6.0, "pixelnet": 30.0}
"""Factor by which int8 should be faster than eager torch, through rewriting and integers alone."""
TITLES = {"unet": "U-Net", "segnet": "SegNet", "pixelnet": "PixelNet"}
EAGER = "torch eager fp32, image by image (the guide's way)"
NAIVE = "torch eager fp32, all maps upsampled, MLP per pixel (the guide's way)"
_FAST_GOAL = 690.0
"""Times the eager U-Net: 1000 times the program of 2019, which takes 11.0 s where our eager U-Net takes 7.6 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings for every part."""

    width: int
    slice_edge: int
    threads: int
    repeats: int
    least: float
    """Seconds of one turn, at least."""
    slices: int
    """From files to files."""
    quick: bool
    fast: tuple[Path, ...]
    images: Path | None
    folder: Path

    @property
    def size(self) -> int:
        """Edge of the network's input."""
        return padded_length(self.slice_edge, STRIDE)


def measure_rates(settings: Settings) -> dict[str, dict[str, float]]:
    """On one thread and on all; per precision."""
    rates = {}
    for threads in sorted({1, settings.threads}):
        seconds = "0" if settings.quick else "0.3"
        rates[str(threads)] = json.loads(run_program("_rates.py", str(threads), seconds))
    return rates


def measure_network(name: str, settings: Settings) -> Section:
    """One of the guide's networks at full width in every way."""
    files = Files(folder=settings.folder, name=name, width=settings.width)
    run_program("_full_width.py", name, str(settings.width), str(settings.size), str(settings.folder))
    facts = files.facts()
    contestants, limits = _contestants(files, facts, settings)
    outcomes = take_turns(contestants, settings.repeats, settings.least)
    reference = NAIVE if name == "pixelnet" else EAGER
    notes = []
    if facts.naive_difference is not None:
        notes.append(
            f"The naive form differs from ours by {facts.naive_difference:.1e} of the largest logit: rounding."
        )
    return _section(
        f"{TITLES[name]}, width {settings.width}",
        settings,
        facts.operations,
        rows_of(outcomes, limits),
        reference,
        notes=notes,
        goals={"ONNX int8, one call on all threads": GOALS[name]},
    )


def _contestants(files: Files, facts: Facts, settings: Settings) -> tuple[list[Contestant], dict[str, str]]:
    torch_job = Job(
        way="eager",
        file=str(files.weights),
        size=settings.size,
        threads=settings.threads,
        network=files.name,
        width=files.width,
        mean=facts.mean,
        std=facts.std,
    )
    contestants = [Contestant(name=EAGER, job=torch_job)]
    if files.name == "pixelnet":
        ours = Contestant(name="torch eager fp32, our form of the MLP", job=torch_job)
        contestants = [Contestant(name=NAIVE, job=replace(torch_job, way="naive")), ours]
    contestants.append(Contestant(name="torch, bf16 autocast", job=replace(torch_job, way="bf16")))
    if not settings.quick:
        contestants.append(Contestant(name="torch.compile, fp32", job=replace(torch_job, way="compile")))
    models = {precision: files.onnx(precision) for precision in ("fp32", "int8")}
    sessions, limits = _sessions(models, settings, fresh=files.name == "pixelnet")
    return [*contestants, *sessions], {contestants[0].name: "fp32", **limits}


def _sessions(
    models: Mapping[str, Path], settings: Settings, *, fresh: bool
) -> tuple[list[Contestant], dict[str, str]]:
    """Bare sessions of each precision, as one call on all threads and as a call on each."""
    contestants, limits = [], {}
    for precision, path in models.items():
        job = Job(way="session", file=str(path), size=settings.size, threads=settings.threads)
        both = {
            f"ONNX {precision}, one call on all threads": job,
            f"ONNX {precision}, a call on each thread": replace(job, threads=1, streams=settings.threads),
        }
        contestants += [Contestant(name=name, job=item, fresh=fresh) for name, item in both.items()]
        limits.update(dict.fromkeys(both, precision))
    return contestants, limits


def measure_fast(settings: Settings) -> Section:
    """The network for deployment in the bare session and from files to files, against the eager full-width U-Net."""
    models = fast_models(settings.fast, settings.folder, quick=settings.quick)
    files = Files(folder=settings.folder, name="unet", width=settings.width)
    if not files.weights.exists():
        run_program("_full_width.py", "unet", str(settings.width), str(settings.size), str(settings.folder))
    facts = files.facts()
    eager = _contestants(files, facts, settings)[0][0]
    title = f"U-Net, width {settings.width}, {EAGER}"
    sessions, limits = _sessions(models, settings, fresh=False)
    outcomes = take_turns([replace(eager, name=title), *sessions], settings.repeats, settings.least)
    some = models.get("int8", next(iter(models.values())))
    rows = [*rows_of(outcomes, limits), *_end_to_end(some, settings)]
    return _section(
        f"The network for deployment: {', '.join(path.stem for path in models.values())}",
        settings,
        count_operations(some, grey_image(settings.size), threads=settings.threads),
        rows,
        title,
        notes=["matseg-run: its own time from the first slice to the last, as in end_to_end.py."],
        goals={
            "ONNX int8, a call on each thread": _FAST_GOAL,
            PNG: _FAST_GOAL / 2,
        },
    )


def _end_to_end(model: Path, settings: Settings) -> list[Row]:
    files: Sequence[Path] = ()
    pixels: Slices
    if settings.images is None:
        pixels = synthetic_slices(settings.slices, settings.slice_edge)
    else:
        files, pixels = real_slices(settings.images, settings.slices)
    scans = {
        PNG: write_folder(settings.folder / "scan", pixels, files),
        ZARR: write_zarr(settings.folder / "scan.zarr", pixels),
    }
    outputs = {PNG: settings.folder / "labels", ZARR: settings.folder / "labels.zarr"}
    runs = {name: runner(model, scan, outputs[name], settings.threads) for name, scan in scans.items()}
    times = interleaved(runs, settings.repeats)
    return [
        Row(name=name, milliseconds=[entry.inside / len(pixels) * 1e3 for entry in entries])
        for name, entries in times.items()
    ]


def _section(
    title: str,
    settings: Settings,
    operations: float,
    rows: list[Row],
    reference: str,
    *,
    notes: list[str],
    goals: dict[str, float],
) -> Section:
    warning = busy_warning("at the end")
    return Section(
        title=title,
        date=datetime.now(UTC).date().isoformat(),
        machine=[*machine_lines(), *([] if warning is None else [warning])],
        size=settings.slice_edge,
        operations=operations,
        rows=rows,
        reference=reference,
        notes=[f"{settings.threads} thread(s), {settings.repeats} round(s).", *notes],
        goals={} if settings.quick else goals,
    )


def render(measured: Measured, path: Path | None) -> None:
    """Print all that was ever measured, and save it as Markdown."""
    report = Report(path=path)
    report.say(
        "# Networks\n\n`python benchmarks/networks.py` (`make bench`); medians (smallest to largest).\n"
    )
    machines = dict.fromkeys(
        line
        for section in measured.sections.values()
        for line in section.machine
        if not line.startswith(("load", "WARNING"))
    )
    for line in machines:
        report.say(f"- {line}")
    report.say()
    if measured.rates:
        print_rates(report, measured.rates)
    most = max(measured.rates, key=int, default="")
    for name in PARTS:
        if name in measured.sections:
            print_section(report, measured.sections[name], measured.rates.get(most, {}))
    report.save()


@click.command()
@click.option(
    "--only", type=click.Choice(PARTS), multiple=True, help="Measure this part only; may be repeated."
)
@click.option("--quick", is_flag=True, help="Tiny networks and slices, to see that everything runs.")
@click.option(
    "--fast",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Take this file of matseg-export as the network for deployment; may be repeated, one per precision. "
    "Default: a patchunet that is trained for a minute on the demo's synthetic scan.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Take the slices from files to files from this folder of grey uint8 images instead of making them.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores of this process.")
@click.option(
    "--scratch", type=click.Path(path_type=Path, file_okay=False), help="Folder for models and slices."
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ROOT / "benchmarks" / "results" / "networks.json",
    help="Measurements, with a table of the same name beside them. Default: benchmarks/results/networks.json.",
)
@debug_option
def main(
    only: tuple[str, ...],
    quick: bool,
    fast: tuple[Path, ...],
    images: Path | None,
    repeats: int,
    threads: int | None,
    scratch: Path | None,
    results: Path,
) -> None:
    """Measure all parts side by side, or those asked for, and print everything measured so far."""
    measured = load(results)
    failures: list[str] = []
    with scratch_folder(scratch) as folder:
        settings = Settings(
            width=2 if quick else 64,
            slice_edge=90 if quick else 852,
            threads=threads or available_cpus(),
            repeats=1 if quick else repeats,
            least=0.0 if quick else 0.4,
            slices=4 if quick else 100,
            quick=quick,
            fast=fast,
            images=images,
            folder=folder,
        )
        for part in only or PARTS:
            click.echo(f"measuring {part} ...", err=True)
            try:
                measured = _measure(part, settings, measured)
            except MatsegError as error:  # the other parts are worth having
                failures.append(f"{part}: {error}")
                continue
            save(results, measured)
    render(measured, results.with_suffix(".md"))
    if failures:
        raise UnsupportedError("not measured: " + "; ".join(failures))


def _measure(part: str, settings: Settings, measured: Measured) -> Measured:
    if part == "limits":
        return replace(measured, rates=measure_rates(settings))
    measure: Callable[[], Section] = (
        (lambda: measure_fast(settings)) if part == "fast" else (lambda: measure_network(part, settings))
    )
    return replace(measured, sections={**measured.sections, part: measure()})


if __name__ == "__main__":
    main()
