"""Plans: what fits into memory, cut as evenly as it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matseg_runtime.run.options import parse_range
from matseg_runtime.run.plan import Plan, PlanConstraints, Planner, Probe
from matseg_runtime.source.base import InputIdentity, Slice, Source, Volume
from matseg_runtime.units import parse_size
from matseg_shared.contract.tiling import plan_tiles
from matseg_shared.errors import UsageError

BASE = 100_000_000


class _Volume(Source):
    """Slices that are never read."""

    def __init__(self, depth: int, shape: tuple[int, int], chunk: int, decoding: int) -> None:
        self.location, self.beside = "scan.zarr", Path("scan")
        self.identity = InputIdentity(kind="zarr", name="scan.zarr", content="")
        self.slices = tuple(Slice(index=n, name=str(n), where="", identity="") for n in range(depth))
        self.volume = Volume(
            shape=(depth, *shape),
            axis=0,
            start=0,
            dtype="uint8",
            channels=1,
            slices_per_chunk=chunk,
            decoding_bytes=decoding,
            kept_bytes=chunk * shape[0] * shape[1],
        )

    def neighbours(self, index: int, context: int) -> tuple[Slice, ...]:  # noqa: ARG002 (the base class's)
        raise AssertionError("a plan reads nothing")

    def read(self, start: int, stop: int) -> list[np.ndarray]:  # noqa: ARG002 (the base class's)
        raise AssertionError("a plan reads nothing")


def _plan(
    shape: tuple[int, int],
    memory: int,
    *,
    depth: int = 100,
    chunk: int = 1,
    decoding: int = 0,
    streams: int = 2,
    **constraints: object,
) -> Plan:
    return Planner(
        source=_Volume(depth, shape, chunk, decoding),
        metadata=onnx_models.build_metadata(),
        shape=shape,
        probe=Probe(bytes_per_pixel=1000, base=BASE),
        constraints=PlanConstraints(memory=memory, **constraints),  # type: ignore[arg-type]
        streams=streams,
        on_cpu=True,
    ).plan()


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    memory=st.integers(200, 20_000),
    chunk=st.integers(1, 40),
    decoding=st.integers(0, 500),
    streams=st.integers(1, 4),
)
def test_no_plan_exceeds_its_memory(
    height: int, width: int, memory: int, chunk: int, decoding: int, streams: int
) -> None:
    try:
        plan = _plan((height, width), memory * 10**6, chunk=chunk, decoding=decoding * 10**6, streams=streams)
    except UsageError as error:
        assert "give at least --memory" in str(error)  # noqa: PT017 (either outcome is right)
        return
    assert plan.memory <= memory * 10**6
    assert plan.block_bytes >= decoding * 10**6
    assert plan.tiles == len(plan_tiles((height, width), plan.largest_tile, halo=16, stride=4))


@pytest.mark.parametrize(
    "constraints",
    [{}, {"chunk": 40}, {"chunk": 48, "decoding": 300 * 10**6}, {"batch": 40}, {"chunked_output": True}],
)
def test_the_memory_that_an_error_asks_for_suffices(constraints: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--memory") as caught:
        _plan((2000, 2000), 110_000_000, **constraints)
    asked = str(caught.value).rpartition("--memory ")[2]
    assert _plan((2000, 2000), parse_size(asked), **constraints).tiles > 1


def test_a_slice_that_fits_is_one_tile() -> None:
    plan = _plan((852, 852), 8 * 10**9)
    assert (plan.tile, plan.tiles, plan.workers.inferrers) == (None, 1, 2)
    assert plan.overhead < 0.01


def test_tiles_are_cut_evenly() -> None:
    plan = _plan((852, 852), 700 * 10**6)
    assert plan.tiles > 1
    assert plan.overhead < 0.35


def test_chunks_decide_the_unit_unless_memory_is_short() -> None:
    assert _plan((500, 500), 10**10, chunk=20).depth == 20
    assert _plan((500, 500), 10**10, chunk=4, chunked_output=True).depth == 16
    assert _plan((500, 500), 10**10, chunk=24, chunked_output=True).depth == 24
    assert 1 <= _plan((500, 500), 200 * 10**6, chunk=20).depth < 20
    assert _plan((500, 500), 10**10, depth=5, chunk=20).depth == 5


def test_deep_chunks_are_read_in_thinner_blocks_beside_which_decoders_and_the_rest_of_a_layer_fit() -> None:
    """A chunk of 48 slices of 1024 x 1024 pixels, 16 bit, is held twice, and once more what is kept of it."""
    layer = 48 * 1024 * 1024
    plan = _plan((1024, 1024), 900 * 10**6, depth=96, chunk=48, decoding=2 * layer, tile=(256, 256))
    assert plan.depth < 48
    assert plan.memory <= 900 * 10**6
    assert plan.block_bytes > 3 * layer
    with pytest.raises(UsageError, match="give at least --memory"):
        _plan((1024, 1024), BASE + 3 * layer, depth=96, chunk=48, decoding=2 * layer, tile=(256, 256))


def test_an_earlier_run_decides_how_the_job_is_cut() -> None:
    plan = _plan((500, 500), 10**10, chunk=20, depth=7, tile=(120, 80))
    assert (plan.depth, plan.tile) == (7, (120, 80))


@pytest.mark.parametrize(
    "constraints", [{"tile": (1000, 1000)}, {"whole_slices": True}, {"tile": (200, 200), "batch": 40}]
)
def test_a_limit_of_memory_goes_before_tiles_that_are_asked_for_or_begun_with(
    constraints: dict[str, Any],
) -> None:
    with pytest.raises(UsageError, match=r"in tiles of .* give at least --memory") as caught:
        _plan((1200, 1200), 600_000_000, **constraints)
    asked = parse_size(str(caught.value).rpartition("--memory ")[2])
    plan = _plan((1200, 1200), asked, **constraints)
    assert 600_000_000 < plan.memory <= asked
    assert plan.tile == constraints.get("tile")


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500M", 5 * 10**8), ("1.5 GiB", 3 << 29), ("4096", 4096), ("8kb", 8000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "2 bananas", "1e9"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size"):
        parse_size(text)


def test_ranges() -> None:
    assert parse_range("3:7") == (3, 7)
    assert parse_range(":7") == (None, 7)
    assert parse_range("3:") == (3, None)
    for text in ("3", "a:b", "3:7:2", "-3:7"):
        with pytest.raises(UsageError, match="expected START:STOP"):
            parse_range(text)
