"""One page of all that was measured: the project, other programs, and the machine's limit side by side.

`python benchmarks/overview.py` measures nothing: it reads `results/` and writes `overview.html` and `.md` there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click
from _common import ROOT, Report, median
from engines import FP32, OURS, Comparison, better, load

from matseg_shared.console.command import debug_option
from matseg_shared.errors import UsageError
from matseg_shared.pages.charts import BLUE, GREEN, ORANGE, SKY
from matseg_shared.pages.page import require_report_extra
from matseg_shared.system.files import write_text

PARTS = {
    "products at the machine's limit": GREEN,
    "rest of the network": SKY,
    "reading, tiling, stitching, writing": ORANGE,
    "start, checks, page": BLUE,
}
"""Parts of a slice's time and their colours; each bar has some of them, in this order."""
_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{{ style | safe }}
main { max-width: 70rem; margin: auto; padding: 1rem }
.row { display: grid; grid-template-columns: 21rem 1fr 5.5rem; gap: .6rem; align-items: center; margin: .25rem 0 }
.stack { display: flex; height: 1.1rem } .stack span { min-width: 1px } .ms, .faster { text-align: right }
.key span { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em }
</style></head><body><main>
<h1>{{ title }}</h1><p>{{ said }}</p><p class="key">
{% for name, colour in parts.items() %}<span style="background: {{ colour }}"></span>{{ name }}{% endfor %}
</p>
{% for group in groups %}{% set longest = group.bars | map(attribute="total") | max %}<h2>{{ group.title }}</h2>
{% for bar in group.bars %}
<div class="row"><div>{{ bar.name }}</div>
<div class="stack">
{%- for name, length in bar.parts.items() if length -%}
<span style="background: {{ parts[name] }}; width: {{ 100 * length / longest }}%" title="{{ name }}"></span>
{%- endfor %}</div><div class="ms">{{ '%.1f' % bar.total }} ms</div></div>
{% endfor %}<p class="note">{{ group.note }}</p>
{% endfor %}
</main></body></html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One way to label a slice."""

    name: str
    parts: dict[str, float]
    """Milliseconds of a slice, by names of PARTS."""

    @classmethod
    def of(cls, name: str, *ends: float) -> Bar:
        """A bar whose parts end after so many milliseconds; noise may leave nothing of a part."""
        starts = (0.0, *ends)
        lengths = (max(end - max(starts[: place + 1]), 0.0) for place, end in enumerate(ends))
        return cls(name=name, parts=dict(zip(PARTS, lengths, strict=False)))

    @property
    def total(self) -> float:
        """Milliseconds."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Bars that were measured in one run."""

    title: str
    bars: list[Bar]
    note: str


def rows_of(path: Path) -> list[dict[str, str]]:
    """The first table of a Markdown report, by its headings."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


def source_of(path: Path) -> str:
    """The command and date under a report's title, and its processor."""
    lines = path.read_text(encoding="utf-8").splitlines()
    machine = next((line for line in lines if line.startswith("- processor: ")), "- processor: not told")
    return f"{lines[2].replace('`', '')}; {machine.removeprefix('- processor: ')}."


def network_group(name: str, found: Comparison) -> Group:
    """The network alone in each engine, and the limit."""
    bars = [Bar.of(f"limit, {kind}", limit) for kind, limit in sorted(found.limits.items())]
    times = {row.name: median(better(row)) for row in found.rows if row.one}
    for row, spent in sorted(times.items(), key=lambda item: item[1]):
        limit = next(
            (limit for kind, limit in found.limits.items() if kind in row), 0.0
        )  # none is known of bf16
        bars.append(Bar.of(row, min(limit, spent), spent))
    machine = next((line for line in found.machine if line.startswith("processor: ")), "")
    note = f"benchmarks/engines.py, {found.date}, {found.threads} thread(s), one call or a call on each. {machine}"
    return Group(title=f"The network alone: {name}", bars=bars, note=note)


