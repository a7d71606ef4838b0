"""A run as one HTML page: what was labelled, how it looks, what it amounts to, and how it came about.

```
 report.json, ledger, origin ──> record ─┐
                                         ├──> build ──> report.html
 chosen slices and labels ──> slices ────┘
```
"""

from matseg_runtime.page.build import write_run_page
from matseg_runtime.page.record import RunRecord, find_run, read_run
from matseg_runtime.run.summary import PAGE_NAME

__all__ = ["PAGE_NAME", "RunRecord", "find_run", "read_run", "write_run_page"]
