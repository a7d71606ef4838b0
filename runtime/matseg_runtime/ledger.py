"""Record of what is done, on disk: run again after a crash and only the rest is worked on.

```
<ledger>/job.json              what the job is: model, input, settings; a run that differs is refused
<ledger>/done-1-of-1.jsonl     one line per finished block, appended after its bytes are durable
<ledger>/part-1-of-1.lock      held while a process works on that part
```

A process that is killed while it appends leaves a line without an end; such a line counts for nothing. Lines carry
the number of the opening that wrote them, so that the files of several parts have one order whatever clocks say: a
slice whose output was lost is not done, until a later line says that it was done again.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import AliasChoices, Field, ValidationError

from matseg_runtime.records import ExcludedSlice, JobKey, Record, SliceRecord
from matseg_shared.errors import OutputError, UsageError
from matseg_shared.system.files import output_errors, remove, sync_folder, write_text
from matseg_shared.system.locks import FileLock

_JOB_NAME = "job.json"
_LOCK_SUFFIX = ".lock"
_PART_FILE = re.compile(r"part-(\d+)-of-(\d+)\.lock")


class _Line(Record):
    turn: int = 0
    """More than that of every line that stood in the ledger when the process that wrote it began."""
    lost: tuple[str, ...] = ()
    """Slices that earlier lines call done, and whose output is no longer there, or no longer that of their image."""
    done: tuple[SliceRecord, ...] = ()
    excluded: tuple[ExcludedSlice, ...] = Field(
        default=(), validation_alias=AliasChoices("excluded", "set_aside")
    )
    """Called `set_aside` by earlier versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Share of the blocks that this process works on: every `total`-th, starting with the `number`-th."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `K/N`, or raise a UsageError."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--part {text}: expected K/N with K from 1 to N, such as --part 3/16")
        return cls(number=int(match[1]), total=int(match[2]))

    def owns(self, block: int) -> bool:
        """True where the block with this number, from 0, belongs to this part."""
        return block % self.total == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.total}"


