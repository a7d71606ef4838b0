"""The files of a training: checkpoint, resume state, log and plot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matseg_shared.errors import UsageError
from matseg_shared.system.files import TEMPORARY_PREFIX, make_folder, output_errors
from matseg_shared.system.locks import FileLock
from matseg_trainer.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Files in which a training of one version leaves its results."""

    checkpoint: Path
    resume: Path
    """The state after the last finished epoch; removed when the training is complete."""
    log: Path
    plot: Path
    lock: Path
    """Held while a process trains this version."""

    @classmethod
    def of(cls, workspace: Workspace, name: str) -> Outputs:
        """The guide's folders, in a workspace."""
        return cls(
            checkpoint=workspace.saved / f"{name}.pth",
            resume=workspace.saved / f"{name}.resume.pth",
            log=workspace.log / f"{name}.jsonl",
            plot=workspace.plots / f"{name}.png",
            lock=workspace.log / f".{name}.lock",
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from training this version, with its results going to the same files.

        Raises:
            UsageError: one does.
            OutputError: the lock cannot be written.
        """
        lock = FileLock(self.lock)
        if not lock.acquire():
            raise UsageError(
                f"{self.log}: another matseg-train works on this version at this moment; wait for it, or train under "
                "another name of config.toml"
            )
        try:
            yield
        finally:
            lock.release()

    def require_free(self, *, resume: bool, overwrite: bool, save: bool) -> None:
        """Refuse to lose an earlier result; one that is to be replaced stays until the first epoch is done.

        Raises:
            UsageError: there is one and neither `resume` nor `overwrite` was given, or there is nothing to resume.
        """
        if resume and not self.resume.exists():
            finished = f"; {self.checkpoint} is complete" if self.checkpoint.exists() else ""
            raise UsageError(f"{self.resume}: there is no interrupted training to resume{finished}")
        wanted = (self.checkpoint, self.resume, self.log) if save else (self.log,)
        existing = [path for path in wanted if path.exists()]
        if existing and not (resume or overwrite):
            hint = "--resume to go on with it, or --overwrite" if self.resume.exists() else "--overwrite"
            raise UsageError(
                f"{existing[0]}: an earlier result of this version exists; give {hint} to replace it"
            )

    def require_writable(self, *, save: bool) -> None:
        """Refuse folders in which no result could be written, before a training has cost any time.

        Raises:
            OutputError: nothing can be written in one.
        """
        for path in (self.checkpoint, self.log, self.plot) if save else (self.log, self.plot):
            with output_errors(path):
                make_folder(path.parent)
                tempfile.TemporaryFile(prefix=TEMPORARY_PREFIX, dir=path.parent).close()
