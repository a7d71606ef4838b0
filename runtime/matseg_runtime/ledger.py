"""What is already done, on disk: run again after a crash and only the rest is worked on.

```
<ledger>/job.json              what the job is: model, input, settings; a run that differs is refused
<ledger>/done-1-of-1.jsonl     one line per finished unit, appended after the unit's bytes are durable
<ledger>/part-1-of-1.lock      held while a process works on that part
```

A process that is killed while it appends leaves a line without an end; such a line counts for nothing.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pydantic import ValidationError

from matseg_runtime.locks import FileLock
from matseg_runtime.records import Record, SliceRegions, SliceUncertainty
from matseg_shared.errors import OutputError, UsageError
from matseg_shared.files import output_errors, sync_folder, write_text

_JOB_NAME = "job.json"
_PART_FILE = re.compile(r"part-(\d+)-of-(\d+)\.lock")


class JobKey(Record):
    """Everything that decides the bytes of the outputs."""

    ledger_version: Literal[1] = 1
    model_name: str
    model_sha256: str
    input_kind: str
    input_name: str
    input_content: str
    """What changes when a volume does; for a folder that goes into a volume, its slices' names."""
    output_format: str
    tile: tuple[int, int] | None
    """(rows, columns) in pixels; None: whole slices."""
    unit: int
    """Slices that are written together."""
    provider: str
    window: str | None = None
    axis: int | None = None
    slices: str | None = None
    """`START:STOP` when not all slices of the input."""
    level: int | None = None
    probabilities: bool = False
    skip_constant: bool = True
    layout: str | None = None
    """Chunks and shards of a chunked output."""

    def differences(self, other: JobKey) -> list[str]:
        """One phrase per field that differs; `self` is the earlier job."""
        return [
            f"{name.replace('_', ' ')}: {_shown(old)} then, {_shown(new)} now"
            for name in type(self).model_fields
            if (old := getattr(self, name)) != (new := getattr(other, name))
        ]


class SliceRecord(Record):
    """One slice that is labelled and durable."""

    name: str
    index: int
    where: str
    identity: str
    """Of the input file, when it was read."""
    shape: tuple[int, int]
    """(H, W) in pixels."""
    counts: tuple[int, ...]
    """Pixels per class."""
    bytes: int = 0
    """Size of the slice's own output file; 0 when it shares one."""
    drift: float = 0.0
    """Distance of its intensities from the training set's, 0 to 1."""
    constant: int = 0
    """Pixels in constant regions, for which the network was not asked again."""
    clipped: int = 0
    """Pixels beyond the window."""
    regions: SliceRegions | None = None
    """None: not asked for."""
    uncertainty: SliceUncertainty | None = None
    """None: not asked for."""


class SetAsideRecord(Record):
    """One slice that could not be read."""

    name: str
    index: int
    where: str
    reason: str


class _Line(Record):
    done: tuple[SliceRecord, ...] = ()
    set_aside: tuple[SetAsideRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which share of the units this process works on: every `total`-th, starting with the `number`-th."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `K/N`.

        Raises:
            UsageError: not two numbers with 1 <= K <= N.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--part {text}: expected K/N with K from 1 to N, such as --part 3/16")
        return cls(number=int(match[1]), total=int(match[2]))

    def owns(self, unit: int) -> bool:
        """Whether the unit with this number, from 0, belongs to this part."""
        return unit % self.total == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.total}"