class Ledger:
    """The record of one job; several processes may have it open, each for its own part.

    ```
    with ledger.exclusive():          # this process's part is nobody else's until the block ends
        with ledger.job_lock():       # no other process starts or finishes meanwhile
            ledger.take_part()
            others = ledger.start(key)
            ...                       # make the output ready
        ledger.append(...)
    ```
    """

    def __init__(self, folder: Path, part: Part) -> None:
        self.folder = folder
        self.part = part
        self.done: dict[str, SliceRecord] = {}
        """By slice name."""
        self.excluded: dict[str, ExcludedSlice] = {}
        """By slice name; without those that a later run could read."""
        self.is_new = False
        """True where `start` started the job, so that nothing that lies around belongs to it."""
        self.labelled: set[str] = set()
        """Names of the slices that this process has labelled, and neither an earlier one nor another part."""
        self._lock = FileLock(folder / f"part-{part}.lock")
        self._has_part = False
        self._stream: IO[bytes] | None = None
        self._appending = threading.Lock()
        self._turn = 0
        self._torn = False

    @property
    def locks_supported(self) -> bool:
        """False where the disk knows no locks, so that a second process would go unnoticed."""
        return self._lock.supported

    @contextmanager
    def job_lock(self) -> Iterator[None]:
        """Only one process at a time may start or finish a job; one that fails at it works on no part any more."""
        lock = FileLock(self.folder / "job.lock")
        lock.acquire(wait=True)
        try:
            yield
        except BaseException:
            self._leave()  # before the job's lock: who is refused is not to be taken for one at work
            raise
        finally:
            lock.release()

    def _leave(self) -> None:
        stream, self._stream = self._stream, None
        try:
            if stream is not None:
                with output_errors(self.folder):
                    stream.close()
        finally:
            self._lock.release()
            self._has_part = False

    @contextmanager
    def exclusive(self) -> Iterator[Ledger]:
        """Let other processes have this part at the end of the block, however it ends."""
        try:
            yield self
        finally:
            self._leave()

    def take_part(self) -> None:
        """Make this part ours, under the job's lock; a UsageError where others work on it, or with other parts."""
        if not self._lock.acquire():
            raise UsageError(
                f"{self.folder}: another matseg-run works on part {self.part} of this output at this moment; "
                "wait for it, or choose another output with -o"
            )
        self._has_part = True
        for name, total in self._parts():
            if total != self.part.total and self._is_busy(name):
                raise UsageError(
                    f"{self.folder}: another matseg-run works on this output at this moment, cut into {total} "
                    f"parts instead of {self.part.total}; wait for it, or use the same number of parts"
                )

    def has_job(self, key: JobKey) -> bool:
        """True where this is the ledger of that job, False where there is none yet.

        Raises:
            UsageError: it is another job's; names what differs.
            OutputError: the ledger is damaged or of another version of matseg.
        """
        earlier = read_key(self.folder)
        if earlier is not None and (differences := earlier.differences(key)):
            raise UsageError(
                f"{self.folder}: the results there are of another job ({'; '.join(differences)}); choose another "
                "output with -o, or replace them with --overwrite"
            )
        return earlier is not None

    def start(self, key: JobKey) -> list[str]:
        """Start the job, or go on with it; under the job's lock, after `take_part`.

        Returns:
            The parts that other processes work on. They may have ended since; what the ended ones did has been read.

        Raises:
            UsageError: the ledger belongs to another job.
            OutputError: the ledger cannot be written.
        """
        self.is_new = not self.has_job(key)
        # before the ledger is read: a part that ends in between would be neither at work nor have done anything
        others = self.others_at_work()
        if self.is_new:
            if others:
                raise UsageError(
                    f"{self.folder / _JOB_NAME}: is gone while other processes work on this output "
                    f"({', '.join(others)}); stop them, then run again"
                )
            with output_errors(self.folder):
                # left by a process that died while it deleted them: they belong to nobody
                for path in (left := self._blocks()):
                    path.unlink()
                if left:
                    sync_folder(self.folder)
        path = self.folder / f"done-{self.part}.jsonl"
        with output_errors(path):
            # without a buffer: what a full disk refused must not be tried again when the file is closed
            self._stream = path.open("a+b", buffering=0)
            if not self.is_new:
                sync_folder(self.folder)
            if self._stream.tell():
                self._stream.seek(-1, os.SEEK_END)
                self._torn = self._stream.read(1) != b"\n"
        if self.is_new:  # makes the other file durable, too
            write_text(self.folder / _JOB_NAME, key.model_dump_json(indent=1) + "\n")
        self.reload()
        return others

    def require_alone(self) -> None:
        """Refuse with a UsageError to replace what others work on; under the job's lock, after `take_part`."""
        if busy := self.others_at_work():
            raise UsageError(
                f"{self.folder}: another matseg-run works on this output at this moment ({', '.join(busy)}), which "
                "cannot be replaced under its hands; wait for it, or choose another output with -o"
            )

    def clear(self) -> None:
        """Forget the job, once its results are deleted: killed in between, what is missing is found missing."""
        with output_errors(self.folder):
            # the job before its blocks: blocks without a job count for nothing, blocks of another job would
            (self.folder / _JOB_NAME).unlink(missing_ok=True)
            sync_folder(self.folder)
            for path in self.folder.iterdir():
                if path.suffix != _LOCK_SUFFIX:  # others may wait for those
                    remove(path)

    def others_at_work(self) -> list[str]:
        """Parts that other processes work on; under the job's lock, because asking takes theirs for a moment."""
        own = self._lock.path.name if self._has_part else None
        return [name for name, _ in self._parts() if name != own and self._is_busy(name)]

    def _parts(self) -> Iterator[tuple[str, int]]:
        """Name of the lock file and number of parts, of every part that was ever started."""
        for path in self.folder.glob("part-*-of-*.lock"):
            match = _PART_FILE.fullmatch(path.name)
            if match is not None:
                yield path.name, int(match[2])

    def _is_busy(self, name: str) -> bool:
        lock = FileLock(self.folder / name)
        is_free = lock.acquire()
        if is_free:
            lock.release()
        return not is_free

    def _blocks(self) -> list[Path]:
        return sorted(self.folder.glob("done-*-of-*.jsonl"))

    def reload(self) -> None:
        """Read what all parts have finished so far."""
        self.done.clear()
        self.excluded.clear()
        lines = list(self._lines())
        self._turn = max([line.turn + 1 for line in lines], default=0)
        for line in sorted(lines, key=lambda line: line.turn):
            self._take(line)

    def lose(self, names: Sequence[str]) -> None:
        """Record that the outputs of slices are gone, so that no later run takes them for done."""
        if names:
            self._append(_Line(turn=self._turn, lost=tuple(names)))

    def append(self, done: Iterable[SliceRecord], excluded: Iterable[ExcludedSlice] = ()) -> None:
        """Record one finished block, durably, or raise an OutputError."""
        line = _Line(turn=self._turn, done=tuple(done), excluded=tuple(excluded))
        news = self.unknown(line.done)
        self._append(line)
        self.labelled.update(news)

    def unknown(self, records: Iterable[SliceRecord]) -> list[str]:
        """Names of slices that were not labelled yet, or from another image."""
        return [
            record.name
            for record in records
            if (before := self.done.get(record.name)) is None or before.identity != record.identity
        ]

    def withdraw(self, name: str) -> None:
        """Record that a slice is not labelled any more, nor excluded: it is to be read again."""
        self.excluded.pop(name, None)
        if name in self.done:
            self.lose([name])

    def _append(self, line: _Line) -> None:
        assert self._stream is not None, "the ledger is not open"
        text = line.model_dump_json(exclude_none=True).encode() + b"\n"
        with self._appending, output_errors(self.folder):
            if self._torn:  # by a process that was killed, or by a disk that took only half of a line
                text = b"\n" + text
            self._torn = True
            while text:
                text = text[self._stream.write(text) :]
            self._torn = False
            os.fsync(self._stream.fileno())
            self._take(line)

    def _take(self, line: _Line) -> None:
        for name in line.lost:
            self.done.pop(name, None)
        for record in line.done:
            self.done[record.name] = _with_measurements(record, self.done.get(record.name))
            self.excluded.pop(record.name, None)
        for excluded in line.excluded:
            if excluded.name not in self.done:
                self.excluded[excluded.name] = excluded

    def _lines(self) -> Iterator[_Line]:
        for path in self._blocks():
            try:
                content = path.read_bytes()
            except OSError as error:
                raise OutputError(
                    f"{path}: the ledger of this output cannot be read: {error.strerror or error}; mend that disk or "
                    "its permissions, or choose another output with -o"
                ) from error
            for text in filter(None, content.split(b"\n")):
                try:
                    yield _Line.model_validate(json.loads(text))
                except (ValueError, RecursionError):  # cut short by a crash: its block is simply done again
                    continue


def _with_measurements(record: SliceRecord, earlier: SliceRecord | None) -> SliceRecord:
    """A slice that was done twice keeps what was measured only once: the files of the parts have no order in time."""
    if earlier is None or earlier.identity != record.identity:
        return record
    both = {name: getattr(record, name) or getattr(earlier, name) for name in ("regions", "uncertainty")}
    return record.model_copy(update=both)


def read_key(folder: Path) -> JobKey | None:
    """The job of a ledger; None where there is none, an OutputError where it is damaged or of another version."""
    path = folder / _JOB_NAME
    try:
        return JobKey.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise OutputError(
            f"{path}: the ledger of this output is damaged or of another version of matseg; start afresh with "
            "--overwrite, or choose another output with -o"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: the ledger of this output cannot be read: {error}") from error
