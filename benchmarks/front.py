"""The front of accuracy against speed, as a picture: `python benchmarks/front.py`.

`results/front.json` says which points there are: an accuracy with where it comes from, and either a time with where
that comes from or the section and row of `results/networks.json` that has it. Points whose accuracy or time is not
measured yet are named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from _common import ROOT, median
from _measured import Measured, load

from matseg_shared.console.command import debug_option
from matseg_shared.errors import UsageError
from matseg_shared.system.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = ROOT / "benchmarks" / "results"
STYLES = {
    "torch fp32": ("#000000", "o"),
    "ONNX fp32": ("#0072B2", "s"),
    "ONNX int8": ("#D55E00", "D"),
    "files to files": ("#009E73", "^"),
}
"""Colour and marker of each way; colours of Okabe and Ito (2008), which colour-blind people tell apart."""
_PIXELS = 852**2
_ABOVE, _BELOW = 10.0, -10.0
"""Points between a mark and its label."""
_HEIGHT = 290.0
"""Height of the picture in points."""
_WIDE, _HIGH = 0.1, 0.03
"""Parts of the picture's width and height within which labels, or a label and a mark, overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One network run in one way."""

    network: str
    way: str
    """One of STYLES."""
    iou: float | None = None
    """None: not measured yet."""
    iou_from: str = ""
    """Images, and the command or file that says so."""
    milliseconds: float | None = None
    """A slice of 852 x 852; None: in a row of networks.json."""
    time_from: str = ""
    section: str = ""
    row: str = ""
    """Beginning of the row's name."""


Placed = tuple[Point, float, float]
"""A point, its speed in Mpixel/s, its accuracy."""


def read_points(path: Path) -> tuple[str, list[Point]]:
    """The measure on the vertical axis and all points.

    Raises:
        UsageError: the file is not as described above.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        points = [Point(**entry) for entry in document["points"]]
        measure = str(document["measure"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: expected the measure and the points of the front, found something else ({error}); "
            "mend it, or take it from version control"
        ) from error
    unknown = {point.way for point in points} - set(STYLES)
    if unknown:
        raise UsageError(
            f"{path}: expected ways among {', '.join(STYLES)}, found {', '.join(sorted(unknown))}"
        )
    return measure, points


def speed(point: Point, measured: Measured) -> float | None:
    """Megapixels a second; None when it is not measured."""
    milliseconds = point.milliseconds
    if milliseconds is None and point.section in measured.sections:
        for row in measured.sections[point.section].rows:
            if row.name.startswith(point.row) and row.milliseconds:
                milliseconds = median(row.milliseconds)
                break
    return None if milliseconds is None else _PIXELS / milliseconds / 1e3


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pairs of (speed, accuracy) that no other beats in both, the slowest first."""
    best: list[tuple[float, float]] = []
    for entry in sorted(points, reverse=True):
        if not best or entry[1] > best[-1][1]:
            best.append(entry)
    return best[::-1]


def label_offsets(places: Sequence[tuple[float, float]]) -> list[float]:
    """Above or below its mark, where a label covers least of other marks and of labels before it.

    Args:
        places: of the marks, as parts of the picture's width and height.
    """
    labels: list[tuple[float, float]] = []
    offsets: list[float] = []
    for number, (x, y) in enumerate(places):
        others = [*places[:number], *places[number + 1 :], *labels]

        def covered(
            offset: float, x: float = x, y: float = y, others: Sequence[tuple[float, float]] = others
        ) -> int:
            return sum(_overlap((x, y + offset / _HEIGHT), other) for other in others)

        offsets.append(min((_ABOVE, _BELOW, _ABOVE + 11, _BELOW - 11), key=covered))
        labels.append((x, y + offsets[-1] / _HEIGHT))
    return offsets


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) < _WIDE and abs(one[1] - other[1]) < _HIGH


def draw(points: Sequence[Placed], measure: str, path: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    edge = front_of([(rate, accuracy) for _, rate, accuracy in points])
    axes.step(*zip(*edge, strict=True), where="pre", color="0.75", linewidth=1.5, zorder=1)
    for way, (colour, marker) in STYLES.items():
        chosen = [(rate, accuracy) for point, rate, accuracy in points if point.way == way]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), c=colour, marker=marker, s=45, label=way, zorder=3)
    axes.set_xlim(min(rate for _, rate, _ in points) / 2, max(rate for _, rate, _ in points) * 3)
    axes.margins(y=0.15)
    _label(axes, points)
    axes.set_xlabel("Mpixel/s on two CPU cores")
    axes.set_ylabel(measure)
    axes.grid(visible=True, which="major", color="0.9", zorder=0)
    figure.legend(loc="outside lower center", ncols=len(STYLES), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=130, metadata={"Software": ""})


def _label(axes: Axes, points: Sequence[Placed]) -> None:
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    to_parts = axes.transData + axes.transAxes.inverted()
    order = sorted(points, key=lambda entry: entry[1])
    places = [tuple(to_parts.transform((rate, accuracy))) for _, rate, accuracy in order]
    for (point, rate, accuracy), offset in zip(order, label_offsets(places), strict=True):
        axes.annotate(
            point.network,
            (rate, accuracy),
            xytext=(0, offset),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize="small",
            color=STYLES[point.way][0],
        )


@click.command()
@click.option("--points", type=click.Path(path_type=Path), default=RESULTS / "front.json", help="The points.")
@click.option(
    "--measured", type=click.Path(path_type=Path), default=RESULTS / "networks.json", help="Of networks.py."
)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "pictures" / "front.png")
@debug_option
def main(points: Path, measured: Path, out: Path) -> None:
    """Draw all points that have a time."""
    measure, entries = read_points(points)
    times = load(measured)
    known = []
    for point in entries:
        rate = speed(point, times)
        if rate is None:
            click.echo(f"left out: {point.network}, {point.way}: no time for it in {measured.name}")
        elif point.iou is None:
            click.echo(f"left out: {point.network}, {point.way}: no accuracy for it in {points.name}")
        else:
            known.append((point, rate, point.iou))
            click.echo(f"{point.network}, {point.way}: {measure} {point.iou:.4f}, {rate:.3g} Mpixel/s")
    if not known:
        raise UsageError(
            f"{points}: expected at least one point with a time, found none; run make bench first"
        )
    draw(known, measure, out)
    click.echo(f"drawn: {out}")


if __name__ == "__main__":
    main()
