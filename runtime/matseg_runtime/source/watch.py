"""A folder into which images are still being written: each becomes a slice once it is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matseg_runtime.source.base import InputIdentity, Skipped, Slice, Source, file_identity, neighbours_digest
from matseg_runtime.source.folder import skip_reason
from matseg_runtime.source.order import around, by_place, consecutive_runs
from matseg_runtime.source.sem_tags import picture_bar
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import ChannelChoice
from matseg_shared.images.read import PixelArray, list_images, read_any_dtype
from matseg_shared.system import interruption
from matseg_shared.system.names import name_problem

POLL_SECONDS = 0.25
_WAIT_PER_LOOK = 9
"""Times as long as looking takes, the wait before the next look lasts at least: a folder of ten thousand images is not
to cost the network its cores."""

_GONE = "gone"
_IN_FLIGHT_SECONDS = 0.05

Outcome = Callable[[Slice], str | None]
"""The identity of the file that a slice's label was made from; "" when it was excluded, None while it is in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """End of waiting for more images; Ctrl-C always ends it."""

    until: int | None = None
    """Slices in all, those of earlier runs included."""
    idle_seconds: float | None = None
    """Without a new slice."""
    poll_seconds: float = POLL_SECONDS


class WatchSource(Source):
    """Images in the order in which they become whole; `slices` grows.

    An image is whole when its size and time of change have stayed the same between two looks and it can be decoded.
    One that cannot is looked at again when it changes; so is one that was handed out already, because a writer that
    reserves the space of a file first leaves an image that looks whole before it is.

    For a model with context a slice waits until as many follow it as the model sees below it, or waiting has ended;
    when it has other neighbours afterwards, it is handed out again.
    """

    def __init__(
        self, folder: Path, options: WatchOptions, channels: ChannelChoice = (), context: int = 0
    ) -> None:
        """Start watching a folder, in which nothing has to be yet; a UsageError where there is no such folder."""
        if not folder.is_dir():
            raise UsageError(f"{folder}: expected a folder to watch; make it before images are written there")
        self._folder = folder
        self._options, self._channels, self._context = options, channels, context
        self._seen: dict[Path, str] = {}
        """Identity at the last look."""
        self._damaged: dict[Path, str] = {}
        self._stems: dict[str, Path] = {}
        self._numbers: dict[Path, int] = {}
        """Numbers of the images that became slices."""
        self._refused: set[Path] = set()
        """Their names are others' already."""
        self._stopped = threading.Event()
        self.location = str(folder)
        self.beside = folder.absolute()
        self.identity = InputIdentity(kind="folder", name=self.beside.name, content="")
        self.slices: list[Slice] = []
        self._version = 0
        """Counts the images that have come and gone."""
        self._runs: tuple[int, dict[int, tuple[list[int], int]]] = -1, {}
        """Run of consecutive images, by the numbers in their names, that each is in that was there at a version."""

    def arrivals(self, outcome: Outcome | None = None) -> Iterator[Slice]:
        """Slices as they become whole, again when they change; ends as the options say, or after `stop`.

        Images that are still not whole after the idle time are handed out in the end, so that they are excluded.

        Args:
            outcome: asked for what has become of a slice handed out earlier, which is not handed out again while it is
                in flight; None: every slice once.
        """
        own = self._arrivals(outcome)
        return own if outcome is None or not self._context else self._with_neighbours(own, outcome)

    def _with_neighbours(self, own: Iterator[Slice], outcome: Outcome) -> Iterator[Slice]:
        """Slices whose neighbours are there, of those that have become whole; in the end all of these."""
        handed: dict[int, str] = {}  # what each was seen with
        whole: set[int] = set()
        for item in own:
            whole.add(item.index)
            for place in self._waiting_for(item.index):
                in_flight = place in handed and outcome(self.slices[place]) is None
                if place in whole and not in_flight and handed.get(place) != (seen := self._seen_with(place)):
                    handed[place] = seen
                    yield self.slices[place]
        for place in sorted(whole):
            if self.slices[place].identity == _GONE or handed.get(place) == self._seen_with(place):
                continue
            while place in handed and outcome(self.slices[place]) is None:
                time.sleep(_IN_FLIGHT_SECONDS)  # it is being labelled with its neighbours of before
            yield self.slices[place]

    def _arrivals(self, outcome: Outcome | None) -> Iterator[Slice]:
        """As `arrivals`, of single images."""
        known, last = 0, time.monotonic()
        while True:
            for item in self.slices[known:]:
                if self._enough(item.index) or self._stopped.is_set():
                    return
                known += 1
                yield item
                # not before: a slow disk or network holds this up, and is no idleness
                last = time.monotonic()
            if self._stopped.is_set() or self._enough(known) or interruption.is_pending():
                return
            idle = self._options.idle_seconds
            started = time.monotonic()
            seen, is_new = len(self._seen), False
            again = self._poll(outcome)
            looking = time.monotonic() - started
            yield from again
            if again or len(self._seen) > seen:  # it takes a second look to know what came
                last, is_new = time.monotonic(), True
            if len(self.slices) > known:
                continue
            # only a look that found nothing ends the wait: on a slow disk the one before may have been long ago
            if idle is not None and not is_new and started - last >= idle:
                yield from self._take_damaged(outcome)
                return
            wait = max(self._options.poll_seconds, _WAIT_PER_LOOK * looking)
            self._stopped.wait(wait if idle is None else min(wait, max(idle / 2, self._options.poll_seconds)))

    def stop(self) -> bool:
        """End waiting: only slices that have waited for their neighbours are handed out yet; from any thread. True."""
        self._stopped.set()
        return True

    def wait_for_first(self) -> None:
        """Return when there is a slice to look at; a UsageError where none came within the idle time."""
        first = next(self.arrivals(), None)
        interruption.check()
        if first is None:
            raise UsageError(f"{self.location}: no whole image has been written there so far")

    def read(self, start: int, stop: int) -> Sequence[PixelArray]:
        return [read_any_dtype(Path(item.where), self._channels) for item in self.slices[start:stop]]

    def current_identity(self, index: int) -> str:
        return file_identity(Path(self.slices[index].where))

    def neighbours(self, index: int, context: int) -> tuple[Slice, ...]:
        run, position = self._current_runs().get(index, ([index], 0))
        return tuple(self.slices[place] for place in around(run, position, context))

    def _seen_with(self, place: int) -> str:
        return neighbours_digest(self.neighbours(place, self._context))

    def _waiting_for(self, place: int) -> list[int]:
        """Slices that may be handed out, or again, now that one has come."""
        places, context = list(self._current_runs()), self._context
        if place not in places:
            return []
        position, last = places.index(place), len(places) - context
        return places[max(position - context, 0) : min(position + context + 1, max(last, 0))]

    def _current_runs(self) -> dict[int, tuple[list[int], int]]:
        (known, found), version = self._runs, self._version
        if known != version:
            there = [item.index for item in self.slices if item.identity != _GONE]
            runs = consecutive_runs([self.slices[place].name for place in there])
            found = by_place([[there[place] for place in run] for run in runs])
            self._runs = version, found
        return found

    def data_bar(self, index: int) -> int | None:
        return picture_bar(Path(self.slices[index].where), self.slices[index].identity)

    def _enough(self, count: int) -> bool:
        return self._options.until is not None and count >= self._options.until

    def _poll(self, outcome: Outcome | None) -> list[Slice]:
        """Look once, for new slices and, with `outcome`, for those that are to be handed out again."""
        images, others = list_images(self._folder)
        present = set(images)
        self.skipped = tuple(
            [Skipped(path=path, reason=skip_reason(path)) for path in others]
            + [entry for entry in self.skipped if entry.path in present]
        )
        for path in self._damaged.keys() - present:
            del self._damaged[path]
        # a file that comes back is another file, even when it looks the same
        for path in self._numbers.keys() - present:
            if self.slices[self._numbers[path]].identity != _GONE:
                self._renew(path, _GONE)
        again = []
        for path in images:
            if path in self._refused or (identity := self._settled(path)) is None:
                continue
            if path not in self._numbers:
                if self._decodable(path, identity):
                    self._take(path, identity)
            elif self._is_stale(path, identity, outcome) and self._decodable(path, identity):
                again.append(self._renew(path, identity))
        return again

    def _is_stale(self, path: Path, identity: str, outcome: Outcome | None) -> bool:
        """True for an image that is other than what became of it."""
        item = self.slices[self._numbers[path]]
        labelled = None if outcome is None else outcome(item)
        return labelled is not None and identity != (labelled or item.identity)

    def _settled(self, path: Path) -> str | None:
        """The identity of a file that has stayed the same since the last look."""
        try:
            identity = file_identity(path)
        except ImageError:
            return None  # renamed between listing and looking: it comes back under its final name
        before, self._seen[path] = self._seen.get(path), identity
        return identity if before == identity else None

    def _decodable(self, path: Path, identity: str) -> bool:
        if self._damaged.get(path) == identity:
            return False
        try:
            read_any_dtype(path, self._channels)
        except ImageError:
            self._damaged[path] = identity
            return False
        self._damaged.pop(path, None)
        return True

    def _take(self, path: Path, identity: str) -> Slice | None:
        """Make an image the next slice; None when labels cannot have its name."""
        reason = None
        if (problem := name_problem(path.stem)) is not None:
            reason = f"labels cannot have its name, because {problem}"
        elif (other := self._stems.setdefault(path.stem.casefold(), path)) != path:
            reason = f"{other.name} has the same name and came first"
        elif self._context and not any(mark.isdecimal() for mark in path.stem):
            reason = "it has no number, by which its neighbours are known"
        if reason is not None:
            self.skipped = (*self.skipped, Skipped(path=path, reason=reason))
            self._refused.add(path)
            return None
        self._numbers[path] = number = len(self.slices)
        item = Slice(index=number, name=path.stem, where=str(path), identity=identity)
        self.slices.append(item)
        self._version += 1
        return item

    def _renew(self, path: Path, identity: str) -> Slice:
        """Remember under which identity a slice is handed out again."""
        number = self._numbers[path]
        has_come_or_gone = _GONE in (identity, self.slices[number].identity)
        self.slices[number] = replace(self.slices[number], identity=identity)
        self._version += has_come_or_gone
        return self.slices[number]

    def _take_damaged(self, outcome: Outcome | None) -> Iterator[Slice]:
        for path, identity in list(self._damaged.items()):
            if path in self._numbers:
                if self._is_stale(path, identity, outcome):
                    yield self._renew(path, identity)
            elif (item := self._take(path, identity)) is not None:
                yield item
