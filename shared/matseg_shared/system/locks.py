"""Locks that the operating system drops when their holder dies, so that `kill -9` leaves none behind."""

from __future__ import annotations

import errno
from pathlib import Path

import filelock

from matseg_shared.system.files import make_folder, output_errors

_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_POLL_SECONDS = 0.01


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.supported = True
        """False once the disk has turned out to know no locks; then every attempt succeeds."""
        # a soft lock would outlive its holder, and a file that is deleted could be locked twice
        self._lock = filelock.FileLock(
            path,
            thread_local=False,
            poll_interval=_POLL_SECONDS,
            fallback_to_soft=False,
            preserve_lock_file=True,
        )

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; False when another process holds it and we do not `wait`.

        Raises:
            OutputError: the lock file cannot be created.
        """
        with output_errors(self.path):
            make_folder(self.path.parent)
            try:
                self._lock.acquire(blocking=wait)
            except filelock.Timeout:
                return False
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                self.supported = False
        return True

    def release(self) -> None:
        """Let others have it; harmless when it is not held."""
        self._lock.release(force=True)
