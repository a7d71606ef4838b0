"""The data set `discs`, and one export per network for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from discs import workspace

__all__ = ["workspace"]


@pytest.fixture(scope="session", autouse=True)
def _one_export_per_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """See `exports`."""
    from exports import one_export_per_network

    with one_export_per_network(tmp_path_factory):
        yield
