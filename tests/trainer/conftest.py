"""The data set `discs`, and one export per network for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from discs import workspace

__all__ = ["workspace"]


@pytest.fixture(scope="session", autouse=True)
def _one_export_per_network() -> Iterator[None]:
    """See `exports`."""
    from exports import remembered

    from matseg_trainer.export import export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", remembered(export.to_onnx))
        yield
