"""`matseg-inspect` and `matseg-verify`: what a model says about itself, and whether this machine agrees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from matseg_runtime.cli.completion import complete_model
from matseg_runtime.cli.options import (
    device_option,
    model_argument,
    provider_option,
    sha256_option,
    threads_option,
)
from matseg_runtime.inference.providers import PROVIDER_CHOICES
from matseg_shared.console.command import console, debug_option, json_option, plain, print_json
from matseg_shared.console.help import Command
from matseg_shared.console.options import PATH, applies_with, flag
from matseg_shared.console.progress import shown_progress
from matseg_shared.system.names import printable

if TYPE_CHECKING:
    from matseg_runtime.inference.providers import Devices, ProviderChoice
    from matseg_runtime.inference.session import SelfTestResult, Session
    from matseg_runtime.inference.timing import Timed
    from matseg_runtime.model.file import Model
    from matseg_shared.contract.metadata import ModelMetadata


@click.command(
    name="matseg-inspect",
    cls=Command,
    examples="""
        matseg-inspect steel.onnx  # classes, input, tiling, training and export
        matseg-inspect zoo:  # the models that can be named as zoo:NAME
        matseg-inspect steel.onnx --json  # the whole metadata document, for a script
    """,
)
@model_argument
@sha256_option
@json_option
@debug_option
def inspect_main(model: Path, sha256: str | None, as_json: bool) -> None:
    """Print what MODEL says about itself.

    Classes, input, tiling, training and export. MODEL is a file, or zoo:NAME for a model of the zoo; zoo: alone
    lists the zoo.
    """
    from matseg_runtime.model.zoo import PREFIX

    if str(model) == PREFIX:
        _print_zoo(as_json)
        return
    from matseg_runtime.inference.session import Session
    from matseg_runtime.model.file import choose_model

    path, trust = choose_model(model, sha256)
    found = Session.open(path, provider="cpu", threads=1, trust=trust).model
    if as_json:
        facts = {"path": found.path, "sha256": found.sha256, "proofs": found.proofs}
        print_json({**facts, **found.metadata.model_dump(mode="json")})
        return
    _print_model(found)


@cloup.command(
    name="matseg-verify",
    cls=Command,
    examples="""
        matseg-verify steel.onnx  # does this machine give the labels that were right at export?
        matseg-verify steel.onnx --provider cuda  # does its GPU?
        matseg-verify steel.onnx steel_int8.onnx --time --input raw/  # which is faster here?
    """,
)
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, type=PATH, shell_complete=complete_model
)
@provider_option
@device_option
@threads_option
@sha256_option
@flag("--time", "Label slices with each MODEL in turn: how fast is each, and how far do their labels differ?")
@click.option(
    "--input",
    "location",
    metavar="INPUT",
    help="Images or a volume for --time. Default: the image of the first MODEL's self-test, mirrored to 1024 x 1024.",
)
@json_option
@applies_with("time", "location")
@debug_option
def verify_main(
    models: tuple[Path, ...],
    provider: ProviderChoice,
    devices: Devices | None,
    threads: int | None,
    sha256: str | None,
    time: bool,
    location: str | None,
    as_json: bool,
) -> None:
    """Replay the self-test that travels in each MODEL.

    MODEL is a file, or zoo:NAME. Ends with 3 when the labels are others than at export.
    """
    import dataclasses

    from matseg_runtime.inference.session import Session
    from matseg_runtime.model.file import choose_model
    from matseg_runtime.run.plan import LARGEST_STREAMS
    from matseg_shared.system.machine import available_cpus

    streams = min(threads or available_cpus(), LARGEST_STREAMS) if time else 1
    sessions: list[Session] = []
    facts: list[dict[str, Any]] = []
    for model in models:
        path, trust = choose_model(model, sha256)
        session = Session.open(
            path, provider=provider, devices=devices, threads=threads, streams=streams, trust=trust
        )
        sessions.append(session)
        result = session.self_test()
        proofs = {"model": model, "sha256": session.model.sha256, "proofs": session.model.proofs}
        facts.append({**proofs, "passed": result.passed, **dataclasses.asdict(result)})
        if as_json:
            print_json(facts[0] if len(models) == 1 else {"models": facts})
        session.require_passed(result)
        if not as_json:
            _print_passed(model, session, result)
    if time:
        timed = _time(models, sessions, location, streams)
        for fact, found in zip(facts, timed, strict=True):
            fact.update(milliseconds=found.milliseconds, compared=found.pixels, unlike=found.unlike)
        if as_json:
            print_json(facts[0] if len(models) == 1 else {"models": facts})
        else:
            _print_times(models, sessions, timed)


def _print_passed(model: Path, session: Session, result: SelfTestResult) -> None:
    click.echo(
        f"{model}: passed on {session.place} ({session.reason}): {result.pixels} pixels, "
        f"{result.ties} decided by rounding, {result.seconds * 1e3:.1f} ms"
    )
    for proof in session.model.proofs:
        click.echo(printable(f"trusted: {proof}"))
    if warning := session.model.metadata.precision_warning(session.provider):
        click.echo(f"warning: {warning}")


def _time(
    models: Sequence[Path], sessions: Sequence[Session], location: str | None, streams: int
) -> list[Timed]:
    from matseg_runtime.inference.timing import (
        EDGE,
        ROUNDS,
        mirrored_sample,
        read_sample,
        require_alike,
        time_side_by_side,
    )

    named = {str(model): session.model.metadata for model, session in zip(models, sessions, strict=True)}
    require_alike(named)
    first = sessions[0]
    images = (
        [mirrored_sample(first, EDGE)] if location is None else read_sample(location, first.model.metadata)
    )
    with shown_progress() as progress:
        progress.stage("labelling in turn", ROUNDS * len(sessions), unit="turns")
        return time_side_by_side(sessions, images, streams=streams, advance=progress.advance)


def _print_times(models: Sequence[Path], sessions: Sequence[Session], timed: Sequence[Timed]) -> None:
    """The fastest first; how sure that order is, and labels that differ from those of the first that was named."""
    from rich.table import Column, Table

    headings = ["precision", "network", "ms a slice", "times as long", "other labels"]
    title = f"medians of {len(timed[0].milliseconds)} rounds, {sessions[0].place}"
    table = Table(Column("model", overflow="fold"), *headings, title=title)
    rows = sorted(zip(models, sessions, timed, strict=True), key=lambda row: row[2].median)
    best = rows[0][2]
    for model, session, found in rows:
        low, high = min(found.milliseconds), max(found.milliseconds)
        data = session.model.metadata
        table.add_row(
            plain(str(model)),
            data.export.precision,
            data.network,
            f"{found.median:.1f} ({low:.1f} to {high:.1f})",
            f"{found.median / best.median:.2f}",
            "reference" if found is timed[0] else f"{found.unlike / found.pixels:.4%}",
        )
    out = console()
    out.print(table)
    equal = [str(model) for model, _, found in rows if min(found.milliseconds) <= max(best.milliseconds)]
    told = f"fastest here: {equal[0]}"
    if len(equal) > 1:
        told = f"no difference that these rounds could show: {', '.join(equal)}"
    out.print(plain(told), soft_wrap=True)


def _print_zoo(as_json: bool) -> None:
    """The index, and which of its models are on this machine."""
    from rich.table import Column, Table

    from matseg_runtime.model.file import read_model_bytes
    from matseg_runtime.model.zoo import PREFIX, find, read_index

    index = read_index()
    if as_json:
        print_json(index.model_dump(mode="json"))
        return
    name = Column("name", no_wrap=True)  # to be typed as it stands
    headings = (Column(heading, overflow="fold") for heading in ("labels", "network", "MB", "here"))
    table = Table(name, *headings, title="models zoo")
    places: dict[Path, list[str]] = {}
    for item in index.models:
        found = find(item)
        here = "no"
        if found is not None:
            places.setdefault(found.parent.parent, []).append(item.name)
            same = hashlib.sha256(read_model_bytes(found)).hexdigest() == item.sha256
            here = "yes" if same else "another file"
        table.add_row(f"{PREFIX}{item.name}", item.summary, item.kind, f"{item.bytes / 1e6:.1f}", here)
    out = console()
    out.print(table)
    for folder, names in places.items():
        out.print(plain(f"in {folder}: {', '.join(names)}"), soft_wrap=True)


def _print_model(model: Model) -> None:
    """Facts, then classes."""
    from rich.table import Column, Table

    data, size = model.metadata, model.metadata.pixel_size
    columns = Column(no_wrap=True), Column(overflow="fold")  # a digest is to be copied whole
    table = Table(*columns, title=plain(f"{data.name} ({model.path})"), show_header=False)
    headings = ("class", "name", "colour (RGB)", "in the training labels")
    classes = Table(*(Column(heading, overflow="fold") for heading in headings), title="classes")
    facts = (
        ("SHA-256", model.sha256),
        ("trusted", "; ".join(model.proofs) or "nothing was asked for"),
        ("network", data.network),
        ("data set, version", ", ".join((data.training.dataset, *(one.version for one in data.trainings)))),
        ("input", f"{data.input.channels} channel(s) of {data.input.dtype}"),
        ("context", f"{data.input.context} slices on either side" if data.input.context else "none"),
        ("training intensities", f"{data.input.histogram.low:g} to {data.input.histogram.high:g}"),
        ("stride, halo", f"{data.tiling.stride}, {data.tiling.halo} pixels"),
        ("pixel size", "unknown" if size is None else f"{size.value:g} {size.unit}"),
        *_origins(data),
        ("precision, opset", f"{data.export.precision}, {data.export.opset}"),
        ("test-time augmentation", "none" if data.export.tta == 1 else f"mean of {data.export.tta} views"),
        ("precision pays on", ", ".join(filter(data.pays_on, PROVIDER_CHOICES[1:])) or "no provider"),
        ("trained with", _versions(data.training.packages)),
        ("exported with", _versions(data.export.packages)),
    )
    for name, value in facts:
        table.add_row(name, plain(value))
    for item in data.classes:
        classes.add_row(str(item.index), plain(item.name), str(item.colour), str(item.label_value))
    out = console()
    out.print(table)
    out.print(classes)


def _origins(data: ModelMetadata) -> Iterator[tuple[str, str]]:
    """Facts on the trainings; those of an ensemble one by one."""
    for number, member in enumerate(data.ensemble, start=1):
        training = member.training
        mean_iou = _number(training.metrics.get("mean_iou", "unknown"))
        yield f"member {number}", f"{training.version}, {training.network}, seed {training.seed}"
        yield "  SHA-256 of its weights", member.sha256
        yield "  pretrained encoder", str(training.pretrained or "none")
        yield "  epoch that was kept", f"{training.epoch}, validation mean IoU {mean_iou}"
    if not data.ensemble:
        yield "pretrained encoder", str(data.training.pretrained or "none")
        if start := data.training.init:
            yield "started from", f"{start.name} (weights with SHA-256 {start.sha256})"
        yield "epoch that was kept", str(data.training.epoch)
        for name, value in data.training.metrics.items():
            yield f"validation {name}", _number(value)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(_number(item) for item in value)
    return str(value)


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items()) or "unknown"
