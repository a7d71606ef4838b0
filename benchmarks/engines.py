"""Engines and quantisers side by side on one machine: time of a slice, mean IoU, and labels unlike fp32's.

`python benchmarks/engines.py zoo:tomography --workspace FOLDER`. Each model replaces its own measurements in the JSON
file and leaves the others; the Markdown table beside it is made of all. See README.md for what exactly is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
from _common import (
    ROOT,
    Report,
    busy_warning,
    machine_lines,
    median,
    paired_ratio,
    run_program,
    scratch_folder,
    spread,
)
from _engine_files import IMAGES, SPLITS, TRUTH, EngineFiles
from _fast import run_command
from _network_worker import STRIDE, Job
from _profile import count_operations, grey_image
from _turns import Contestant, Outcome, take_turns
from peers import environment

from matseg_shared.console.command import debug_option
from matseg_shared.contract.tiling import padded_length
from matseg_shared.errors import MatsegError, UnsupportedError, UsageError
from matseg_shared.system.files import write_text
from matseg_shared.system.machine import available_cpus
from matseg_trainer.evaluate.metrics import confusion_matrix, segmentation_metrics

FP32, OURS = "onnxruntime, fp32", "onnxruntime, int8 of matseg-export"
TORCH = "torch eager, fp32"
_OPENVINO = ("openvino", "nncf", "onnx", "--editable", f"{ROOT}[cpu]")
_WITHOUT = {"without VNNI": "AVX512_CORE", "without AVX-512": "AVX2"}
"""Instructions that OpenVINO (and torch) can be told to do without, and up to which it then goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to run a model."""

    name: str
    way: str
    """As the worker knows it."""
    kind: str
    """Attribute of `EngineFiles`."""
    precision: str = "f32"
    most: str | None = None
    """`ONEDNN_MAX_CPU_ISA` of its process."""
    both: bool = True
    """Timed as one call on all threads and as a call on each; torch only as one."""


ENGINES = (
    Engine(name=FP32, way="session", kind="fp32"),
    Engine(name=OURS, way="session", kind="int8"),
    Engine(name="onnxruntime, int8 of quantize_static", way="session", kind="static"),
    Engine(name="OpenVINO, fp32", way="openvino", kind="fp32"),
    Engine(name="OpenVINO, bf16", way="openvino", kind="fp32", precision="bf16"),
    Engine(name="OpenVINO, int8 of NNCF", way="openvino", kind="nncf"),
    Engine(name="OpenVINO, int8 of matseg-export", way="openvino", kind="int8"),
    Engine(name=TORCH, way="eager", kind="fp32", both=False),
    Engine(name="torch, AOTInductor, fp32", way="aot", kind="fp32", both=False),
    *(
        Engine(
            name=f"OpenVINO, {name}, {less}",
            way="openvino",
            kind=kind,
            precision="f32",
            most=most,
            both=False,
        )
        for less, most in _WITHOUT.items()
        for name, kind in (("fp32", "fp32"), ("int8 of NNCF", "nncf"))
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """Figures of one engine."""

    name: str
    one: list[float] = field(default_factory=list)
    """Milliseconds a slice of one call on all threads, one entry per round; empty where it was left out."""
    each: list[float] = field(default_factory=list)
    """The same of a call on each thread."""
    faster: float = 0.0
    """Than onnxruntime in fp32 in the same run, the better way of each; paired within rounds."""
    left_out: str | None = None
    mean_iou: dict[str, float] = field(default_factory=dict)
    """Per split."""
    unlike: float = 0.0
    """Share of the pixels of all splits with another label than onnxruntime gives in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All engines on one model."""

    date: str
    machine: list[str]
    size: int
    threads: int
    images: dict[str, int]
    """Labelled images per split."""
    rows: list[EngineRow]
    operations: float
    """Operations of the network per slice."""
    rates: dict[str, float]
    """Operations a second of the quickest products, per precision; see _rates.py."""

    @property
    def limits(self) -> dict[str, float]:
        """Milliseconds a slice at these rates."""
        return {kind: self.operations / rate * 1e3 for kind, rate in self.rates.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Options with which all models are measured."""

    workspace: Path
    folder: Path
    python: str | None
    """Interpreter of the environment with OpenVINO."""
    threads: int
    size: int
    repeats: int
    least: float
    quick: bool
    only: tuple[str, ...]
    """Parts of the names of engines to measure, beside the reference; (): all."""

    def takes(self, engine: Engine) -> bool:
        """False where an engine's earlier figures are kept."""
        return engine.name == FP32 or not self.only or any(part in engine.name for part in self.only)


