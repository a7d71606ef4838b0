"""Everything that a GPU changes, in one table: `python benchmarks/gpu.py` on a machine with CUDA, in eight minutes.

Each row is a process of its own with a time limit. A row that cannot be measured says why, and the others go on.
`--dry` runs all of it at a tiny size with the CPU in the GPU's place, to see that the script works.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from _common import ROOT, Report, reporting, scratch_folder, verdict
from _gpu_worker import Job
from _workload import fresh, matseg_run_command, synthetic_slices, write_folder, write_zarr

from matseg_runtime.inference.nvidia import find_driver
from matseg_runtime.inference.providers import load_onnxruntime
from matseg_shared.console.command import debug_option
from matseg_shared.contract.tiling import padded_length

PARTS = ("networks", "ways", "files", "training", "failures")
FAST = "patchunet"
"""The network for deployment; its int8 graph is made for CPUs."""
GOAL = 1100.0
"""Mpixel/s from files to files: what a reconstruction on one A100 gives."""
HEADER = (
    "part", "what", "ms", "Mpixel/s", "x CPU", "first call, s", "pixels unlike the CPU's", "GPU memory, MB", "note",
)  # fmt: skip
_HERE = Path(__file__).parent
_LEAST_SECONDS = 5.0
"""Less than that is not worth a start."""
_ENDING_SECONDS = 5.0
_SCRATCH_BYTES = 8 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes, and where to measure."""

    folder: Path
    widths: dict[str, int]
    size: int
    tile: int
    slices: int
    slice_edge: int
    crop: int
    crops: int
    seconds: float
    gpus: int
    dry: bool


