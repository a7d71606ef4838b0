"""One thread per process: the suite runs in parallel, and small inputs gain nothing from more.

Few pages: they take time. Ctrl-C works in the programs that tests start, even where the suite was told to ignore it.
"""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import onnxruntime without our own care for that
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of commands would compile all that they import
os.environ.setdefault("MATSEG_REPORT", "0")  # of pages only their own tests want to see any

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