class Ledger:
    """The record of one job; several processes may have it open, each for its own part."""

    def __init__(self, folder: Path, part: Part) -> None:
        self.folder = folder
        self.part = part
        self.done: dict[str, SliceRecord] = {}
        """By slice name."""
        self.set_aside: dict[str, SetAsideRecord] = {}
        """By slice name; without those that a later run could read."""
        self._lock = FileLock(folder / f"part-{part}.lock")
        self._stream: IO[bytes] | None = None
        self._appending = threading.Lock()

    @property
    def locks_supported(self) -> bool:
        """False where the disk knows no locks, so that a second process would go unnoticed."""
        return self._lock.supported

    def open(self, key: JobKey, begin: Callable[[], None] | None = None) -> None:
        """Start the job, or go on with it.

        Args:
            key: what the job is.
            begin: called when the ledger has been read, while no other process may start or finish.

        Raises:
            UsageError: the ledger belongs to another job, or another process works on it.
            OutputError: the ledger cannot be written.
        """
        self._take_part()
        try:
            with self.job_lock():
                self._require_same_job(key)
                self.reload()
                if begin is not None:
                    begin()
            path = self.folder / f"done-{self.part}.jsonl"
            with output_errors(path):
                self._stream = path.open("ab")
                sync_folder(self.folder)
                if _ends_torn(path):
                    self._stream.write(b"\n")
        except BaseException:
            self.close()
            raise

    @contextmanager
    def job_lock(self) -> Iterator[None]:
        """Only one process at a time may start or finish a job."""
        lock = FileLock(self.folder / "job.lock")
        lock.acquire(wait=True)
        try:
            yield
        finally:
            lock.release()

    def busy_parts(self) -> list[str]:
        """Parts that processes work on at this moment; not to be asked while this one does."""
        return [name for name, _ in self._parts() if self._is_busy(name)]

    def _require_same_job(self, key: JobKey) -> None:
        earlier = read_key(self.folder)
        if earlier is None:
            write_text(self.folder / _JOB_NAME, key.model_dump_json(indent=1) + "\n")
        elif differences := earlier.differences(key):
            raise UsageError(
                f"{self.folder}: the results there are of another job ({'; '.join(differences)}); choose another "
                "output with -o, or replace them with --overwrite"
            )

    def _parts(self) -> Iterator[tuple[str, int]]:
        """Name of the lock file and number of parts, of every part that was ever started."""
        for path in self.folder.glob("part-*-of-*.lock"):
            match = _PART_FILE.fullmatch(path.name)
            if match is not None:
                yield path.name, int(match[2])

    def _is_busy(self, name: str) -> bool:
        lock = FileLock(self.folder / name)
        if not lock.acquire():
            return True
        lock.release()
        return False

    def require_job(self, key: JobKey) -> None:
        """Make sure that there is something to finish, and that it is this job.

        Raises:
            UsageError: there is not, or it is another.
        """
        if read_key(self.folder) is None:
            raise UsageError(f"{self.folder}: there is no job to finish; run it first, without --finish")
        self._require_same_job(key)

    def reload(self) -> None:
        """Read what all parts have finished so far."""
        self.done.clear()
        self.set_aside.clear()
        for line in self._lines():
            self._take(line)

    def forget(self, name: str) -> None:
        """Treat a slice as not done, because its output is gone."""
        self.done.pop(name, None)

    def append(self, done: Iterable[SliceRecord], set_aside: Iterable[SetAsideRecord] = ()) -> None:
        """Record one finished unit; it is durable on return.

        Raises:
            OutputError: the line cannot be written.
        """
        assert self._stream is not None, "the ledger is not open"
        line = _Line(done=tuple(done), set_aside=tuple(set_aside))
        with self._appending, output_errors(self.folder):
            self._stream.write(line.model_dump_json(exclude_defaults=True).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._take(line)

    def close(self) -> None:
        """Let other processes have this part."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._lock.release()

    def _take(self, line: _Line) -> None:
        for record in line.done:
            self.done[record.name] = _with_measurements(record, self.done.get(record.name))
            self.set_aside.pop(record.name, None)
        for aside in line.set_aside:
            if aside.name not in self.done:
                self.set_aside[aside.name] = aside

    def _lines(self) -> Iterator[_Line]:
        for path in sorted(self.folder.glob("done-*-of-*.jsonl")):
            for text in path.read_bytes().split(b"\n"):
                line = _parse_line(text)
                if line is not None:
                    yield line

    def _take_part(self) -> None:
        if not self._lock.acquire():
            raise UsageError(
                f"{self.folder}: another matseg-run works on part {self.part} of this output at this moment; "
                "wait for it, or choose another output with -o"
            )
        for name, total in self._parts():
            if total != self.part.total and self._is_busy(name):
                self._lock.release()
                raise UsageError(
                    f"{self.folder}: another matseg-run works on this output at this moment, cut into {total} "
                    f"parts instead of {self.part.total}; wait for it, or use the same number of parts"
                )


def _with_measurements(record: SliceRecord, earlier: SliceRecord | None) -> SliceRecord:
    """A slice that was done twice keeps what was measured only once: the files of the parts have no order in time."""
    if earlier is None or earlier.identity != record.identity:
        return record
    return record.model_copy(
        update={
            "regions": record.regions or earlier.regions,
            "uncertainty": record.uncertainty or earlier.uncertainty,
        }
    )


def read_key(folder: Path) -> JobKey | None:
    """The job a ledger belongs to; None where there is no ledger.

    Raises:
        OutputError: the ledger is damaged or of another version of matseg.
    """
    path = folder / _JOB_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: the ledger of this output cannot be read: {error}") from error
    try:
        return JobKey.model_validate_json(text)
    except ValidationError as error:
        raise OutputError(
            f"{path}: the ledger of this output is damaged or of another version of matseg; start afresh with "
            "--overwrite, or choose another output with -o"
        ) from error


def _parse_line(text: bytes) -> _Line | None:
    if not text:
        return None
    try:
        return _Line.model_validate(json.loads(text))
    except (ValueError, ValidationError):
        return None  # cut short by a crash: its unit is simply done again


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size == 0:
            return False
        stream.seek(size - 1)
        return stream.read(1) != b"\n"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
