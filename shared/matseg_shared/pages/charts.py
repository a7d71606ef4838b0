"""Charts as data; `charts.js` draws them in the page's theme, with plotly.js."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from matseg_shared.images.palette import OKABE_ITO

if TYPE_CHECKING:
    from matseg_shared.contract.metadata import Histogram

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in OKABE_ITO
)
"""Told apart with every common kind of colour blindness (Okabe and Ito 2008); dark mode lightens the darkest."""

Number = float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve, or one set of bars."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    """None leaves a gap."""
    colour: str | None = None
    """#rrggbb; None: the page's text colour."""
    kind: Literal["line", "steps", "marked", "points", "bars"] = "line"
    """`marked`: a line with a point at each value."""
    dash: Literal["solid", "dash", "dot"] = "solid"
    width: float = 2
    names: Sequence[str] = ()
    """Names of the points; empty: their x."""
    group: int | None = None
    """Class index, so that a page can recolour or hide the series with its class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A vertical line with a word to it."""

    x: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Series on common axes."""

    id: str
    """Names the chart in its template and in the page's scripts."""
    title: str
    summary: str
    """A description for those who cannot see it."""
    x_title: str
    y_title: str
    series: Sequence[Series]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_log: bool = False
    y_log: bool = False
    y_percent: bool = False
    height: int = 300
    """Pixels."""
    marks: Sequence[Mark] = ()
    square: bool = False
    """One unit is as long on both axes."""


def training_set(histogram: Histogram) -> Series:
    """Intensities of a training set, as the share of its pixels in each bin."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    middles = [histogram.low + (number + 0.5) * width for number in range(len(histogram.counts))]
    total = max(1, sum(histogram.counts))
    shares = thinned([count / total for count in histogram.counts], 4)
    return Series(name="training set", x=thinned(middles), y=shares, kind="bars", colour=SKY)


def thinned(values: Sequence[float], digits: int = 6) -> list[Number]:
    """Numbers with no more digits than a chart can show, which keeps pages small."""
    return [float(f"{value:.{digits}g}") for value in values]