def command_group(path: Path, model: str, *network: float) -> Group:
    """A short script and matseg-run over the most slices; `network` ends the first parts where it is the same one."""
    if f"{model.removeprefix('zoo:')}-fast" not in source_of(path):  # the same training in int8
        network = (0, 0)
    rows = [(int(row["what"].split()[-2]), row) for row in rows_of(path)]
    most = max(count for count, _ in rows)
    bars = []
    for row in (row for count, row in rows if count == most):
        script, whole = (float(row[name].split()[0]) * 1e3 / most for name in ("script, s", "matseg-run, s"))
        around = float(row["before and after the slices, s"]) * 1e3 / most
        bars.append(Bar.of(f"a short script, {row['what']}", *network, script))
        bars.append(Bar.of(f"matseg-run, {row['what']}", *network, whole - around, whole))
    return Group(title="From files to files, int8", bars=bars, note=source_of(path))


def peers_group(path: Path, limit: float) -> Group:
    """Other programs around the same fp32 file."""
    rows = [(row["what"], float(row["ms a slice"].split()[0])) for row in rows_of(path)]
    bare = next(spent for what, spent in rows if what.startswith("bare"))
    bars = [Bar.of(what, min(limit, bare), min(bare, spent), spent) for what, spent in rows]
    return Group(title="Other programs around one file in fp32", bars=bars, note=source_of(path))


def groups_of(results: Path) -> Iterator[Group]:
    """All that was measured; for what was not, a note."""
    measured = load(results / "engines.json")
    if not measured:
        raise UsageError(f"{results}: expected engines.json, found none; run benchmarks/engines.py first")
    name = max(measured, key=lambda name: measured[name].date)
    limits, network = measured[name].limits, network_group(name, measured[name])
    ours = next(bar for bar in network.bars if bar.name == OURS).total
    makers = {
        "end_to_end": lambda path: command_group(path, name, limits["int8"], ours),
        "peers": lambda path: peers_group(path, limits["fp32"]),
    }
    for report, make in makers.items():
        path = results / f"{report}.md"
        missing = f"Not measured: python benchmarks/{report}.py --save {path.name}"
        yield make(path) if path.exists() else Group(title=report, bars=[], note=missing)
    yield network


def sentence(groups: list[Group]) -> str:
    """Sentence that a reader should take along."""
    bars = {bar.name: bar.total for group in groups for bar in group.bars}
    return (
        "Milliseconds of one slice of 852 x 852, each part with a scale of its own. onnxruntime takes "
        f"{bars[OURS]:.3g} in int8 and {bars[FP32]:.3g} in fp32; as many products take {bars['limit, int8']:.3g} and "
        f"{bars['limit, fp32']:.3g} at the best."
    )


@click.command()
@click.argument("results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results")
@debug_option
def main(results: Path) -> None:
    """Put the page together."""
    require_report_extra("overview.html")
    from jinja2 import Environment

    groups = list(groups_of(results))
    report = Report(path=results / "overview.md")
    report.say(f"# Overview\n\n{sentence(groups)}\n")
    for group in groups:
        report.say(f"## {group.title}\n\n{group.note}\n")
        rows = [(bar.name, bar.total, *(bar.parts.get(part, 0) for part in PARTS)) for bar in group.bars]
        cells = [[name, *(f"{value:.1f}" for value in values)] for name, *values in rows]
        report.table(["what", "ms a slice", *PARTS], cells)
    report.save()
    page = (
        Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            title="MatSeg: where the time of a slice goes",
            said=sentence(groups),
            groups=groups,
            parts=PARTS,
            style=(files("matseg_shared.pages") / "static" / "page.css").read_text(encoding="utf-8"),
        )
    )
    write_text(results / "overview.html", page)
    click.echo(f"written: {results / 'overview.html'}")


if __name__ == "__main__":
    main()
