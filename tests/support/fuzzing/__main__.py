"""Run a corpus of mutated inputs, or one case again: `python -m fuzzing --help`."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from fuzzing.drive import corpus, try_cases
from fuzzing.seeds import make_seeds
from fuzzing.targets import TARGETS


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="How many, over all kinds.")
@click.option("--seed", default=0, show_default=True, help="Another seed, another corpus.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(TARGETS)), help="Only these.")
@click.option(
    "--replay", metavar="KIND:NUMBER", help="One case again, as a failure names it; its files are kept."
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Folder for seeds and the last case. Default: temporary."
)
def main(cases: int, seed: int, kinds: tuple[str, ...], replay: str | None, keep: Path | None) -> None:
    """Give mutated inputs to the commands; ends with 1 when any of them did what it must not."""
    folder = keep or Path(tempfile.mkdtemp(prefix="matseg-fuzz-"))
    if not (folder / "seeds").exists():
        make_seeds(folder / "seeds")
    chosen = corpus(cases, seed, kinds)
    if replay is not None:
        kind, _, number = replay.partition(":")
        chosen = [(kind, int(number))]
    counts: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    failed, slowest, largest, started = 0, 0.0, 0, time.monotonic()
    for outcome in try_cases(chosen, folder / "seeds", folder / "scratch"):
        counts[outcome.kind] += 1
        codes.update(f"{outcome.kind} {code}" for code in outcome.codes)
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.grown)
        if replay is not None:
            click.echo(outcome)
        if outcome.findings:
            failed += 1
            click.echo(f"--- {outcome.kind}:{outcome.number}")
            for finding in outcome.findings:
                click.echo(finding)
        if sum(counts.values()) % 500 == 0:
            click.echo(
                f"... {sum(counts.values())} cases, {failed} failed, {time.monotonic() - started:.0f} s"
            )
    for kind in sorted(counts):
        ends = ", ".join(
            f"{code.split()[1]}: {number}"
            for code, number in sorted(codes.items())
            if code.split()[0] == kind
        )
        click.echo(f"{kind:12}{counts[kind]:6} cases   commands by exit code: {ends}")
    click.echo(
        f"{sum(counts.values())} cases, {failed} failed; slowest {slowest:.1f} s, "
        f"largest growth {largest >> 20} MiB; {folder}"
    )
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