def compare(choice: str, course: Course, earlier: Comparison | None) -> Comparison:
    """Measure engines on one model; files that are there already are used again, and so are earlier figures."""
    files = EngineFiles(course.folder / choice.replace(":", "_").replace("/", "_"))
    files.folder.mkdir(exist_ok=True)
    if not (files.folder / IMAGES).exists():
        run_program("_engine_files.py", choice, str(course.workspace), str(files.folder))
    if course.python is not None and not files.model("nncf").exists():
        run_program("_engine_files.py", str(files.folder), python=course.python)
    rates = json.loads(run_program("_rates.py", str(course.threads), "0" if course.quick else "0.3"))
    outcomes = take_turns(list(_contestants(files, course)), course.repeats, course.least)
    warning = busy_warning("at the end")
    with np.load(files.folder / TRUTH) as truth:
        rows = {row.name: row for row in earlier.rows} if earlier is not None and course.only else {}
        rows |= {row.name: row for row in _rows(outcomes, files, {name: truth[name] for name in truth.files})}
        counts = {split: sum(name.startswith(split) for name in truth.files) for split in SPLITS}
    return Comparison(
        date=datetime.now(UTC).date().isoformat(),
        machine=[*machine_lines(), *([] if warning is None else [warning])],
        size=course.size,
        threads=course.threads,
        images=counts,
        rows=[rows[engine.name] for engine in ENGINES if engine.name in rows],
        operations=count_operations(files.model("fp32"), grey_image(course.size), threads=course.threads),
        rates=rates,
    )


def _contestants(files: EngineFiles, course: Course) -> Iterator[Contestant]:
    for engine in filter(course.takes, ENGINES):
        python = course.python if engine.way == "openvino" else sys.executable
        job = Job(
            way=engine.way,
            file=str(files.model(engine.kind).absolute()),
            size=course.size,
            threads=course.threads,
            precision=engine.precision,
            images=str(files.folder / IMAGES),
            labels=str(_labels(files, engine)),
        )
        limit = {} if engine.most is None else {"ONEDNN_MAX_CPU_ISA": engine.most}
        if python is None or (course.quick and engine.way == "aot"):  # which compiles for half a minute
            continue
        yield Contestant(name=f"{engine.name}/one", job=job, python=python, variables=limit)
        if engine.both:
            each = replace(job, threads=1, streams=course.threads, images="")
            yield Contestant(name=f"{engine.name}/each", job=each, python=python, variables=limit)


def _labels(files: EngineFiles, engine: Engine) -> Path:
    return files.folder / f"labels of {engine.name}.npz"


def _rows(
    outcomes: Mapping[str, Outcome], files: EngineFiles, truth: Mapping[str, np.ndarray]
) -> list[EngineRow]:
    """Times with the accuracy of the labels that each engine wrote."""
    expected = _cut(_labels(files, ENGINES[0]), truth)
    n_class = int(max(labels[labels < 255].max() for labels in truth.values())) + 1
    rows: list[EngineRow] = []
    for engine in (engine for engine in ENGINES if f"{engine.name}/one" in outcomes):
        one = outcomes[f"{engine.name}/one"]
        if one.left_out is not None:
            rows.append(EngineRow(name=engine.name, left_out=one.left_out))
            continue
        each = outcomes.get(f"{engine.name}/each", Outcome())
        found = _cut(_labels(files, engine), truth)
        wrong = sum(int((found[name] != expected[name]).sum()) for name in truth)
        figures = {
            split: segmentation_metrics(
                sum(
                    confusion_matrix(truth[name], found[name], n_class)
                    for name in truth
                    if name.startswith(split)
                )
            ).mean_iou
            for split in SPLITS
            if any(name.startswith(split) for name in truth)
        }
        row = EngineRow(
            name=engine.name,
            one=one.milliseconds,
            each=each.milliseconds,
            mean_iou=figures,
            unlike=wrong / sum(labels.size for labels in truth.values()),
        )
        reference = rows[0] if rows else row
        rows.append(replace(row, faster=paired_ratio(better(reference), better(row))))
    return rows


