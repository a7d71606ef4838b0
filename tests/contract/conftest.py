"""All networks as exported files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from checkpoints import Exported, make_checkpoint
from exports import one_export_per_network

from matseg_trainer.export.export import export_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _one_export_per_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """See `exports`."""
    with one_export_per_network(tmp_path_factory):
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Export a network once for all tests of this process."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            checkpoint = make_checkpoint(name)
            result = export_checkpoint(checkpoint, folder / f"{name}.onnx")
            made[name] = Exported(checkpoint=checkpoint, path=result.path)
        return made[name]

    return get