@dataclass(kw_only=True)
class Table:
    """Rows as they come, within the time that is left."""

    until: float
    """Time on the clock `time.monotonic`."""
    rows: list[list[str]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    """Milliseconds of each network on the CPU in fp32."""

    def left(self, most: float) -> float:
        """Seconds for the next row."""
        return min(most, self.until - time.monotonic())

    def add(self, part: str, what: str, row: dict[str, Any], compared: str | None = None) -> None:
        """Print a row; `compared` is the network whose time on the CPU it is compared with."""
        milliseconds = row.get("milliseconds")
        pixels = row.get("pixels", row.get("size", 0) ** 2)
        speed = "" if not milliseconds else f"{pixels / milliseconds / 1e3:.4g}"
        cpu = self.cpu.get(compared or "")
        note = f"left out: {row['left_out']}" if "left_out" in row else row.get("note", "")
        cells = [
            part,
            row.get("what", what),
            "" if not milliseconds else f"{milliseconds:.3g}",
            speed,
            "" if not milliseconds or cpu is None else f"{cpu / milliseconds:.3g}",
            "" if "first" not in row else f"{row['first']:.1f}",
            "" if "unlike" not in row else str(row["unlike"]),
            "" if row.get("memory") is None else f"{row['memory'] / 1e6:.0f}",
            note.replace("|", "/").replace("\n", " "),
        ]
        click.echo(" | ".join(cells))
        self.rows.append(cells)


def run_job(job: Job, seconds: float, processes: int = 0) -> list[dict[str, Any]]:
    """Rows of one worker; a last one says why it ended early.

    Args:
        job: to be done.
        seconds: until it is ended.
        processes: that torchrun starts; 0: the worker alone.
    """
    if seconds < _LEAST_SECONDS:
        return [{"left_out": "no time was left"}]
    return _rows(_start(job, processes), seconds)


def _start(job: Job, processes: int = 0) -> subprocess.Popen[str]:
    start = []
    if processes:
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *start, str(_HERE / "_gpu_worker.py"), json.dumps(asdict(job))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _rows(process: subprocess.Popen[str], seconds: float) -> list[dict[str, Any]]:
    try:
        out, err = process.communicate(timeout=seconds)
        ending = None if process.returncode == 0 else (err.strip().splitlines() or ["no word"])[-1]
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends those that it started
        try:
            out, _ = process.communicate(timeout=_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        ending = f"not done after {seconds:.0f} s"
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if ending is not None or not rows:
        rows.append({"left_out": ending or "it said nothing"})
    return rows


def measure_networks(settings: Settings, table: Table) -> None:
    """Each network, precision and provider; the CPU first, with whose labels all others are compared."""
    names = list(settings.widths)
    for group in (names[:2], names[2:]):  # those that say most first: time may run out
        _measure_group(make_models(settings, table, group), settings, table)


def _measure_group(names: Sequence[str], settings: Settings, table: Table) -> None:
    for name, precision, provider in _ways_of(names):
        job = _job(settings, name, precision=precision, provider=_provider(provider, settings))
        on_cpu = provider == "cpu"
        for row in run_job(replace(job, reference=on_cpu), table.left(60)):
            if on_cpu and precision == "fp32" and "milliseconds" in row:
                table.cpu[name] = row["milliseconds"]
            table.add("networks", f"{name} {precision}, {provider}", row, name)


def _ways_of(names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Network, precision and provider, what says most first: time may run out."""
    for name in names:
        yield name, "fp32", "cpu"
        for precision in ("fp32", "fp16"):
            yield name, precision, "cuda"
        if name in (FAST, "unet"):
            yield name, "fp16", "tensorrt"
            for provider in ("cpu", "cuda"):
                yield name, "int8", provider
    for name in names:
        if name in (FAST, "unet"):
            yield name, "fp32", "tensorrt"


def make_models(settings: Settings, table: Table, names: Sequence[str]) -> list[str]:
    """Write the graphs of networks, all at a time; returns those that were made, and says in a row what was not."""
    running = {
        name: _start(_job(settings, name, kind="models", way="files" if name == FAST else ""))
        for name in names
    }
    until = time.monotonic() + table.left(150)
    made = []
    for name, process in running.items():
        rows = _rows(process, max(1.0, until - time.monotonic()))
        if rows == [{"made": True}]:
            made.append(name)
        else:
            table.add("networks", f"{name}: its graphs", rows[-1])
    return made


def measure_ways(settings: Settings, table: Table) -> None:
    """Shapes and options of one network: what would have to change in the runtime."""
    provider = _provider("cuda", settings)
    job = _job(settings, FAST, kind="ways", provider=provider)
    for row in run_job(job, table.left(60)):
        table.add("ways", f"{FAST} fp32", row, FAST)
    for batch, size in ((1, settings.size), (4, settings.tile)):
        shaped = replace(job, kind="session", batch=batch, size=size)
        for row in run_job(shaped, table.left(30)):
            table.add("shapes", f"{FAST} fp32, {batch} of {size} x {size} pixels", row)


def measure_files(settings: Settings, table: Table) -> None:
    """matseg-run from files to files on a disk in memory, with what is slowest."""
    pixels = synthetic_slices(settings.slices, settings.slice_edge)
    scans = {
        "zarr": write_zarr(settings.folder / "scan.zarr", pixels),
        "folder": write_folder(settings.folder / "scan", pixels),
    }
    devices = ["cpu", "cuda"] if settings.gpus < 2 else ["cpu", "cuda:0", "cuda:0,cuda:1"]
    for kind, scan in scans.items():
        for device in devices:
            for precision in ("int8",) if device == "cpu" else ("fp32", "fp16"):
                model = settings.folder / f"run_{FAST}_{precision}.onnx"
                out = fresh(settings.folder / ("labels.zarr" if kind == "zarr" else "labels"))
                where = "cpu" if settings.dry else device
                row = _run(
                    table, model, scan, "-o", out, "--device", where, "--no-report", "--accept-intensities"
                )
                if "milliseconds" in row and device != "cpu":
                    reached = verdict(row["pixels"] / row["milliseconds"] / 1e3, GOAL, at_least=True)
                    row["note"] += f"; Mpixel/s {reached}"
                table.add("files", f"{kind}, {FAST} {precision}, {device}", row)


def _run(table: Table, *arguments: object) -> dict[str, Any]:
    command = [matseg_run_command(), *map(str, arguments), "--json"]
    seconds = table.left(60)
    if seconds < _LEAST_SECONDS:
        return {"left_out": "no time was left"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not done after {seconds:.0f} s"}
    if done.returncode:
        return {"left_out": f"exit code {done.returncode}: {done.stderr.strip()}"}
    report = json.loads(done.stdout)
    stages = report["stages"]
    busy = ", ".join(f"{name} {value:.2f} s" for name, value in stages["busy_seconds"].items())
    note = f"{stages['bottleneck']} is slowest ({busy})"
    return {"milliseconds": stages["seconds"] * 1e3, "pixels": report["pixels"], "note": note}


def measure_training(settings: Settings, table: Table) -> None:
    """One step of matseg-train; the first call includes the choice of kernels, and compilation."""
    provider = _provider("cuda", settings)
    ways = ("fp32", "bf16", "fp16", "bf16 contiguous", "bf16 compile")
    for network in ("unet", "effunet")[: 1 if settings.dry else 2]:
        job = _job(
            settings, network, kind="train", provider=provider, size=settings.crop, batch=settings.crops
        )
        job = replace(job, width=min(settings.widths[network], 16))
        for way in ways:
            for row in run_job(replace(job, way=way), table.left(45)):
                table.add("training", f"{network}, {settings.crops} crops of {settings.crop}, {way}", row)
    for processes in (1, 2)[: settings.gpus]:
        for row in run_job(replace(job, way="bf16"), table.left(45), processes):
            table.add("training", f"{network}, bf16, {processes} process(es) of torchrun", row)


def measure_failures(settings: Settings, table: Table) -> None:
    """Messages to a user who asks for what is not there."""
    model = settings.folder / f"run_{FAST}_fp32.onnx"
    verify = matseg_run_command().replace("matseg-run", "matseg-verify")
    for what, options in {
        "an unknown GPU": ("--device", "cuda:99"),
        "tensorrt": ("--provider", "tensorrt"),
    }.items():
        command = [verify, str(model), *options]
        seconds = max(table.left(60), _LEAST_SECONDS)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
            row = {"note": f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"}
        except subprocess.TimeoutExpired:
            row = {"left_out": f"not done after {seconds:.0f} s"}
        table.add("failures", what, row)
    job = _job(settings, FAST, kind="full", provider=_provider("cuda", settings))
    for row in run_job(job, table.left(60)):
        table.add("failures", "a GPU whose memory another job has", row)


def _job(settings: Settings, network: str, **more: Any) -> Job:
    facts: dict[str, Any] = {"kind": "session", "size": settings.size, "width": settings.widths[network]}
    return Job(folder=str(settings.folder), network=network, seconds=settings.seconds, **{**facts, **more})


def _provider(name: str, settings: Settings) -> Any:
    return "cpu" if settings.dry else name


def _settings(folder: Path, *, dry: bool) -> Settings:
    driver = find_driver()
    full = {FAST: 32, "unet": 64, "segnet": 64, "pixelnet": 64, "effunet": 16}
    return Settings(
        folder=folder,
        widths=dict.fromkeys(full, 2) if dry else full,
        size=padded_length(100 if dry else 852, 32),
        tile=128 if dry else 1024,
        slices=4 if dry else 128,
        slice_edge=90 if dry else 2048,
        crop=64 if dry else 256,
        crops=2 if dry else 16,
        seconds=0.0 if dry else 1.0,
        gpus=2 if dry else len(driver.gpus) if driver is not None else 1,
        dry=dry,
    )


def _disk_in_memory() -> Path | None:
    """Folder where files take no disk's time; None without, or with too little space there, as in some containers."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > _SCRATCH_BYTES else None


def _print_machine(report: Report, *, dry: bool) -> None:
    driver = find_driver()
    runtime = load_onnxruntime()
    if driver is None:
        report.say("- GPUs: none, and no NVIDIA driver")
    else:
        report.say(
            f"- GPUs: {', '.join(driver.gpus) or 'none'}; the driver runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"
        )
    report.say(f"- onnxruntime {runtime.__version__}: {', '.join(runtime.get_available_providers())}")
    if dry:
        report.say("- DRY: the CPU stands for the GPU at a tiny size; no figure means anything")
    report.say()


@click.command()
@click.option("--dry", is_flag=True, help="Everything at a tiny size, with the CPU in the GPU's place.")
@click.option(
    "--only", type=click.Choice(PARTS), multiple=True, help="Measure this part only; may be repeated."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0.1), default=8.0, show_default=True, help="Of all parts together."
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for models and files. Default: /dev/shm, which is memory, where there is one.",
)
@click.option(
    "--save", type=click.Path(path_type=Path), help="Default: benchmarks/results/gpu.md, but for --dry."
)
@debug_option
def main(dry: bool, only: tuple[str, ...], minutes: float, scratch: Path | None, save: Path | None) -> None:
    """Measure all parts, or those asked for, and print one table."""
    parts: dict[str, tuple[Callable[[Settings, Table], None], float]] = {
        "networks": (measure_networks, 0.5),
        "ways": (measure_ways, 0.1),
        "files": (measure_files, 0.15),
        "training": (measure_training, 0.2),
        "failures": (measure_failures, 0.05),
    }
    chosen = only or PARTS
    with (
        reporting("GPU", save or (None if dry else ROOT / "benchmarks" / "results" / "gpu.md")) as report,
        scratch_folder(scratch or _disk_in_memory()) as folder,
    ):
        _print_machine(report, dry=dry)
        settings = _settings(folder, dry=dry)
        table = Table(until=time.monotonic())
        if "networks" not in chosen:
            table.until += 60 * minutes
            make_models(settings, table, [FAST])
        whole = sum(parts[name][1] for name in chosen)
        for name in chosen:
            measure, share = parts[name]
            # what a part leaves over goes to the next
            table.until = max(table.until, time.monotonic()) + 60 * minutes * share / whole
            try:
                measure(settings, table)
            except Exception as error:  # the other parts are worth having
                table.add(name, name, {"left_out": str(error) or type(error).__name__})
        report.say()
        report.table(HEADER, table.rows)


if __name__ == "__main__":
    main()