def _cut(path: Path, truth: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels by name, (H, W), without padding."""
    with np.load(path) as stored:
        return {
            name: stored[name][0][: labels.shape[0], : labels.shape[1]].astype(np.uint8)
            for name, labels in truth.items()
        }


def render(measured: Mapping[str, Comparison], path: Path | None) -> None:
    """Print all that was ever measured, and save it as Markdown."""
    from matseg_trainer.export.accuracy_check import LARGEST_LOSS  # brings torch, for this alone

    report = Report(path=path)
    report.say("# Engines\n\n`python benchmarks/engines.py`; medians (smallest to largest).\n")
    for name, comparison in measured.items():
        fp32 = next(row for row in comparison.rows if row.name == FP32)
        counts = ", ".join(f"{count} of {split}" for split, count in comparison.images.items() if count)
        report.say(f"## {name}\n\nMeasured on {comparison.date}.\n")
        for line in comparison.machine:
            report.say(f"- {line}")
        limits = ", ".join(f"{kind} {limit:.3g} ms" for kind, limit in comparison.limits.items())
        report.say(
            f"\nSlices of {comparison.size} x {comparison.size}, {comparison.threads} thread(s); labels of {counts}; "
            f"gate: mean IoU on {SPLITS[0]} at most {LARGEST_LOSS} below fp32's.\n"
            f"{comparison.operations / 1e9:.1f} GOP a slice; at the rate of the quickest products {limits}.\n"
        )
        header = ["engine", "ms, one call", "ms, a call on each thread", "times faster than onnxruntime fp32"]
        header += ["mean IoU, validate", "test", "gate", "labels unlike fp32's"]
        report.table(
            header, [_cells(row, fp32.mean_iou[SPLITS[0]] - LARGEST_LOSS) for row in comparison.rows]
        )
    report.save()


def _cells(row: EngineRow, least: float) -> list[str]:
    if row.left_out is not None:
        return [row.name, f"left out: {row.left_out}", *[""] * 6]
    first, second = (f"{row.mean_iou[split]:.4f}" if split in row.mean_iou else "" for split in SPLITS)
    kept = row.mean_iou[SPLITS[0]] >= least
    return [
        row.name,
        spread(row.one),
        spread(row.each) if row.each else "",
        f"{row.faster:.2f}",
        first,
        second,
        "kept" if kept else "FAILED",
        f"{row.unlike:.1e}" if row.unlike else "0",
    ]


def load(path: Path) -> dict[str, Comparison]:
    """Read the figures of earlier runs, or nothing.

    Raises:
        UsageError: the file is not one of ours.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Comparison(**{**entry, "rows": [EngineRow(**row) for row in entry["rows"]]})
            for name, entry in document.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: expected the measurements of benchmarks/engines.py, found something else ({error}); "
            "remove the file and measure again"
        ) from error


def better(row: EngineRow) -> list[float]:
    """Milliseconds a slice in the better of both ways."""
    return min(filter(None, (row.one, row.each)), key=median)


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--workspace",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Has the data sets of the models, with label arrays. Default: one with the demo's set, which is drawn.",
)
@click.option("--quick", is_flag=True, help="Tiny slices and one round, to see that everything runs.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores of this process.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for files and labels, which are kept and used again. Default: a new one, removed at the end.",
)
@click.option(
    "--environments",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "build" / "benchmarks",
    help="Folder for OpenVINO's virtual environment. Default: build/benchmarks.",
)
@click.option(
    "--only", multiple=True, metavar="PART", help="Only engines with this in their names; may be repeated."
)
@click.option("--without-openvino", is_flag=True, help="Install nothing; only onnxruntime and torch.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ROOT / "benchmarks" / "results" / "engines.json",
    help="Measurements, with a table of the same name beside them. Default: benchmarks/results/engines.json.",
)
@debug_option
def main(
    models: tuple[str, ...],
    workspace: Path | None,
    quick: bool,
    repeats: int,
    threads: int | None,
    scratch: Path | None,
    environments: Path,
    only: tuple[str, ...],
    without_openvino: bool,
    results: Path,
) -> None:
    """Run each MODEL, an fp32 file of matseg-export for grey uint8 slices, in every engine. Default: zoo:dendrites."""
    measured, failures, python = load(results), [], None
    if not without_openvino:
        try:
            python = str(environment(environments / "openvino", _OPENVINO))
        except UnsupportedError as error:
            failures.append(str(error))
    with scratch_folder(None) as temporary:
        folder = scratch or temporary
        folder.mkdir(parents=True, exist_ok=True)
        course = Course(
            workspace=workspace or _demo(folder / "workspace"),
            folder=folder.absolute(),
            python=python,
            threads=threads or available_cpus(),
            size=padded_length(90 if quick else 852, STRIDE),
            repeats=1 if quick else repeats,
            least=0.0 if quick else 0.4,
            quick=quick,
            only=only,
        )
        for choice in models or ("zoo:dendrites",):
            click.echo(f"measuring {choice} ...", err=True)
            try:
                measured[choice] = compare(choice, course, measured.get(choice))
            except MatsegError as error:  # the other models are worth having
                failures.append(f"{choice}: {error}")
                continue
            document = {name: asdict(comparison) for name, comparison in measured.items()}
            write_text(results, json.dumps(document, indent=1) + "\n")
    render(measured, results.with_suffix(".md"))
    if failures:
        raise UnsupportedError("not measured: " + "; ".join(failures))


def _demo(workspace: Path) -> Path:
    """A workspace with the data set that the demo's models are trained on."""
    if not workspace.exists():
        workspace.mkdir()
        (workspace / "config.toml").write_bytes((ROOT / "config.toml").read_bytes())
        run_command(workspace, "matseg-prep", "demo", "demo")
        run_command(workspace, "matseg-prep", "labels", "demo", "train", "validate", "test")
    return workspace


if __name__ == "__main__":
    main()
