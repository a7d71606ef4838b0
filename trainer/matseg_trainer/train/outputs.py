"""The files of a training: checkpoint, resume state, log and plot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from matseg_shared.errors import UsageError
from matseg_shared.system.files import TEMPORARY_PREFIX, make_folder, output_errors
from matseg_shared.system.locks import FileLock
from matseg_trainer.workspace import Workspace


class Outputs:
    """Files in which a training of one version leaves its results, in the guide's folders of a workspace."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.checkpoint = workspace.saved / f"{name}.pth"
        self.resume = workspace.saved / f"{name}.resume.pth"
        """The state after the last finished epoch; removed when the training is complete."""
        self.log = workspace.log / f"{name}.jsonl"
        self.plot = workspace.plots / f"{name}.png"
        self.lock = workspace.log / f".{name}.lock"
        """Held while a process trains this version."""

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
