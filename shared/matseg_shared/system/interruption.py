"""Ctrl-C, and the signal with which schedulers announce the end of a job, so that neither is ever lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a destructor or a callback of C code that
only prints a line, and the work goes on as if nobody had asked; in the middle of an import it may come out as an
ImportError. So requests are counted as well as raised, and long work asks for the count.

Python's own import functions are worse: raised between their taking a lock and the `try` that gives it back, it leaves
the lock taken, and every thread that imports something waits for ever. A signal that comes there is sent again.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_DELAY_SECONDS = 0.001
_IMPORTS = "<frozen importlib._bootstrap>"
"""The file of the functions that take these locks, as their frames have it."""


class _Requests:
    """Signals belong to the process, and so does this; changed by the main thread only."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.held_back = False
        self.replaced: dict[signal.Signals, Any] = {}
        """Handlers to be put back; not empty while requests are counted."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        if not self.held_back and frame is not None and frame.f_code.co_filename == _IMPORTS:
            _thread.start_new_thread(_send_again, (number,))  # threading would take a lock of its own
            return
        self.asked += 1
        if not self.held_back:
            raise KeyboardInterrupt

    def listen(self, kind: signal.Signals) -> None:
        before = signal.getsignal(kind)
        if before in (signal.SIG_DFL, signal.default_int_handler):  # not one that is ignored, as by `nohup`
            self.replaced[kind] = before
            signal.signal(kind, self.receive)


def _send_again(number: int) -> None:
    time.sleep(_DELAY_SECONDS)
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:  # which a call that waits hears as well
        signal.pthread_kill(threading.main_thread().ident or 0, number)


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
