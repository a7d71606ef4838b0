"""Ctrl-C, and the signal with which schedulers announce the end of a job, so that neither is ever lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a destructor or a callback of C code that
only prints a line, and the work goes on as if nobody had asked; in the middle of an import it may come out as an
ImportError. So requests are counted as well as raised, and long work asks for the count.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Requests:
    """Signals belong to the process, and so does this; changed by the main thread only."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.held_back = False
        self.replaced: dict[signal.Signals, Any] = {}
        """Handlers to be put back; not empty while requests are counted."""

    def receive(self, number: int, frame: object) -> None:
        del number, frame
        self.asked += 1
        if not self.held_back:
            raise KeyboardInterrupt

    def listen(self, kind: signal.Signals) -> None:
        before = signal.getsignal(kind)
        if before in (signal.SIG_DFL, signal.default_int_handler):  # not one that is ignored, as by `nohup`
            self.replaced[kind] = before
            signal.signal(kind, self.receive)


_requests = _Requests()


def _is_main() -> bool:
    """True in the thread that signals come to, which alone may set their handlers."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def counted() -> Iterator[None]:
    """Count Ctrl-C for the length of the block, and raise KeyboardInterrupt as ever."""
    if not _is_main() or _requests.replaced:
        yield
        return
    _requests.listen(signal.SIGINT)
    try:
        yield
    finally:
        _requests.asked = _requests.answered = 0
        for kind, handler in _requests.replaced.items():
            signal.signal(kind, handler)
        _requests.replaced.clear()


def heed_termination() -> None:
    """Take SIGTERM for Ctrl-C, to the end of `counted`."""
    if _is_main():
        _requests.listen(signal.SIGTERM)


def is_pending() -> bool:
    """True when an interruption was asked for that nobody has acted upon."""
    return _requests.asked > _requests.answered


def check() -> None:
    """Raise what was lost.

    Raises:
        KeyboardInterrupt: an interruption was asked for that nobody has acted upon.
    """
    if _is_main() and not _requests.held_back and is_pending():
        raise KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[Callable[[], int]]:
    """Raise no KeyboardInterrupt in the block, which is to ask for their number and to act upon them itself.

    The function that it is given returns how many there were, those included that were lost before.
    """
    if not _is_main():
        yield lambda: 0
        return
    with counted():
        before = _requests.held_back
        answered = _requests.answered
        _requests.held_back = True
        try:
            yield lambda: _requests.asked - answered
        finally:
            _requests.answered = _requests.asked
            _requests.held_back = before
