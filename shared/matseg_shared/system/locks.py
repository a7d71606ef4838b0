"""Locks that the operating system drops when their holder dies, so that `kill -9` leaves none behind."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from matseg_shared.system.files import make_folder, output_errors

_HELD_BY_ANOTHER = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.supported = True
        """False once the disk has turned out to know no locks; then every attempt succeeds."""
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; False when another process holds it and we do not `wait`.

        Raises:
            OutputError: the lock file cannot be created.
        """
        with output_errors(self.path):
            make_folder(self.path.parent)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                taken = self._lock(descriptor, wait)
            except BaseException:
                os.close(descriptor)
                raise
        if not taken:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others have it; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int, wait: bool) -> bool:
        try:
            _lock_descriptor(descriptor, wait)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                return False
            if error.errno not in _WITHOUT_LOCKS:
                raise
            self.supported = False
        return True


def _lock_descriptor(descriptor: int, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if wait and error.errno == errno.EDEADLK:  # what it calls ten seconds without success
                    continue
                raise
            return
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
