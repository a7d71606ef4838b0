"""How uncertain each slice is, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from matseg_runtime.records import SliceRecord
from matseg_runtime.suggest.choose import Chosen
from matseg_runtime.suggest.uncertainty import FULL
from matseg_shared.system.files import write_text

CSV_NAME = "uncertainty.csv"


def write_scores(
    path: Path, records: Sequence[SliceRecord], chosen: Sequence[Chosen], first: int = 0
) -> None:
    """Write a CSV: a row per slice.

    Columns: slice; position in the input, from 0; score, the share of pixels in doubtful places; unsureness, the mean
    of one minus the probability of the best class; and how often the slice was chosen, whole or for crops.

    Args:
        path: of the table.
        records: of all slices.
        chosen: of them.
        first: place in the input of the first slice.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["slice", "position", "score", "unsureness", "chosen"])
    for record in records:
        found = record.uncertainty
        assert found is not None, "every slice is measured before the table is written"
        pixels = record.shape[0] * record.shape[1]
        times = sum(item.record.name == record.name for item in chosen)
        scores = (found.doubtful / pixels, found.unsureness / FULL / pixels)
        writer.writerow([record.name, first + record.index, *(f"{score:.6g}" for score in scores), times])
    write_text(path, text.getvalue())
