"""Every error a user can meet, in one tree; each class knows the exit code its command ends with.

```
MatsegError                1
├── UsageError             2   what was asked for, or handed in, is wrong
│   ├── ConfigError            a configuration, with all its problems
│   ├── DatasetError           a data set's layout or content
│   ├── ImageError             one image file
│   └── ModelError             one model or checkpoint file
│       └── MetadataError      its metadata document, with all its problems
├── UnsupportedError       3   this machine or installation cannot do it
│   ├── MissingExtraError      a package of an extra is not installed
│   └── ProviderError          an execution provider cannot be had
├── OutputError            1   results cannot be written
└── ExportError            1   an export failed its own checks
```
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matseg_shared.installation import install_command

if TYPE_CHECKING:
    from pydantic import ValidationError  # whose import takes longer than a command that only fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a document."""

    where: str
    """The place, as a dotted path: `tomography.v1.batch_size`."""
    message: str
    """The expected and the found, for a person."""
    kind: str
    """A word that a program can branch on: `missing`, `unknown_key`, `wrong_type`, ..."""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class MatsegError(Exception):
    """Base of all errors that MatSeg raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # exceptions are rebuilt by calling the class with `args`, which hold the finished message only
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[MatsegError], args: tuple[object, ...], state: dict[str, object]) -> MatsegError:
    """An error that came from another process."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(MatsegError):
    """Something that was asked for, or handed in, is wrong."""

    exit_code = 2


class _ProblemsError(UsageError):
    """An error that carries every problem of a document at once."""

    def __init__(self, summary: str, problems: Iterable[Problem] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([summary, *(f"  - {problem}" for problem in self.problems)]))


class ConfigError(_ProblemsError):
    """A configuration that cannot be used; `problems` lists everything wrong with it."""


class DatasetError(UsageError):
    """A data set whose layout or content cannot be used."""


class ImageError(UsageError):
    """One image file that cannot be read as what it should be; `path` names it."""

    def __init__(self, path: Path | str, message: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {message}")


class ModelError(UsageError):
    """A model or checkpoint file that cannot be used."""


class MetadataError(_ProblemsError, ModelError):
    """A model's metadata document that cannot be used; `problems` lists everything wrong with it."""


class UnsupportedError(MatsegError):
    """This machine, or this installation, cannot do what was asked for."""

    exit_code = 3


class MissingExtraError(UnsupportedError):
    """A package of one of the distribution's extras is not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        self.extra = extra
        super().__init__(f"{purpose} needs the extra `{extra}`: {install_command(extra)}")


class ProviderError(UnsupportedError):
    """An onnxruntime execution provider that cannot be had here."""


class OutputError(MatsegError):
    """Results cannot be written; nothing is left half written under its final name."""


class ExportError(MatsegError):
    """An export that failed its own checks; no file was written."""


def problems_of(error: ValidationError) -> tuple[Problem, ...]:
    """Every problem of a pydantic error, with its place.

    A sequence whose items are wrong is not reported once more as too short for lack of right ones.
    """
    problems = [
        Problem(
            where=".".join(str(part) for part in item["loc"]),
            message=item["msg"].removeprefix("Value error, "),
            kind=item["type"],
        )
        for item in error.errors(include_url=False, include_context=False)
    ]
    return tuple(
        problem
        for problem in problems
        if problem.kind != "too_short"
        or not any(item.where.startswith(f"{problem.where}.") for item in problems)
    )
