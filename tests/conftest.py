"""One thread per process: the suite runs in parallel, and small inputs gain nothing from more.

Few pages: they take time.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MATSEG_REPORT", "0")  # of pages only their own tests want to see any
