"""Judgement of a command that was given a bad input."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from PIL import Image

from fuzzing.archives import CANARY
from fuzzing.seeds import N_CLASS, SETTLED_SECONDS
from matseg_shared.console.command import EXIT_DONE, EXIT_EXCLUDED
from matseg_shared.contract.classes import UNLABELLED

__all__ = ["CANARY", "peak", "problems", "reset_peak", "working_in"]
_ALLOWED = (0, 1, 2, 3, 4)
_FORBIDDEN = ("Traceback", "please report it", "memory does not suffice", "too large for the memory of")
_WARNING = re.compile(r"^\S+\.py:\d+: \w*Warning: .*$", flags=re.MULTILINE)


def problems(result: Result, line: tuple[str, ...], folder: Path) -> list[str]:
    """Everything that is wrong with how a command ended."""
    found = []
    if result.exit_code not in _ALLOWED:
        found.append(f"ended with {result.exit_code}")
    for words in _FORBIDDEN:
        if words in result.stderr:
            found.append(f"said: {_around(result.stderr, words)}")
    found += [f"warned: {text}" for text in _WARNING.findall(result.stderr)[:2]]
    if result.exit_code == EXIT_DONE + 1 and "Error: " not in result.stderr:
        found.append("ended with 1 and no sentence")
    if len(result.stderr) > 20_000:
        found.append(f"said {len(result.stderr)} characters: {result.stderr[:300]}")
    if os.environ.get(CANARY):
        found.append("EXECUTED code of the input")
    if result.exit_code in (EXIT_DONE, EXIT_EXCLUDED) and line[0] == "run" and "-o" in line:
        found += _outputs(Path(line[line.index("-o") + 1]))
    found += _documents(folder)
    return found


def _around(text: str, words: str) -> str:
    at = text.index(words)
    return text[max(0, at - 200) : at + 600]


def _outputs(output: Path) -> list[str]:
    """Label images hold classes, and 255 where there are no data, as much as the report says."""
    found = []
    absent = 0
    for path in output.glob("*.png") if output.is_dir() else ():
        with Image.open(path) as image:
            labels = np.asarray(image)
        values = np.unique(labels)
        absent += int(np.count_nonzero(labels == UNLABELLED))
        if not values.size or not {*range(N_CLASS), UNLABELLED}.issuperset(values.tolist()):
            found.append(f"{path.name} holds the values {values[:8]}")
    report = output / "report.json"
    told = json.loads(report.read_bytes()).get("no_data_pixels", 0) if report.is_file() else 0
    if absent > told:
        found.append(f"{absent} pixels are 255, {told} of them told as no data")
    if output.suffix == ".zarr" and output.exists():
        import zarr

        array: Any = zarr.open(str(output), mode="r")
        values = np.unique(np.asarray(array["0"][:])) if (output / "0").exists() else np.zeros(1)
        if not {*range(N_CLASS), UNLABELLED}.issuperset(values.tolist()):
            found.append(f"{output.name} holds the values {values[:8]}")
    return found


def _documents(folder: Path) -> list[str]:
    """Reports are JSON as everybody reads it, without NaN."""
    found = []
    for name in ("report.json", "quantities.json"):
        for path in folder.rglob(name):
            if path.stat().st_mtime < time.time() - SETTLED_SECONDS / 2:
                continue  # not written by this command
            try:
                json.loads(path.read_bytes(), parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                found.append(f"wrote a {name} that is not JSON: {error}")
    return found


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number")


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Whatever a command writes beside itself goes there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def reset_peak() -> int:
    """Bytes of memory held now, from which the peak is counted afresh."""
    from matseg_shared.system.machine import reset_peak_memory, used_memory

    reset_peak_memory()
    return used_memory()


def peak() -> int:
    """The most bytes of memory held since."""
    from matseg_shared.system.machine import peak_memory

    return peak_memory()
