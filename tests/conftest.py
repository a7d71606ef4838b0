"""One thread per process: the suite runs in parallel, and small inputs gain nothing from more."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
