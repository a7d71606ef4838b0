"""One holder at a time, and none once its process is gone."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from matseg_shared.errors import OutputError
from matseg_shared.system.locks import FileLock

HOLD = """
import sys, time
from pathlib import Path
from matseg_shared.system.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_holder_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "job.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        lock = FileLock(path)
        assert not lock.acquire()
        holder.kill()
    assert path.exists()
    assert lock.acquire()
    assert lock.supported
    lock.release()
    lock.release()
    assert path.exists()


def test_waiting_ends_when_another_thread_lets_go(tmp_path: Path) -> None:
    """Also where the lock is released by another thread than the one that took it."""
    first, second = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    assert first.acquire()
    assert not second.acquire()
    threading.Timer(0.1, first.release).start()
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(second.acquire(wait=True)))
    waiting.start()
    waiting.join(10)
    assert taken == [True]
    assert not first.acquire()
    second.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = FileLock(tmp_path / "a.lock")
    assert lock.acquire()
    assert not lock.supported
    lock.release()


def test_a_lock_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"a\.lock: cannot be written"):
        FileLock(tmp_path / "file" / "a.lock").acquire()
