"""Kill `matseg-run` with SIGKILL at random moments, run it again, and compare with an undisturbed run byte by byte.

    python benchmarks/kills.py MODEL INPUT [--kills 100] [--consensus]

Each round starts a fresh output, kills the process at a random moment up to three times, then lets it finish. A
consensus of several axes goes into a zarr, with a volume of where they disagree.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNSTABLE = {"report.json"}
"""Holds times; compared by nobody. The ledger (.matseg, or matseg.ledger beside a volume) is left out as well."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--consensus", action="store_true")
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        failures = 0
        sinks = ("labels.zarr",) if options.consensus else ("labels", "labels.zarr", "labels.tif")
        for sink in sinks:
            clean = root / f"clean {sink}" / sink
            started = time.monotonic()
            run(options, clean)
            seconds = time.monotonic() - started
            expected = digests(clean)
            kills = rounds = 0
            while kills < options.kills / len(sinks):
                output = root / f"round{rounds}" / sink
                for _ in range(min(3, math.ceil(options.kills / len(sinks)) - kills)):
                    kills += kill_within(options, output, rng.uniform(0, seconds * 1.05))
                run(options, output)
                if digests(output) != expected:
                    failures += 1
                    print(f"{sink}: round {rounds} differs from the undisturbed run")
                shutil.rmtree(output.parent)
                rounds += 1
            print(
                f"{sink}: {kills} kills in {rounds} rounds, {len(expected)} files compared, {failures} failure(s)"
            )
    sys.exit(bool(failures))


def command(options: argparse.Namespace, output: Path) -> list[str]:
    program = Path(sys.executable).with_name("matseg-run")
    more = (
        ["--consensus", "--disagreement", str(output.with_name("disagreement.tif"))]
        if options.consensus
        else []
    )
    return [
        str(program),
        str(options.model),
        str(options.input),
        "-o",
        str(output),
        "--provider",
        "cpu",
        "--no-report",
        *more,
    ]


def run(options: argparse.Namespace, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(command(options, output), check=True, capture_output=True)


def kill_within(options: argparse.Namespace, output: Path, seconds: float) -> int:
    """1 when the process was killed, 0 when it had finished before."""
    output.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(command(options, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 1
    return 0


def digests(output: Path) -> dict[str, str]:
    """SHA-256 of every file of a result and of what lies beside it, without ledgers and reports."""
    files = [path for path in output.parent.rglob("*") if path.is_file()]
    kept = (
        path
        for path in files
        if path.name not in UNSTABLE and ".matseg" not in str(path.relative_to(output.parent))
    )
    return {
        str(path.relative_to(output.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(kept)
    }


if __name__ == "__main__":
    main()
