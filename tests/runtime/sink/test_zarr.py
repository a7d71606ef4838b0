"""Chunks of a zarr output that a crash has torn, and those that a lack of memory must not cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import zarr

from matseg_runtime.inference.session import Segmentation
from matseg_runtime.sink.base import Block, LabelInfo, LabelVolume, Result
from matseg_runtime.sink.multiscale import alone
from matseg_runtime.sink.zarr import ZarrSink
from matseg_runtime.source.base import Slice, Spacing

SLICES = tuple(Slice(index=index, name=f"s{index}", where=f"s{index}", identity="") for index in range(2))
BLOCK = Block(number=0, slices=SLICES)


@pytest.fixture
def sink(tmp_path: Path) -> ZarrSink:
    volume = LabelVolume(shape=(4, 40, 52), axis=0, spacing=Spacing(scale=(1.0,) * 3, translation=(0.0,) * 3))
    info = LabelInfo(metadata=onnx_models.build_metadata(), provenance="{}")
    made = ZarrSink(
        tmp_path / "labels.zarr", volume, info, alone(volume, pyramid=False), block=2, shards=True
    )
    made.start()
    return made


def _results(label: int) -> list[Result]:
    labels = np.full((40, 52), label, np.uint8)
    return [Result(slice=item, identity="", segmentation=Segmentation(labels=labels)) for item in SLICES]


def test_a_torn_shard_is_written_anew(sink: ZarrSink) -> None:
    sink.write(BLOCK, _results(1))
    shard = sink.partial / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-9])
    sink.write(BLOCK, _results(2))
    assert (np.asarray(zarr.open_array(str(sink.partial), path="0", mode="r")[:2]) == 2).all()


def test_a_lack_of_memory_deletes_no_chunk(sink: ZarrSink, monkeypatch: pytest.MonkeyPatch) -> None:
    sink.write(BLOCK, _results(1))
    shard = sink.partial / "0" / "c" / "0" / "0" / "0"
    before = shard.read_bytes()

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(zarr.Array, "__setitem__", fail)
    with pytest.raises(MemoryError):
        sink.write(BLOCK, _results(2))
    assert shard.read_bytes() == before
