"""A folder whose disk loses power, or begins to fail, at a chosen step.

Steps are the calls that change what a reader sees: files opened for writing, synced, renamed and deleted, folders made
and deleted. What a crash leaves is decided by what was synced, not by what the page cache would have shown:

- a file has the bytes that it had when it was synced last; none when it never was
- a folder has the entries that it had when it was synced last
"""

from __future__ import annotations

import asyncio
import builtins
import enum
import io
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from zarr.core.sync import sync as zarr_sync


class PowerCut(BaseException):
    """The machine is off; nobody may handle that."""


class Loss(enum.Enum):
    """Share of the unsynced work that is lost."""

    NOTHING = "killed"
    """The process died, the machine did not."""
    EVERYTHING = "lost"
    DATA = "torn"
    """Entries of folders are there, files that were not synced are cut short: ext4 without its special cases."""


@dataclass(kw_only=True)
class CrashingDisk:
    """Watches one folder; `with disk.failing(...)` around what is to be disturbed."""

    root: Path
    fail_at: int | None = None
    """Number of the step, from 0, before which `fault` happens; None: never."""
    fault: BaseException = field(default_factory=PowerCut)
    lasting: bool = True
    """True where all later steps fail, too."""
    only: str | None = None
    """Count steps of this kind only: `open`, `sync`, `rename`, `delete`, `folder`."""
    slow: float = 0.0
    """Seconds that each sync takes."""
    steps: list[str] = field(default_factory=list)
    """Steps done, for a person."""
    _entries: dict[int, dict[str, int]] = field(default_factory=dict)
    _contents: dict[int, bytes] = field(default_factory=dict)
    _kept: list[int] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _failed: bool = False

    @contextmanager
    def failing(self) -> Iterator[CrashingDisk]:
        """Patch the calls; what is on the disk before counts as durable."""
        self._remember(self.root)
        real = {
            name: getattr(os, name)
            for name in ("open", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
        }
        patches = [
            mock.patch.object(io, "open", self._opening(io.open)),
            mock.patch.object(builtins, "open", self._opening(builtins.open)),
            mock.patch.object(os, "open", self._os_open(real["open"])),
            mock.patch.object(os, "fsync", self._fsync(real["fsync"])),
            mock.patch.object(os, "mkdir", self._step("folder", real["mkdir"])),
            mock.patch.object(os, "rmdir", self._step("folder", real["rmdir"])),
            mock.patch.object(os, "rename", self._step("rename", real["rename"])),
            mock.patch.object(os, "replace", self._step("rename", real["replace"])),
            mock.patch.object(os, "unlink", self._step("delete", real["unlink"])),
            mock.patch.object(os, "remove", self._step("delete", real["unlink"])),
        ]
        for patch in patches:
            patch.start()
        try:
            yield self
        finally:
            _let_zarr_end()
            for patch in patches:
                patch.stop()

    def crash(self, loss: Loss, seed: int = 0) -> None:
        """Leave in the folder what a crash would have left."""
        if loss is Loss.EVERYTHING:
            self._restore_everything()
        elif loss is Loss.DATA:
            dice = random.Random(seed)
            for path in sorted(self.root.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    self._tear(path, dice)
        for descriptor in self._kept:
            os.close(descriptor)
        self._kept.clear()

    def _tear(self, path: Path, dice: random.Random) -> None:
        now, synced = path.read_bytes(), self._contents.get(path.stat().st_ino, b"")
        if now != synced:
            keep = dice.randrange(len(now) + 1) if now.startswith(synced) else 0
            path.write_bytes(now[: max(keep, len(synced))] if now.startswith(synced) else synced)

    def _restore_everything(self) -> None:
        away = self.root.with_name(f"{self.root.name}.before")
        inode = self.root.stat().st_ino
        self.root.rename(away)
        self._rebuild(inode, self.root)
        shutil.rmtree(away)

    def _rebuild(self, inode: int, path: Path) -> None:
        if inode in self._entries or inode not in self._contents:
            if inode not in self._entries and inode not in self._made_folders:
                path.write_bytes(b"")
                return
            path.mkdir()
            for name, child in self._entries.get(inode, {}).items():
                self._rebuild(child, path / name)
        else:
            path.write_bytes(self._contents[inode])

    _made_folders: set[int] = field(default_factory=set)

    def _remember(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._made_folders.add(inode)
            self._entries[inode] = {child.name: child.stat().st_ino for child in path.iterdir()}
            for child in path.iterdir():
                self._remember(child)
        else:
            self._contents[inode] = path.read_bytes()

    def _before(self, kind: str, path: object, folder: int | None = None) -> bool:
        """Count a step, and fail when it is time; False where it is none of ours."""
        where = _absolute(path, folder)
        if where is None or not where.is_relative_to(self.root):
            return False
        with self._lock:
            if self._failed and self.lasting:
                raise self.fault
            if self.only is None or self.only == kind:
                number = len(self.steps)
                self.steps.append(f"{kind} {where.relative_to(self.root)}")
                if number == self.fail_at:
                    self._failed = True
                    raise self.fault
        return True

    def _step(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            ours = self._before(kind, path, kwargs.get("dir_fd"))
            result = real(path, *args, **kwargs)
            if ours and kind == "folder" and real.__name__ == "mkdir":
                self._made_folders.add(Path(path).stat().st_ino)
            return result

        return call

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not isinstance(file, int) and set(mode) & set("wax+"):
                self._before("open", file)
            return real(file, mode, *args, **kwargs)

        return call

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self._before("open", path, kwargs.get("dir_fd"))
            return real(path, flags, *args, **kwargs)

        return call

    def _fsync(self, real: Callable[[int], None]) -> Callable[[Any], None]:
        def call(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not self._before("sync", path):
                return real(descriptor)
            if self.slow:
                threading.Event().wait(self.slow)
            with self._lock:
                self._kept.append(os.dup(descriptor))  # so that its inode is given to no other file
                inode = os.fstat(descriptor).st_ino
                if path.is_dir():
                    self._made_folders.add(inode)
                    self._entries[inode] = {child.name: child.lstat().st_ino for child in path.iterdir()}
                else:
                    self._contents[inode] = path.read_bytes()
            return None

        return call


def _let_zarr_end() -> None:
    """Work that zarr does at once goes on when one of it fails, and nothing may write to a disk that has no power."""

    async def others() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            _, running = await asyncio.wait(tasks, timeout=60)
            assert not running, running

    zarr_sync(others())


def _absolute(path: object, folder: int | None) -> Path | None:
    if isinstance(path, int):
        return Path(f"/proc/self/fd/{path}").readlink()
    found = Path(os.fsdecode(path))  # type: ignore[arg-type]
    if folder is not None:
        found = Path(f"/proc/self/fd/{folder}").readlink() / found
    return found.absolute()
