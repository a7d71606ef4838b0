"""A folder into which images are still being written: each becomes a slice once it is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matseg_runtime.source.base import InputIdentity, PixelArray, Skipped, Slice, Source
from matseg_runtime.source.folder import file_identity, read_any_dtype, skip_reason
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images import list_images
from matseg_shared.names import name_problem

POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """When to stop waiting for more images; Ctrl-C always does."""

    until: int | None = None
    """Slices in all, those of earlier runs included."""
    idle_seconds: float | None = None
    """Without a new slice."""
    poll_seconds: float = POLL_SECONDS


class WatchSource(Source):
    """Images in the order in which they become whole; `slices` grows.

    An image is whole when its size and time of change have stayed the same between two looks and it can be decoded.
    One that cannot is looked at again when it changes.
    """

    def __init__(self, folder: Path, options: WatchOptions) -> None:
        """Start watching; nothing has to be there yet.

        Raises:
            UsageError: no such folder.
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: expected a folder to watch; make it before images are written there")
        self._folder = folder
        self._options = options
        self._seen: dict[Path, str] = {}
        self._damaged: dict[Path, str] = {}
        self._stems: dict[str, Path] = {}
        self._stopped = threading.Event()
        self.location = str(folder)
        self.beside = folder.absolute()
        self.identity = InputIdentity(kind="folder", name=self.beside.name, content="")
        self.slices = ()
        self._paths: list[Path] = []

    def arrivals(self, known: int = 0) -> Iterator[Slice]:
        """Slices from number `known` on, as they become whole; ends as the options say, or after `stop`.

        Images that are still not whole after the idle time are handed out in the end, so that they are set aside.
        """
        last = time.monotonic()
        while True:
            for item in self.slices[known:]:
                if self._enough(item.index):
                    return
                known += 1
                last = time.monotonic()
                yield item
            if self._stopped.is_set() or self._enough(known):
                return
            idle = self._options.idle_seconds
            if idle is not None and time.monotonic() - last >= idle:
                yield from self._take_damaged()
                return
            if not self._poll():
                self._stopped.wait(self._options.poll_seconds)

    def stop(self) -> None:
        """Hand out nothing more; may be called from any thread."""
        self._stopped.set()

    def wait_for_first(self) -> None:
        """Return when there is a slice to look at.

        Raises:
            UsageError: none came within the idle time.
        """
        if next(self.arrivals(), None) is None:
            raise UsageError(f"{self.location}: no whole image has been written there so far")

    def read(self, start: int, stop: int) -> Sequence[PixelArray]:
        return [read_any_dtype(path) for path in self._paths[start:stop]]

    def current_identity(self, index: int) -> str:
        return file_identity(self._paths[index])

    def _enough(self, count: int) -> bool:
        return self._options.until is not None and count >= self._options.until

    def _poll(self) -> bool:
        """Look once; whether any image has become whole."""
        images, others = list_images(self._folder)
        self.skipped = tuple(
            [Skipped(path=path, reason=skip_reason(path)) for path in others]
            + [entry for entry in self.skipped if entry.path in set(images)]
        )
        found = False
        for path in images:
            if path in self._seen and self._seen[path] == "":
                continue
            found = self._look_at(path) or found
        return found

    def _look_at(self, path: Path) -> bool:
        try:
            identity = file_identity(path)
        except ImageError:
            return False  # renamed between listing and looking: it comes back under its final name
        before, self._seen[path] = self._seen.get(path), identity
        if before != identity or self._damaged.get(path) == identity:
            return False
        try:
            read_any_dtype(path)
        except ImageError:
            self._damaged[path] = identity
            return False
        return self._take(path, identity)

    def _take(self, path: Path, identity: str) -> bool:
        self._seen[path] = ""
        self._damaged.pop(path, None)
        if (reason := self._no_name(path)) is not None:
            self.skipped = (*self.skipped, Skipped(path=path, reason=reason))
            return False
        self._paths.append(path)
        item = Slice(index=len(self.slices), name=path.stem, where=str(path), identity=identity)
        self.slices = (*self.slices, item)
        return True

    def _no_name(self, path: Path) -> str | None:
        """Why labels cannot have this image's name."""
        if (problem := name_problem(path.stem)) is not None:
            return f"labels cannot have its name, because {problem}"
        other = self._stems.setdefault(path.stem.casefold(), path)
        return None if other == path else f"{other.name} has the same name and came first"

    def _take_damaged(self) -> Iterator[Slice]:
        for path, identity in list(self._damaged.items()):
            if self._take(path, identity):
                yield self.slices[-1]
